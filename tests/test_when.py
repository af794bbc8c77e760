"""Whether affinity tells what tickets gain, and which scores give tickets masks of their own."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import tombola as tb
from tests.test_affinity import CONFIG, network, world
from tombola._utils.errors import DataError
from tombola.analysis.specificity import specificity
from tombola.cli.main import main
from tombola.lab.evaluation import advised, when
from tombola.lab.evaluation.transference import transference
from tombola.methods.pipeline import Pipeline
from tombola.runs.cache import StageCache
from tombola.settings import Settings


def rows_of(affinities: list[float], gains: list[float]) -> list[dict]:
    rows: list[dict] = []
    for i, (affinity, gain) in enumerate(zip(affinities, gains, strict=True)):
        head = {"experiment": f"world{i}", "preset": "quick"}
        rows.append(
            {**head, "method": "affinity", "sparsity": 0.0, "metric": "affinity", "mean": affinity, "ci95": 0}
        )
        for sparsity in (0.5, 0.8):
            row = {**head, "method": "rtl", "sparsity": sparsity, "reading": "", "ci95": 0.01, "seeds": 3}
            rows.append({**row, "metric": "accuracy_lead", "mean": gain + sparsity})
            rows.append({**row, "metric": "accuracy", "mean": gain + sparsity})  # of the rival 0
            rows.append({**row, "metric": "accuracy_lead", "mean": 9.0, "ticket": "one"})
            rows.append({**row, "metric": "accuracy_lead", "mean": 9.0, "method": "twin"})
    return rows


def judged(rows: list[dict], sparsity: float = 0.75) -> list[when.World]:
    return when.worlds([*(row for row in rows if row["metric"] == "affinity"), *when.gains(rows, sparsity)])


def test_gains_are_those_of_rtl_over_all_tickets_at_the_nearest_sparsity():
    found = judged(rows_of([0.1], [0.0]))
    assert [world.gains["gain_over_imp"]["mean"] for world in found] == [0.8]
    assert judged(rows_of([0.1], [0.0]), 0.6)[0].gains["gain_over_imp"]["mean"] == 0.5


def test_a_perfect_law_is_found_and_none_where_there_is_none():
    affinities = list(np.linspace(0, 1, 12))
    perfect = judged(rows_of(affinities, [-0.8 + 0.6 * (a < 0.5) - a / 10 for a in affinities]))
    correlation, _, right, always = (row["mean"] for row in when.law(perfect))
    assert correlation == pytest.approx(-1)
    assert right > always
    rng = np.random.default_rng(0)
    none = when.law(judged(rows_of(affinities, list(rng.normal(size=12)))))[0]
    assert none["low"] < 0 < none["high"]
    with pytest.raises(tb.TombolaError, match="at least 4 experiments"):
        when.law(perfect[:3])


def test_gains_of_an_older_page_are_shown_and_in_no_law():
    rows = [{**row, "ci95": 0.2} for row in rows_of([0.1, 0.3, 0.5, 0.7], [-0.4, -0.5, -0.6, -0.7])]
    gained = [{k: v for k, v in row.items() if k not in ("of", "removed")} for row in when.gains(rows, 0.75)]
    older = [*rows, *gained]
    with pytest.raises(tb.TombolaError, match="got 0"):
        when.law(when.worlds(older))
    assert when.worlds(older)[0].metric.name == "accuracy"


def test_an_affinity_that_seeds_do_not_agree_about_is_in_no_law():
    rows = rows_of([0.1, 0.3, 0.5, 0.7, 0.9], [-0.4, -0.5, -0.6, -0.7, 0.1])
    sure = when.law(judged([{**row, "ci95": 0.2} for row in rows]))[0]
    assert (sure["mean"], sure["experiments"]) == (pytest.approx(0), 5)
    last = [{**row, "ci95": 4.5} if row["experiment"] == "world4" else row for row in rows]
    found = when.law(judged(last))[0]
    assert (found["mean"], found["experiments"]) == (pytest.approx(-1), 4)


def test_gains_in_decibels_are_compared_by_the_share_of_the_error():
    rows = rows_of([0.1, 0.3, 0.5, 0.7], [-0.4, -0.5, -0.6, -0.7])
    sound = [{**row, "experiment": "sound"} for row in rows if row["experiment"] == "world0"]
    rows += [{**row, "metric": row["metric"].replace("accuracy", "si_snri")} for row in sound]
    *plain, last = judged(rows)
    assert [world.removed("gain_over_imp") for world in plain] == pytest.approx([0.4, 0.3, 0.2, 0.1])
    assert last.removed("gain_over_imp") == pytest.approx(1 - 10**-0.04)
    both = {row["metric"]: row for row in when.law([*plain, last])}
    assert both["rank_correlation"]["experiments"] == 5
    assert both["rank_correlation_accuracy"]["experiments"] == 4
    assert both["rank_correlation"]["mean"] > both["rank_correlation_accuracy"]["mean"] == pytest.approx(-1)
    assert when.tables([*rows, *when.gains(rows, 0.75)], "gain_over_imp")[0].body[0][-1].startswith("0.4")


@pytest.mark.parametrize(("turned", "low", "high"), [((False, True), -9, 0), ((False, False), 0.7, 1.4)])
def test_a_step_of_a_context_that_agrees_helps_and_one_of_its_opposite_harms(turned, low, high):
    data, partition = world(turned)
    given = network(), tb.objectives.Classification(), data, partition, Settings(search=CONFIG)
    assert low < transference(Pipeline(*given, 0, StageCache("no"))) < high


def test_predictors_are_ranked_over_the_worlds_where_all_are_known():
    rows = rows_of([0.1, 0.3, 0.5, 0.9], [0.3, 0.2, 0.1, 0.0])
    beforehand = [row for row in rows if row["metric"] == "affinity"]
    for row, information, seen in zip(beforehand, (4, 2, 3, 1), (1, 3, 2, 4), strict=True):
        rows += [{**row, "metric": "information", "mean": information}]
        rows += [{**row, "metric": "transference", "mean": seen}]
    another = [{**row, "experiment": "another"} for row in rows if row["experiment"] == "world3"]
    rows += [row for row in another if row["metric"] != "transference"]  # it would spoil the order
    tables = when.tables([*rows, *when.gains(rows, 0.8)], "gain_over_told")
    (table,) = (each for each in tables if "predictor" in each.title)
    assert table.header == ["predictor", "over imp"]
    assert table.body == [["affinity", "-1.00"], ["information", "0.80"], ["transference", "-0.80"]]


def test_the_command_writes_page_rows_and_figure(tmp_path, capsys):
    page, given = tmp_path / "when.md", tmp_path / "given.json"
    rows = rows_of([0.1, 0.3, 0.5, 0.9], [0.3, 0.2, 0.1, 0.0])
    given.write_text(json.dumps(rows))
    page.with_suffix(".json").write_text(json.dumps([row for row in rows if row["metric"] == "affinity"]))
    with pytest.raises(SystemExit, match="0"):
        main(["affinity", "--gains", str(given), "--write", str(page)])
    kept = json.loads(page.with_suffix(".json").read_text())
    (law,) = (row for row in kept if row["metric"] == "rank_correlation")
    assert law["experiment"] == "all"
    assert law["mean"] == pytest.approx(-1)
    assert sum(row["metric"] == "gain_over_imp" for row in kept) == 4
    with pytest.raises(SystemExit, match="0"):
        main(["affinity", "tenants_labels", "--seed", "0", "--steps", "3", "--write", str(page)])
    kept = json.loads(page.with_suffix(".json").read_text())
    mine = {row["metric"]: row["mean"] for row in kept if row["experiment"] == "tenants_labels"}
    assert mine["affinity"] < 0.5
    assert "information" in mine
    capsys.readouterr()
    with pytest.raises(SystemExit, match="0"):
        main(["affinity", "tenants_labels", "--seed", "0", "--steps", "3"])
    shown = capsys.readouterr().out
    assert "How much the contexts agree" in shown
    assert f"{mine['affinity']:.2f}" in shown
    assert "What RTL gains" not in shown
    assert (tmp_path / "pictures" / "when.png").stat().st_size > 1000
    with pytest.raises(SystemExit, match="2"):
        main(["affinity"])
    given.write_text("{}")
    with pytest.raises(SystemExit, match="1"):
        main(["affinity", "--gains", str(given)])
    assert "is no results page" in capsys.readouterr().err


def test_random_masks_are_of_no_subset_and_those_of_opposites_are():
    data, partition = world((False, True))
    given = network(), tb.objectives.Classification(), data, partition
    random = specificity(*given, "random", search=CONFIG)
    moved = specificity(*given, "movement", T=30, search=CONFIG)
    assert abs(random.difference) < 0.1
    assert moved.difference > 0.1
    assert moved == specificity(*given, "movement", T=30, search=CONFIG)
    with pytest.raises(tb.TombolaError, match="T must be at least 1"):
        specificity(*given, "movement", search=CONFIG)
    with pytest.raises(tb.TombolaError, match="masks of one subset"):
        specificity(*given[:3], partition.whole(), "random")


def test_scores_of_inputs_do_not_see_labels():
    """Wanda reads inputs alone: before tickets are trained apart, opposite labels have the masks of twins."""
    torch.manual_seed(0)
    data, partition = world((False, True))
    given = network(), tb.objectives.Classification(), data, partition
    inputs = specificity(*given, "wanda:8", steps=5, search=CONFIG, selection="row")
    gradients = specificity(*given, "snip:8", steps=5, search=CONFIG, selection="layer")
    assert inputs.difference < 0.1 < 0.2 < gradients.difference


def full(method, mean, **leads):
    """Rows of a full run: a mean, and its leads over others with half intervals."""
    head = {
        "experiment": "shops",
        "preset": "quick",
        "method": method,
        "sparsity": 0.8,
        "reading": "like_for_like",
    }
    made = [{**head, "metric": "accuracy", "mean": mean, "ci95": 0.01, "seeds": 3}]
    return made + [
        {**head, "metric": f"accuracy_{name}", "mean": lead, "ci95": half, "seeds": 3}
        for name, (lead, half) in leads.items()
    ]


FULL = [
    *full("rtl", 0.9, lead=(0.05, 0.02), lead_told=(0.01, 0.02), lead_each=(-0.001, 0.01)),
    *full("imp", 0.85, lead_told=(-0.04, 0.01), lead_each=(-0.051, 0.01)),
    *full("imp_context", 0.89, lead=(0.04, 0.01), lead_each=(-0.011, 0.02)),
    *full("imp_per_subset", 0.901, lead=(0.051, 0.01)),
    *full("dense", 0.99),
]


@pytest.mark.parametrize(
    ("named", "is_right"), [("rtl", 1), ("imp", 0), ("imp_context", 1), ("imp_per_subset", 1)]
)
def test_advice_is_right_where_full_runs_do_not_put_it_surely_behind(named, is_right, tmp_path):
    (tmp_path / "advice.json").write_text(
        json.dumps({"experiment": "shops", "preset": "quick", "method": named, "sparsity": 0.8})
    )
    (row,) = advised.right(FULL, advised.read([tmp_path]), 0.75)
    assert (row["mean"], row["named"], row["best"]) == (is_right, named, "imp_per_subset")
    (table,) = advised.table([row])
    assert table.body == [["shops", named, "imp_per_subset", "yes" if is_right else "no"]]


def test_advice_without_full_runs_or_without_a_file_is_left_out_or_named(tmp_path):
    other = {"experiment": "ships", "preset": "quick", "method": "rtl", "sparsity": 0.8}
    assert advised.right(FULL, [other], 0.75) == []
    with pytest.raises(DataError, match=r"holds no advice.json"):
        advised.read([tmp_path])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--advice", "none"), "none holds no advice.json"),
        (("--gains", "none.json"), "none.json is no results page"),
        (("--write", "mine.md"), "mine.md is there and has no place for tables"),
        (("--write", "other.md"), "other.md has no place for tables: put the lines"),
    ],
)
def test_what_cannot_be_read_or_written_is_said_before_anything_is_measured(
    arguments, words, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.md").write_text("# Mine\n")
    (tmp_path / "other.md").write_text("<!-- tables: made by `tombola route` -->\n<!-- end of tables -->\n")
    monkeypatch.setattr(when, "measure", None)
    with pytest.raises(SystemExit) as end:
        main(["affinity", "digits", *arguments])
    assert end.value.code == 1
    assert words in " ".join(capsys.readouterr().err.split())
    assert (tmp_path / "mine.md").read_text() == "# Mine\n"


def test_all_experiments_are_known_before_one_is_measured(monkeypatch, capsys):
    monkeypatch.setattr(when, "measure", None)
    with pytest.raises(SystemExit, match="2"):
        main(["affinity", "digits", "typo"])
    assert "there is no experiment 'typo'" in capsys.readouterr().err
