"""docs/concepts.md: its example is true, its picture shows the same numbers, and it stays short."""

import doctest
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
PAGE = (DOCS / "concepts.md").read_text()


@pytest.fixture
def names():
    """What the names of the example are at its end."""
    example = doctest.DocTestParser().get_doctest(PAGE, {}, "concepts.md", "concepts.md", 0)
    assert doctest.DocTestRunner().run(example, clear_globs=False).failed == 0
    return example.globs


def numbers(*rows):
    return [f"{value + 0.0:.1f}" for row in rows for value in row.tolist()]


def test_its_example_is_true_and_its_picture_shows_the_same_numbers(names):
    theta0, theta, theta_T, m = names["theta0"], names["theta"].detach(), names["theta_T"], names["m"]
    picture = (DOCS / "pictures" / "concepts.svg").read_text().replace("−", "-")
    stored = m["cat"] | m["dog"]
    shown = numbers(theta0, *theta_T.values(), theta0[stored], theta[stored], theta * m["cat"])
    assert re.findall(r">(-?\d\.\d)</text>", picture) == shown
    coloured = re.findall(r'class="(?:cat|dog)" [^>]*/>\n<text[^>]*>(-?\d\.\d)<', picture)
    assert coloured[:6] == numbers(*(theta_T[name][m[name]] for name in m))


def test_it_stays_short_and_its_links_lead_somewhere():
    assert len(re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL).split()) <= 900
    for link in re.findall(r"\]\(([\w/]+\.\w+)\)", PAGE):
        assert (DOCS / link).exists(), link
