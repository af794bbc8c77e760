"""Results to work with: one frame of runs and outcomes, curves from it, forms of a comparison."""

import csv
import io
import json
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from test_report import VALUES, write_run
from torch import nn

import tombola as tb
from tombola._utils.errors import UsageError
from tombola.cli.main import main
from tombola.lab.report.formats import latex
from tombola.lab.report.rows import averaged, rows
from tombola.lab.report.tables import Table
from tombola.lab.results import find_runs
from tombola.methods.result import Outcome
from tombola.objectives import Metric
from tombola.runs.log import read_records


@pytest.fixture
def three(tmp_path):
    return [write_run(tmp_path / "runs" / f"seed{seed}", seed, value) for seed, value in enumerate(VALUES)]


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """The outcomes of two methods, and the folder in which their runs are kept."""
    torch.manual_seed(0)
    y = torch.arange(240) % 3
    x = torch.randn(240, 8) + 3 * torch.randn(3, 8)[y]
    data = tb.Data.of(x, y, validation=0.25, test=0.25)
    net = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 3))
    parts = tb.partition.by_label(data, ["a", "b", "c"])
    folder, outcomes = tmp_path_factory.mktemp("kept"), []
    for method in ("rtl", "imp"):
        settings = {"sparsity": (0.5, 0.8), "schedule": "one_shot", "T": 2, "steps": 3, "parallel": "no"}
        settings |= {"seed": 7, "out": folder / method}
        outcomes += tb.find(method, net, tb.objectives.OneVsRest(), data, parts, **settings)
    return outcomes, folder


def test_a_folder_is_a_tidy_frame_with_every_value_once(three):
    frame = tb.results(three[0].parent)
    assert len(frame) == sum(len(tb.results(run)) for run in three) == len(tb.results(map(str, three)))
    key = ["run", "method", "sparsity", "reading", "metric", "ticket"]
    assert not frame.duplicated(key).any()
    assert not frame[key].isna().any(axis=None)
    quality = frame[(frame.metric == "balanced_accuracy") & (frame.method == "rtl")]
    assert quality[quality.ticket == ""].set_index("seed").value.to_dict() == dict(enumerate(VALUES))
    assert quality[quality.ticket == "cat"].value.tolist() == [0.1] * 3
    minutes = frame[(frame.metric == "minutes") & (frame.method == "rtl")]
    assert minutes.value.tolist() == [3.5] * 3
    assert set(frame.experiment) == {"cifar10"}


def test_outcomes_have_the_values_of_their_runs(kept):
    outcomes, folder = kept
    key = ["seed", "method", "sparsity", "reading", "metric", "ticket"]
    memory, disk = tb.results(outcomes), tb.results(folder)
    disk = disk[disk.metric != "minutes"]
    one, other = (frame.set_index(key).value.sort_index() for frame in (memory, disk))
    pd.testing.assert_series_equal(one, other)
    assert set(memory.seed) == {7}
    assert len(tb.results(outcomes[0])) == len(outcomes[0].metrics)
    assert len(tb.results([outcomes[0], folder / "imp"])) == len(outcomes[0].metrics) + len(
        tb.results(folder / "imp")
    )
    assert set(tb.results(folder).tombola) == {tb.__version__}
    assert set(tb.results(folder).threads) == {torch.get_num_threads()}


def test_rows_are_averages_of_the_frame(three):
    assert averaged(tb.results(three).to_dict("records")) == rows(three)


def test_what_is_no_result_is_refused_by_name(tmp_path):
    with pytest.raises(tb.errors.RunError, match="holds none"):
        tb.results(tmp_path)
    with pytest.raises(tb.errors.UsageError, match="got int"):
        tb.results([3])


def test_all_public_names_are_listed_and_there():
    names = {name for name in dir(tb) if not name.startswith("_")}
    assert {"calibration", "curves", "experiments", "export", "methods", "results"} < names
    assert set(tb.__all__) < names
    assert all(getattr(tb, name) is not None for name in names)


# -- curves --------------------------------------------------------------------------------------------------


def outcome(method, sparsity, value, name="accuracy"):
    return Outcome(method, sparsity, [], [Metric(name, value, "like_for_like"), Metric(name, 0.9, "paper")])


def test_a_curve_is_drawn_at_the_means_with_their_intervals():
    frames = [
        tb.results([outcome("imp", s, v), outcome("dense", 0.0, 0.95)]).assign(seed=seed)
        for seed, level in enumerate((0.8, 0.9))
        for s, v in ((0.5, level), (0.8, level - 0.1))
    ]
    axes = tb.curves(pd.concat(frames).drop_duplicates()).axes[0]
    assert [text.get_text() for text in axes.get_legend().texts] == ["imp", "dense"]
    (container,) = axes.containers
    points, _, (bars,) = container
    assert points.get_ydata() == pytest.approx([0.85, 0.75])
    top = bars.get_segments()[0][:, 1]
    assert top[1] - top[0] == pytest.approx(2 * 12.706 * 0.05, rel=1e-3)
    assert axes.get_ylim()[1] <= 1.02  # whatever the interval says
    assert axes.get_ylabel() == "accuracy, like for like"


def test_a_curve_of_one_seed_is_at_its_sparsities_and_settings_have_panels():
    made = tb.results([outcome("imp", s, 1 - s) for s in (0.5, 0.995)])
    figure = tb.curves(pd.concat([made, made.assign(preset="other")]))
    assert len(figure.axes) == 2
    axes = figure.axes[0]
    assert axes.lines[0].get_xdata().tolist() == [0.5, 0.995]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["50%", "99.5%"]
    figure.savefig(io.BytesIO())  # it can be drawn


def test_a_curve_of_nothing_or_of_an_unknown_metric_says_what_there_is(kept):
    outcomes, _ = kept
    with pytest.raises(tb.errors.UsageError, match="'accurcy'; did you mean 'accuracy'"):
        tb.curves(outcomes, "accurcy")
    with pytest.raises(tb.errors.RunError, match="nothing was measured"):
        tb.curves(tb.results(outcomes).query("seed == 1"))
    with pytest.raises(tb.errors.UsageError, match="column ticket"):
        tb.curves(tb.results(outcomes).drop(columns="ticket"))
    assert tb.curves(outcomes, "union").axes[0].get_ylabel() == "union"
    assert tb.curves(Outcome("imp", 0.5, [], [Metric("mine", 3)])).axes[0].get_ylabel() == "mine"


def test_a_curve_touches_no_state_of_pyplot(kept):
    before = sys.modules.get("matplotlib.pyplot")
    tb.curves(kept[0])
    assert sys.modules.get("matplotlib.pyplot") is before


# -- forms of a comparison -----------------------------------------------------------------------------------


def compared(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        main(["compare", *map(str, arguments)])
    found = capsys.readouterr()
    return (stopped.value.code or 0), found.out, found.err


def test_csv_and_json_are_the_same_rows(three, capsys):
    _, out, _ = compared(capsys, *three, "--format", "csv")
    found = list(csv.DictReader(io.StringIO(out)))
    expected = json.loads(compared(capsys, *three, "--format", "json")[1])
    assert expected == json.loads(compared(capsys, *three, "--json")[1])
    assert [{k: v for k, v in row.items() if v} for row in found] == [
        {k: str(v) for k, v in row.items() if v is not None} for row in expected
    ]


def test_markdown_is_what_pages_get(three, tmp_path, capsys):
    page = tmp_path / "page.md"
    _, out, _ = compared(capsys, *three, "--format", "markdown", "--write", page)
    assert out.startswith("### cifar10, preset quick\n")
    assert out in page.read_text()


def test_latex_has_no_sign_that_latex_reads_otherwise(three, capsys):
    status, out, _ = compared(capsys, find_runs([three[0].parent])[0].parent, "--format", "latex")
    assert status == 0
    assert out.count("\\begin{table}") == out.count("\\bottomrule") == out.count("\\end{tabular}") > 1
    assert "50\\%" in out
    assert "$\\pm$" in out
    assert out.replace("% needs", "", 1).replace("\\%", "").find("%") < 0
    assert out.isascii()


def test_latex_escapes_names_and_sets_the_signs_of_numbers():
    made = latex(
        [Table("50% of a_b & {c}", ["x_1", "y"], [["imp-a#1", "-.5 ± .25"], ["a~b^c\\", "+3 [-1]"]])]
    )
    assert "\\caption{50\\% of a\\_b \\& \\{c\\}}" in made
    assert "imp-a\\#1 & $-$.5 $\\pm$ .25 \\\\" in made
    assert "a\\textasciitilde{}b\\textasciicircum{}c\\textbackslash{} & $+$3 [$-$1] \\\\" in made


def test_two_forms_at_once_are_refused(three, capsys):
    status, _, err = compared(capsys, three[0], "--json", "--format", "csv")
    assert (status, err) == (2, "tombola: --json and --format csv: give one of them\n")


# -- records -------------------------------------------------------------------------------------------------


def test_every_event_and_field_of_a_record_is_described(kept):
    page = (Path(tb.__file__).parents[2] / "docs" / "columns.md").read_text()
    _, _, described = page.partition("## The records of a run")
    records = [record for run in find_runs([kept[1]]) for record in read_records(run)]
    assert {record["event"] for record in records} >= {"prune", "similarity", "watch", "retrain", "metric"}
    words = {word for record in records for word in (record["event"], *record) if word != "stage"}
    assert [word for word in words if f"`{word}`" not in described] == []


@pytest.mark.parametrize("source", [None, 3])
def test_what_is_no_source_is_one_line(source):
    for call in (tb.results, tb.curves):
        with pytest.raises(UsageError, match="results are of paths and outcomes: got"):
            call(source)
