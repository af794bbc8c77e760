"""docs/paper.md: its figures are those of the twins and of the paper, and its verdicts follow from them."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "paper.md").read_text()
VERDICTS = re.findall(r"^\| \*\*([^*]+)\*\* \| [^|]+ \|$", PAGE, re.MULTILINE)
ROWS = [[cell.strip() for cell in line.split("|")[1:-1]] for line in PAGE.splitlines() if line.count("|") > 5]
LINK = re.compile(r"\[([^\]]*)\](\([^)]*\)|\[paper\]|: \S+)")
LEADS = re.compile(r"\[([^\]]*)\]\([^)]*metric=\w+_lead[^)]*\)")


def leads(cell):
    """Ends of the intervals of the differences in a cell."""
    found = re.findall(r"([+-][\d.]+)(?:\s±\s([\d.]+))?", " ".join(LEADS.findall(cell)))
    return [(float(mean) - float(half or 0), float(mean) + float(half or 0)) for mean, half in found]


@pytest.fixture
def paper(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import paper

    return paper


def test_every_figure_is_what_the_twins_and_the_paper_say(paper):
    assert len(paper.FIGURE.findall(PAGE)) > 100
    for line, anew in zip(PAGE.splitlines(), paper.fill(PAGE).splitlines(), strict=True):
        assert line == anew, "`python -m benchmarks.paper` writes the figures anew"


def test_a_figure_is_one_row_for_each_sparsity(paper):
    for link, title, value in (
        (paper.PAPER, "experiment=speech method=rtl minus=imp metric=si_snri", "+0.363 / +0.208 / +0.025"),
        (paper.PAPER, "experiment=cifar10 method=imp_per_subset metric=union", "944,000 / 629,000 / 314,000"),
        ("results/inr.md", "preset=quick method=imp metric=psnr sparsity=0.5", "36.42 ± 2.14 (n = 3 × 10)"),
        (
            "results/semantics.md",
            "experiment=cifar10 preset=paper depth=deep removed=0.5 show=p",
            "0.005 (n = 1)",
        ),
        ("results/collapse.md", "experiment=digits rule=stop* show=lead", "3"),
    ):
        filled = paper.fill(f'of [?]({link} "{title}") dB').replace(paper.NO_BREAK, " ")
        assert filled == f'of [{value}]({link} "{title}") dB'
    for title in (
        "method=rtl metric=aucc",
        "method=rtl metric=union",
    ):  # in no row, in those of three presets
        with pytest.raises(ValueError, match="name one for each sparsity"):
            paper.fill(f'[?](results/cifar10.md "{title}")')


def test_no_decimal_stands_without_its_source():
    words = LINK.sub("", re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL))
    assert re.findall(r".*\d\.\d.*", words) == []


def test_verdicts_are_the_words_of_the_table_and_follow_from_the_leads():
    assert len(VERDICTS) == 6
    checked = set()
    for *cells, last in ROWS:
        verdicts = re.findall(r"\*\*([^*]+)\*\*", last)
        assert {*verdicts} <= {*VERDICTS}, last
        ours = [found for found in map(leads, cells[3:]) if found]
        if verdicts and ours:
            ahead = [[low > 0 for low, _ in found] for found in ours]  # in the paper's reading, like for like
            assert {
                "holds": all(map(all, ahead)),
                "holds in the paper's reading alone": all(ahead[0]) and not any(ahead[-1]),
                "holds in part": any(ahead[-1]) and not all(ahead[-1]),
                "not told apart": any(low <= 0 <= high for low, high in ours[-1]),
                "does not hold": not any(ahead[-1]),
            }[verdicts[0]], (cells, last)
            checked.add(verdicts[0])
    assert len(checked) > 3, "verdicts of most kinds stand beside leads"


def test_claims_are_numbered_and_their_commands_are_those_of_the_pages():
    numbers = [int(row[0]) for row in ROWS if row[0].isdigit()]
    assert numbers == [*range(1, len(numbers) + 1)]
    assert len(numbers) > 30
    pages = "\n".join(page.read_text() for page in (ROOT / "docs" / "results").glob("*.md"))
    for block in re.findall(r"```\n(.*?)```", PAGE, re.DOTALL):
        for command in re.split(r"\n(?=tombola)", block.strip()):
            assert command in pages, command
    for link in re.findall(r"\]\(((?:results/)?[\w]+\.md)", PAGE):
        assert (ROOT / "docs" / link).exists(), link
