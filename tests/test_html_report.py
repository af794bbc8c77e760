"""The page of runs: as it is kept, with the numbers of `tombola.results`, sound where runs are odd."""

import html
import itertools
import json
import re
import shlex
import wave

import golden
import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

import tombola
from tombola import TicketModel, scope
from tombola._utils.errors import RunError, UsageError
from tombola.lab.experiments import EXPERIMENTS
from tombola.lab.report import kept
from tombola.lab.report.again import commands
from tombola.lab.report.blocks import LARGEST, Shelf
from tombola.lab.report.charts import Axis, heat, lines
from tombola.lab.report.findings import Ran, gather
from tombola.lab.report.html import page, write_report
from tombola.lab.report.rows import Spread, difference, rows, spread
from tombola.lab.report.tables import share, tables
from tombola.lab.report.verdicts import Ahead, Headline, Verdict, differences, sentences, verdicts
from tombola.objectives.metrics import metric_info
from tombola.settings import Settings

THREE = ("top", "middle", "bottom")
QUICK = EXPERIMENTS["cifar10"].presets["quick"].settings
LIKE = "like_for_like"


def write_run(
    path, seed=0, tickets=THREE, methods=("rtl", "imp", "dense"), lead=0.05, skip=(), steps=200, **config
):
    """A run as `tombola run` leaves it, without training: ``rtl`` is ``lead`` above ``imp``."""
    path.mkdir(parents=True)
    metadata = {"experiment": "cifar10", "preset": "quick", "seed": seed, "source": "cifar", "augment": False}
    metadata |= {"tune": False, "settings": QUICK.plain(), "methods": list(methods), **config}
    (path / "config.yaml").write_text(yaml.safe_dump(metadata, sort_keys=False))
    (path / "environment.json").write_text(json.dumps({"torch": "2.6", "threads": 1, "processor": "<b>&"}))
    records, g = [], np.random.default_rng(seed)
    for method in methods:
        for sparsity in [0.0] if method == "dense" else metadata["settings"]["sparsity"]:
            if (method, sparsity) in skip:
                continue
            records += _outcome(method, sparsity, tickets, g, lead if method == "rtl" else 0.0, steps)
    for r, sparsity in enumerate(metadata["settings"]["sparsity"]):
        head = {"event": "prune", "stage": f"search-own-{sparsity}", "round": r, "kept": 10}
        records += [{**head, "ticket": t, "loss": 0.5 - 0.1 * r} for t in tickets]
    (path / "records.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return path


def _outcome(method, sparsity, tickets, g, lead, steps):
    head = {"method": method, "sparsity": sparsity}
    names = tickets if method == "rtl" else ["all"]
    train = {"event": "retrain", "stage": f"train-{method}-{sparsity}"}
    each = itertools.product(range(1, steps + 1), names)
    yield from ({**train, "step": s, "ticket": t, "loss": 1 / s} for s, t in each)
    for reading, metric in (("paper", "balanced_accuracy"), ("like_for_like", "auc")):
        values = 0.7 + lead + 0.01 * g.random(len(tickets))
        row = {"event": "metric", **head, "reading": reading, "metric": metric}
        yield {**row, "value": float(values.mean())}
        yield from ({**row, "ticket": t, "value": float(v)} for t, v in zip(tickets, values, strict=True))
    counts = {"core": 50, "union": 80, "private": 30, "dense_rest": 7, "mask_bytes": 12, "file_bytes": 900}
    yield from ({"event": "metric", **head, "metric": name, "value": n} for name, n in counts.items())


def write_tickets(run, convnet, random_masks, names=THREE):
    """Ticket files of rtl, so that layers and similarity can be drawn."""
    for i, sparsity in enumerate(QUICK.sparsity):
        masks = random_masks(scope(convnet), names, 1 - sparsity, seed=i)
        TicketModel(convnet, masks).save(run / "tickets" / f"rtl-{sparsity}.tickets")


@pytest.fixture
def three(tmp_path, convnet, random_masks):
    runs = [write_run(tmp_path / "runs" / f"seed{seed}", seed) for seed in range(3)]
    write_tickets(runs[0], convnet, random_masks)
    return runs


def words(text):
    """What a reader sees of a page."""
    shown = re.sub(r"<(style|script).*?</\1>|<[^>]+>", " ", text, flags=re.DOTALL)
    return " ".join(html.unescape(shown).split())


def charts(text):
    """Of every chart on a page its title and the rows of its data, as the script of the page unpacks them."""
    found = {}
    for figure in re.findall(r'<figure class="chart">(.*?)</figure>', text, re.DOTALL):
        title = html.unescape(re.search(r"<figcaption>(.*?)</figcaption>", figure)[1])
        spec = json.loads(re.search(r"<script[^>]*>(.*?)</script>", figure)[1])
        found[title] = []
        for columns in spec["datasets"].values():
            cells = [[values[i] for i in at] for values, at in columns.values()]
            found[title] += [dict(zip(columns, row, strict=True)) for row in zip(*cells, strict=True)]
    return found


# -- the whole, and its numbers ---------------------------------------------------------------------------


def test_a_page_and_its_rows_are_those_that_are_kept(tmp_path, convnet, random_masks):
    runs = [write_run(tmp_path / f"seed{s}", s, ("top", "<out>"), ("rtl", "imp"), steps=2) for s in (0, 1)]
    write_tickets(runs[0], convnet, random_masks, ("top", "<out>"))
    (tmp_path / "routing.json").write_text(json.dumps(routed_rows()))
    (tmp_path / "precision.json").write_text(json.dumps(calibrated_rows()))
    text = page(runs)
    plain = re.sub(r"(<(style|script)[^>]*>).*?</\2>", r"\1</\2>", text, flags=re.DOTALL)
    assert re.findall('https?://[^"]*', plain) == ["https://arxiv.org/abs/2601.22141"]
    golden.check("report.html", plain.replace(tombola.__version__, "VERSION").replace("><", ">\n<"))
    rounded = [{k: round(v, 9) if isinstance(v, float) else v for k, v in r.items()} for r in rows(runs)]
    golden.check("compare.json", "\n".join(map(json.dumps, rounded)) + "\n")


def test_the_numbers_of_charts_and_tables_are_those_of_the_results(three):
    frame, text = tombola.results(three), page(three)
    drawn, seen = charts(text), words(text)
    for title, metric, reading in (
        ("Balanced accuracy, the paper's reading", "balanced_accuracy", "paper"),
        ("AUC, like for like", "auc", LIKE),
    ):
        mine = frame[(frame.metric == metric) & (frame.reading == reading)]
        means = mine[mine.ticket == ""].groupby(["method", "sparsity"]).value.agg(["mean", "sem"])
        points = {(p["series"], p["x"]): p for p in drawn[title] if p["kind"] == "measured"}
        assert {key: points[key]["y"] for key in means.index} == pytest.approx(means["mean"].to_dict())
        half = {key: points[key]["high"] - points[key]["y"] for key in means.index}
        assert half == pytest.approx((means["sem"] * 4.302653).to_dict())  # Student's t of three seeds
        assert all(share(mean) in seen for mean in means["mean"])
        by_ticket = mine[mine.ticket != ""].groupby(["method", "sparsity", "ticket"]).value.mean()
        dotted = {(p["method"], p["ticket"]): p["mean"] for p in drawn[f"{title}, 50% removed"]}
        assert dotted == pytest.approx({(m, t): v for (m, s, t), v in by_ticket.items() if s in (0.0, 0.5)})
    paper = [p for p in drawn["Balanced accuracy, the paper's reading"] if p["kind"] == "in the paper"]
    known = {key: figures["balanced_accuracy"] for key, figures in EXPERIMENTS["cifar10"].paper.items()}
    assert {(p["series"], p["x"]): p["y"] for p in paper}.items() <= known.items()
    assert {p["series"] for p in paper} == {"rtl", "imp"}
    assert max(len(each) for name, each in drawn.items() if "Loss in training, rtl" in name) == 3 * 60
    assert all(cell in seen for table in tables(rows(three)) for line in table.body for cell in line)


def test_the_differences_are_the_leads_of_the_rows(three):
    made = differences(verdicts(gather(("cifar10", "quick"), three), EXPERIMENTS["cifar10"].paper), "seeds")
    lead = next(
        r
        for r in rows(three)
        if (r["metric"], r["sparsity"]) == ("balanced_accuracy_lead", 0.5)
        and (r["method"], r["reading"]) == ("rtl", "paper")
    )
    assert made.title == "How far rtl is ahead of each: means over 3 seeds, ± half the 95% interval"
    assert made.header == ["against", "by", "25%", "50%", "75%"]
    assert [line[0] for line in made.body] == ["imp", "in the paper", "dense", "imp", "dense"]
    assert made.body[0][3] == f"▲ +{share(lead['mean'])} ± {share(lead['ci95'])}"
    assert made.body[1][2:] == ["+0.070", "+0.067", "+0.040"]
    assert "In the paper's reading (balanced accuracy), rtl leads imp and dense throughout." in words(
        page(three)
    )


def test_a_mean_of_fewer_runs_says_so(three):
    lines = (three[0] / "records.jsonl").read_text().splitlines(keepends=True)
    (three[0] / "records.jsonl").write_text("".join(line for line in lines if '"imp"' not in line))
    shown = words(page(three)).partition("numbers stored")[2].partition("Next")[0]
    assert shown.count("(n = 2)") == 2  # imp in both readings


def test_what_certainly_leads_is_to_be_asked_next(tmp_path):
    runs = [write_run(tmp_path / f"seed{seed}", seed, lead=-0.05) for seed in range(3)]
    (runs[0] / "tickets").mkdir()
    (runs[0] / "tickets" / "imp-0.5.tickets").touch()
    text = words(page(runs))
    assert "Like for like (AUC), rtl trails imp and dense throughout." in text
    assert "Next, ask imp: tombola predict RUN/tickets/imp-0.5.tickets INPUT" in text


def test_equal_records_give_equal_bytes(three, tmp_path):
    write_report([tmp_path / "runs"], tmp_path / "a.html")
    made = write_report(reversed(three), tmp_path / "b.html")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    assert made["bytes"] == (tmp_path / "b.html").stat().st_size < 3_000_000
    assert str(tmp_path) not in (tmp_path / "a.html").read_text()


# -- odd runs ---------------------------------------------------------------------------------------------


def test_one_seed_claims_nothing_and_asks_for_more(tmp_path):
    text = words(page([write_run(tmp_path / "run")]))
    assert text.count("One seed: a direction, not a claim.") == 1
    assert "rtl is above imp and dense throughout." in text
    assert "leads" not in text
    assert not re.search("[▲▼] [+-]", text)
    assert "Next, more seeds" in text


def test_many_tickets_have_thin_lines_and_their_mean(tmp_path):
    text = page([write_run(tmp_path / "run", tickets=[f"ticket {k}" for k in range(20)], steps=2)])
    drawn = charts(text)["Loss in training, rtl, 50% removed"]
    assert [p["y"] for p in drawn if p["series"] == "mean of 20 tickets"] == [1.0, 0.5]


def test_a_run_that_just_began_has_a_page(tmp_path):
    run = write_run(tmp_path / "run")
    (run / "records.jsonl").write_text("")
    text = words(page([run]))
    assert "Nothing was judged yet" in text
    assert "No loss was recorded yet." in text
    assert "tombola run cifar10" in text


def test_ticket_files_that_cannot_be_read_are_named_and_the_next_run_is_read(three, convnet, random_masks):
    write_tickets(three[1], convnet, random_masks)
    assert "Next, ask rtl: tombola predict RUN/tickets/rtl-0.5.tickets INPUT" in words(page(three))
    file = three[0] / "tickets" / "rtl-0.25.tickets"
    file.write_bytes(file.read_bytes()[:-8])
    text = words(page(three))
    assert "Ticket files that could not be read: seed 0:" in text
    assert "ticket files of seed 1" in text


def test_experiments_have_sections_of_their_own_and_their_answers_at_the_top(three, tmp_path):
    own = write_run(tmp_path / "mine" / "seed0", experiment=None, preset=None, methods=["rtl", "twin"])
    photographs = [
        write_run(tmp_path / "p" / item / "seed0", experiment="digits", item=item) for item in ("a", "b")
    ]
    text = page([*three, own, *photographs])
    found = words(text)
    assert text.count("<h2 id=") == 3
    assert found.index("rtl leads imp and dense throughout") < found.index("The answer")
    assert "Made by a program of your own" in found
    assert "Items, each with a network of its own: 2." in found
    assert "twin (control)" in found


def test_what_is_no_run_is_refused(three, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match="no run and holds none"):
        write_report([tmp_path / "empty"], tmp_path / "x.html")
    with pytest.raises(RunError, match="both seed 0"):
        write_report([*three, write_run(tmp_path / "again")], tmp_path / "x.html")
    with pytest.raises(UsageError, match=r"NAME\.html"):
        write_report(three, tmp_path / "x.pdf")
    with pytest.raises(UsageError, match="at least one"):
        write_report([], tmp_path / "x.html")
    assert not list(tmp_path.glob("x.*"))


def test_recorded_similarity_is_shown_by_round_and_depth(tmp_path):
    run = write_run(tmp_path / "run")
    with (run / "records.jsonl").open("a") as file:
        for r, density in enumerate((0.75, 0.5, 0.25)):
            for kind, depth in itertools.product(("jaccard", "kappa"), ("all", "deep")):
                matrix = (np.full((3, 3), density) + np.eye(3) * (1 - density)).tolist()
                row = {"event": "similarity", "stage": f"search-own-{1 - density}", "round": r, "kind": kind}
                file.write(json.dumps({**row, "depth": depth, "density": density, "matrix": matrix}) + "\n")
    drawn = charts(page([run]))
    cells = drawn["kappa, deep layers"]
    states = ["25% removed, round 1", "50% removed, round 2", "75% removed, round 3"]
    assert list(dict.fromkeys(cell["state"] for cell in cells)) == states
    assert [c["value"] for c in cells if (c["row"], c["column"]) == ("top", "middle")] == [0.75, 0.5, 0.25]
    assert [name for name in drawn if name.endswith("against similarity")]


def test_a_chart_says_in_words_and_a_table_what_it_shows():
    frame = pd.DataFrame([[1, 0.25], [0.5, float("nan")]], ["a", "b"], ["a", "b"])
    made = heat("T", {"": frame}, Axis("kappa", share))
    assert made.about == "T, 2 rows, 2 columns. Least 0.250 (a, b), greatest 0.500 (b, a)."
    assert made.table.body == [["a", "1.000", "0.250"], ["b", "0.500", ""]]
    assert "NaN" not in made.spec
    points = [("imp", "measured", 0.5, 0.8, 0.01), ("imp", "measured", 0.9, 0.7, (0.6, 0.75))]
    made = lines("T", [*points, ("dense", "control", 0.5, 0.9, None)], Axis("x", str), Axis("y", share))
    assert made.about == "T: y over x. Least 0.700 (imp at 0.9), greatest 0.900 (dense at 0.5)."
    assert made.table.header == ["x", "0.5", "0.9"]
    assert made.table.body == [
        ["imp", "0.800 ± 0.010", "0.700 (0.600 to 0.750)"],
        ["dense, control", "0.900", ""],
    ]


# -- verdicts ---------------------------------------------------------------------------------------------


PAPER, *LIKES = (
    Headline(reading, metric_info(name))
    for reading, name in (("paper", "balanced_accuracy"), (LIKE, "auc"), (LIKE, "accuracy"))
)


def spreads(*values):
    return [Ahead(0.25 * (i + 1), Spread(mean, half, 3)) for i, (mean, half) in enumerate(values)]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([(0.1, 0.05)], "leads imp."),
        ([(-0.1, 0.05), (-0.2, 0.1)], "trails imp throughout."),
        ([(0.1, 0.05), (0.1, 0.2)], "leads imp at 1 of 2 sparsities."),
        ([(0.1, 0.2)], "shows no certain difference from imp."),
        ([(0.1, 0.05), (-0.1, 0.05)], "leads imp at 1 but trails at 1 of 2 sparsities."),
        ([(0.1, None)], "is above imp."),
        ([(-0.1, None), (-0.2, None)], "is below imp throughout."),
        ([(0.1, None), (0.1, 0.05)], "leads imp at 1 of 2 sparsities."),
        ([(0.0, None)], "shows no difference from imp."),
    ],
)
def test_a_sentence_claims_what_its_intervals_carry(values, words):
    said, how_sure = sentences([Verdict(PAPER, "rtl", "imp", spreads(*values))])
    assert said == f"In the paper's reading (balanced accuracy), rtl {words}"
    one = all(half is None for _, half in values)
    assert how_sure.startswith("One seed" if one else "“Leads” and “trails” are said only where")


def test_a_reading_has_one_sentence_and_rivals_of_one_outcome_share_it():
    lead, trail = spreads((0.1, 0.05)), spreads((-0.1, 0.05))
    made = [Verdict(h, "rtl", "imp", lead) for h in LIKES]
    made += [Verdict(h, "rtl", "dense", each) for h, each in zip(LIKES, (lead, trail), strict=True)]
    made += [Verdict(h, "rtl", "snip", lead) for h in LIKES]
    made += [Verdict(h, "rtl", "twin", trail) for h in LIKES]  # a control is in the table only
    outcomes = "leads imp and snip throughout, and leads dense in 1 but trails in 1 of 2 comparisons"
    assert sentences(made)[0] == f"Like for like (AUC, accuracy), rtl {outcomes}."
    assert differences(made, "seeds").body[-1][0] == "twin (control)"


def test_differences_are_within_an_item_and_a_seed():
    ours = {("a", 0): 2.0, ("a", 1): 4.0, ("b", 0): 5.0}
    theirs = {("a", 0): 1.0, ("a", 1): 1.0, ("c", 0): 9.0}
    found = spread(difference("auc", ours, theirs))
    assert (found.mean, found.count) == (2.0, 2)
    assert difference("brier", ours, theirs) == {("a", 0): -1.0, ("a", 1): -3.0}  # less is better
    assert spread(difference("auc", ours, {("c", 0): 1.0})) is None


def test_the_papers_lead_stands_in_its_reading_only(three):
    made = verdicts(gather(("cifar10", "quick"), three), EXPERIMENTS["cifar10"].paper)
    by_metric = {(v.headline.info.name, v.theirs): [a.printed for a in v.ahead] for v in made}
    assert by_metric["balanced_accuracy", "imp"] == pytest.approx([0.07, 0.067, 0.04])
    assert by_metric["balanced_accuracy", "dense"] == [None] * 3
    assert by_metric["auc", "imp"] == [None] * 3


def test_figures_of_the_paper_are_not_beside_a_stand_in(tmp_path):
    run = write_run(tmp_path / "run", experiment="cifar100", source=None)
    text = words(page([run]))
    assert "(on digits)" in text
    assert "in the paper" not in text.replace("In the paper", "")


# -- pictures and sounds ----------------------------------------------------------------------------------


def test_pictures_and_sounds_beside_a_run_are_carried_once_and_what_has_no_place_is_named(three, tmp_path):
    folder = three[0].parent / "pictures"
    folder.mkdir()
    Image.new("RGB", (4, 4)).save(folder / "two_cats.png")
    with wave.open(str(folder / "in-door.wav"), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(b"\0\0" * 100)
    (folder / "notes.txt").write_text("no picture")
    (folder / "a-large.png").write_bytes(bytes(LARGEST + 1))
    made = write_report(three, tmp_path / "x.html")
    text = (tmp_path / "x.html").read_text()
    assert made["left_out"] == [f"a-large.png ({LARGEST / 1e6:.1f} MB)"]
    assert f"Left out to keep this page small: {made['left_out'][0]}." in words(text)
    assert re.findall('alt="([^"]*)"', text) == ["Picture: two cats"]
    assert re.findall('<audio .*aria-label="([^"]*)"', text) == ["Sound: in door"]


def test_a_shelf_finds_the_pictures_of_items(tmp_path):
    run = tmp_path / "p" / "castle" / "seed0"
    run.mkdir(parents=True)
    (tmp_path / "p" / "pictures").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "p" / "pictures" / "castle.jpg")
    assert Shelf().take([run]) == []
    (medium,) = Shelf().take([run], items=True)
    assert (medium.words, medium.sound) == ("Picture: castle", False)


# -- how to run it again ----------------------------------------------------------------------------------


def ran(seed=0, environment=None, **config):
    plain = QUICK.plain()
    metadata = {"experiment": "cifar10", "preset": "quick", "seed": seed, "settings": plain, "augment": False}
    return Ran("", {**metadata, "source": "my data", "methods": ["rtl"], **config}, environment or {}, ())


def test_seeds_share_a_command_and_other_methods_have_their_own():
    first, second = commands([ran(0), ran(2), ran(1, methods=["rtl", "imp"])])
    head = "tombola run cifar10 --preset quick --data 'my data' --method rtl"
    assert first == f"{head} --sparsity 0.25 0.5 0.75 --seed 0 2"
    assert second == f"{head} imp --sparsity 0.25 0.5 0.75 --seed 1"


def test_a_command_gives_back_every_setting():
    changes = [
        "T=7",
        "train.lr=0.0003",
        "private=['1.*', fc]",
        "search.options={betas: [0.9, 0.99]}",
        "exclude=[]",
    ]
    settings = QUICK.changed([*changes, "sparsity=[0.3]"])
    (line,) = commands([ran(settings=settings.plain(), tune=True, augment=True, environment={"threads": 2})])
    words = shlex.split(line)
    start, end = words.index("--set") + 1, words.index("--augment")
    sparsity = tuple(map(float, words[words.index("--sparsity") + 1 : start - 1]))
    again = QUICK.changed([*words[start:end], f"sparsity={list(sparsity)}"])
    assert again == Settings.from_plain(settings.plain())
    assert words[end:] == ["--augment", "--tune", "--threads", "2", "--parallel", "no", "--seed", "0"]


# -- what other commands kept -------------------------------------------------------------------------------

HEAD = {"experiment": "cifar10", "preset": "quick", "ci95": None, "seeds": 1}


def routed_rows(tickets=("indoor", "<out>")):
    """As `tombola route --keep` writes them."""
    rows = []
    for sparsity in (0.25, 0.5):
        for who, right, gap in (("oracle", 1.0, 1.0), ("prototype", 0.9, 0.8), ("best_fixed", None, 0.0)):
            head = {**HEAD, "method": "rtl", "sparsity": sparsity, "router": who}
            rows.append({**head, "metric": "accuracy", "mean": 0.6 + 0.2 * gap})
            rows.append({**head, "metric": "gap_closed", "mean": gap})
            if right is not None:
                rows.append({**head, "metric": "routing_accuracy", "mean": right})
        head |= {"router": "prototype"}
        rows += [
            {**head, "metric": "routed_share", "context": a, "ticket": b, "mean": 0.875 if a == b else 0.125}
            for a, b in itertools.product(tickets, tickets)
        ]
        rows.append({**head, "window": 8, "margin": 0, "metric": "accuracy", "mean": 0.123})
    return rows


def calibrated_rows():
    """As `tombola calibrate --keep` writes them."""
    rows = []
    for method, lead in (("rtl", 0.0), ("imp", 0.1)):
        for reading in ("plain scores", "platt"):
            head = {**HEAD, "method": method, "sparsity": 0.5, "reading": reading}
            rows.append({**head, "metric": "ece", "mean": 0.25 if reading == "plain scores" else 0.01})
            curve = ((0.1, 0.7), (0.9, 0.2))
            rows += [
                {**head, "metric": "precision_at_recall", "recall": r, "mean": p + lead} for r, p in curve
            ]
            for upper in (0.1, 0.9):
                for name, value in (("predicted", upper - 0.05), ("observed", upper / 2), ("count", 40)):
                    rows.append({**head, "bin": upper, "metric": name, "mean": value})
    return rows


@pytest.mark.parametrize("content", ["", "[1, 2]", '{"a": 1}', "[]"])
def test_kept_files_of_other_runs_or_of_nothing_are_passed_over(three, content):
    for name in ("routing.json", "precision.json", "semantics.json"):
        (three[0] / name).write_text(content)
    found = gather(("cifar10", "quick"), three)
    assert not kept.routing(found) + kept.calibration(found)
    other = [{**row, "preset": "best"} for row in routed_rows()]
    (three[0] / "routing.json").write_text(json.dumps(other))
    assert not kept.routing(found)
    (three[0].parent / "routing.json").write_text(json.dumps(routed_rows()))  # above it there is one
    assert kept.routing(found)
