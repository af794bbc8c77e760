"""From records to rows, tables and pages."""

import io
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from scipy import stats

from tombola._utils.errors import DataError, RunError, TicketFileError, UsageError
from tombola._utils.statistics import interval
from tombola.lab.experiments import EXPERIMENTS
from tombola.lab.report.inspect import describe
from tombola.lab.report.page import check_page, made_by, place_of, put_tables
from tombola.lab.report.rows import rows
from tombola.lab.report.tables import Table, parts, tables
from tombola.lab.results import find_runs
from tombola.objectives.metrics import METRICS, MetricInfo, register_metric, share
from tombola.runs.directory import Run

VALUES = [0.71, 0.78, 0.745]


def write_run(path, seed, value, experiment="cifar10", **config):
    """A run directory with just what a report reads."""
    path.mkdir(parents=True)
    settings = EXPERIMENTS[experiment or "cifar10"].presets["quick"].settings.plain()
    metadata = {"experiment": experiment, "preset": "quick", "seed": seed, "settings": settings, **config}
    (path / "config.yaml").write_text(yaml.safe_dump(metadata))
    head = {"event": "metric", "method": "rtl", "sparsity": 0.5}
    records = [
        {"event": "prune", "round": 0},
        {**head, "metric": "balanced_accuracy", "reading": "paper", "value": value},
        {**head, "metric": "balanced_accuracy", "reading": "paper", "value": 0.1, "ticket": "cat"},
        {**head, "metric": "precision", "reading": "paper", "value": value / 2},
        {**head, "metric": "auc", "reading": "like_for_like", "value": value},
        {**head, "metric": "union", "value": 71_999.4 + seed},
        {**head, "method": "dense", "sparsity": 0.0, "metric": "union", "value": 125_832},
        {**head, "method": "imp", "metric": "balanced_accuracy", "reading": "paper", "value": 1.0},
    ]
    (path / "records.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    timings = [
        {"stage": "search-own-0.5", "seconds": 120, "from_start": True},
        {"stage": "train-rtl-0.5", "seconds": 60, "from_start": True},
        {"stage": "judge-rtl-0.5", "seconds": 30, "from_start": True},
        {"stage": "train-imp_per_subset-0.5-a-b", "seconds": 60, "from_start": True},
        {"stage": "train-imp_per_subset-0.5-c", "seconds": 60, "from_start": seed > 0},
    ]
    (path / "timings.jsonl").write_text("".join(json.dumps(r) + "\n" for r in timings))
    return path


@pytest.fixture
def three(tmp_path):
    return [write_run(tmp_path / "runs" / f"seed{seed}", seed, value) for seed, value in enumerate(VALUES)]


def row_of(found, method, metric, reading=None):
    chosen = (r for r in found if (r["method"], r["metric"], r.get("reading")) == (method, metric, reading))
    return next(chosen)


# -- rows -------------------------------------------------------------------------------------------------


def test_the_interval_is_students_95_percent():
    for values in ([1.0, 2.0], VALUES, list(np.random.default_rng(0).normal(size=9))):
        low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
        assert interval(values) == pytest.approx((high - low) / 2)
    assert interval([1.0]) is None
    assert interval([1.0, 1.0]) == 0


def test_a_row_is_the_mean_over_seeds_of_what_is_averaged_over_tickets_already(three):
    row = row_of(rows(three), "rtl", "balanced_accuracy", "paper")
    low, high = stats.t.interval(0.95, 2, np.mean(VALUES), stats.sem(VALUES))
    assert row == {
        "experiment": "cifar10",
        "preset": "quick",
        "method": "rtl",
        "sparsity": 0.5,
        "reading": "paper",
        "metric": "balanced_accuracy",
        "mean": pytest.approx(np.mean(VALUES)),
        "ci95": pytest.approx((high - low) / 2),
        "seeds": 3,
    }


def test_rows_without_a_reading_leave_it_out_and_sparsity_zero_stays(three):
    row = row_of(rows(three), "dense", "union")
    assert "reading" not in row
    assert row["sparsity"] == 0.0


def test_rows_come_in_the_order_of_the_methods(three):
    assert list(dict.fromkeys(row["method"] for row in rows(three))) == [
        "rtl",
        "imp",
        "imp_per_subset",
        "dense",
    ]


def test_minutes_are_those_of_search_training_and_judging_uninterrupted(three):
    found = rows(three)
    assert row_of(found, "rtl", "minutes")["mean"] == 3.5
    alone = row_of(found, "imp_per_subset", "minutes")
    assert (alone["mean"], alone["seeds"]) == (4.0, 2)


def test_runs_are_found_below_folders_and_once(three, tmp_path):
    assert find_runs([tmp_path, three[0]]) == three
    with pytest.raises(RunError, match="no run and holds none"):
        find_runs([tmp_path / "nothing"])


def test_one_seed_is_not_counted_twice(three, tmp_path):
    again = write_run(tmp_path / "again", 0, 0.9)
    with pytest.raises(RunError, match="both seed 0"):
        rows([*three, again])
    assert len(rows([three[0], write_run(tmp_path / "digits", 0, 0.9, "digits")])) == 2 * len(rows(three[:1]))


def test_runs_that_differ_in_more_than_the_seed_are_not_averaged(three, tmp_path):
    other = write_run(tmp_path / "other", 7, 0.9, augment=True)
    with pytest.raises(RunError, match="different augment"):
        rows([*three, other])


def test_changed_settings_and_tuning_become_part_of_the_presets_name(three, tmp_path):
    settings = EXPERIMENTS["cifar10"].presets["quick"].settings.changed(["T=7", "train.lr=0.5"]).plain()
    changed = write_run(tmp_path / "changed", 0, 0.9, settings=settings)
    tuned = write_run(tmp_path / "tuned", 0, 0.9, tune=True)
    presets = {row["preset"] for row in rows([*three, changed, tuned])}
    assert presets == {"quick", "quick T=7 train.lr=0.5", "quick (judged on validation)"}


def test_seeds_of_a_run_of_ones_own_share_the_name_of_their_folder(tmp_path):
    runs = [write_run(tmp_path / "mine" / f"seed{s}", s, 0.5, experiment=None, preset=None) for s in (0, 1)]
    assert {(row["experiment"], row["seeds"]) for row in rows(runs) if row["metric"] == "auc"} == {
        ("mine", 2)
    }


def test_a_config_of_another_program_is_no_run(three, tmp_path):
    other = tmp_path / "runs" / "webpack"
    other.mkdir()
    (other / "config.yaml").write_text("mode: production")
    (other / "records.jsonl").write_text("")
    assert find_runs([tmp_path]) == three


# -- items and differences --------------------------------------------------------------------------------

PSNR = {  # of three photographs: two seeds, one seed, two seeds
    "bridge": {0: (20.0, 18.0), 1: (22.0, 19.0)},
    "castle": {0: (30.0, 31.0)},
    "garden": {0: (24.0, 23.0), 1: (26.0, 23.5)},
}


def write_item(path, item, seed, ours, single):
    """A run of one photograph: a metric without a reading, of rtl and imp."""
    run = write_run(path, seed, 0.5, "digits", item=item)
    head = {"event": "metric", "sparsity": 0.5, "metric": "psnr"}
    records = [{**head, "method": "rtl", "value": ours}, {**head, "method": "imp", "value": single}]
    records += [{**head, "method": "dense", "sparsity": 0.0, "value": 40.0}]
    (run / "records.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return run


@pytest.fixture
def photographs(tmp_path):
    return [
        write_item(tmp_path / item / f"seed{seed}", item, seed, *values)
        for item, seeds in PSNR.items()
        for seed, values in seeds.items()
    ]


def half_width(values):
    """Of the 95% interval, from scipy's own."""
    low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    return pytest.approx((high - low) / 2)


def test_the_interval_is_over_items_each_the_mean_over_its_seeds(photographs):
    row = row_of(rows(photographs), "rtl", "psnr")
    assert row["mean"] == pytest.approx((21 + 30 + 25) / 3)
    assert row["ci95"] == half_width([21.0, 30.0, 25.0])
    assert (row["items"], row["seeds"]) == (3, 2)


def test_one_item_has_an_interval_over_its_seeds_and_no_count_of_items(photographs):
    row = row_of(rows(photographs[:2]), "rtl", "psnr")
    assert (row["mean"], row["ci95"], row["seeds"]) == (21.0, half_width([20.0, 22.0]), 2)
    assert "items" not in row
    alone = row_of(rows(photographs[2:3]), "rtl", "psnr")
    assert (alone["mean"], alone["ci95"], alone["seeds"]) == (30.0, None, 1)


def test_a_lead_is_the_difference_within_an_item_and_seed_with_its_own_interval(photographs):
    found = rows(photographs)
    lead = row_of(found, "rtl", "psnr_lead")
    # bridge: (2 + 3) / 2, castle: -1, garden: (1 + 2.5) / 2
    assert lead["mean"] == pytest.approx((2.5 - 1 + 1.75) / 3)
    assert lead["ci95"] == half_width([2.5, -1.0, 1.75])
    assert (lead["items"], lead["seeds"]) == (3, 2)
    assert lead["ci95"] < row_of(found, "rtl", "psnr")["ci95"]
    assert lead["sparsity"] == 0.5
    led = {(row["method"], row["metric"]) for row in found if row["metric"].endswith("_lead")}
    assert led == {("rtl", "psnr_lead")}  # imp leads nothing, dense has no imp at its sparsity


def test_leads_are_paired_by_seed_and_kept_apart_by_reading(three):
    found = rows(three)
    lead = row_of(found, "rtl", "balanced_accuracy_lead", "paper")  # imp has 1.0 in every seed
    assert lead["mean"] == pytest.approx(np.mean(VALUES) - 1)
    assert lead["ci95"] == half_width(VALUES)
    assert "items" not in lead
    led = {(row["metric"], row.get("reading")) for row in found if row["metric"].endswith("_lead")}
    assert led == {("balanced_accuracy_lead", "paper")}  # imp has no AUC here, and precision is not led


def test_a_seed_without_the_single_mask_has_no_part_in_the_lead(three):
    records = three[2] / "records.jsonl"
    lines = [line for line in records.read_text().splitlines(keepends=True) if '"imp"' not in line]
    records.write_text("".join(lines))
    found = rows(three)
    lead = row_of(found, "rtl", "balanced_accuracy_lead", "paper")
    assert (lead["mean"], lead["seeds"]) == (pytest.approx(np.mean(VALUES[:2]) - 1), 2)
    assert row_of(found, "rtl", "balanced_accuracy", "paper")["seeds"] == 3


def test_the_same_seed_of_another_item_is_no_repetition(photographs, tmp_path):
    again = write_item(tmp_path / "again", "castle", 0, 1.0, 1.0)
    with pytest.raises(RunError, match=r"castle/seed0 and .*again are both seed 0"):
        rows([*photographs, again])
    other = write_run(tmp_path / "other", 0, 0.5, "digits", item="desert", augment=True)
    with pytest.raises(RunError, match="different augment"):
        rows([*photographs, other])


def test_minutes_of_a_told_method_are_those_of_its_own_search(tmp_path):
    run = write_run(tmp_path / "run", 0, 0.5)
    timings = [
        {"stage": "search-single-0.5", "seconds": 6000, "from_start": True},
        {"stage": "search-told-single-0.5", "seconds": 120, "from_start": True},
        {"stage": "train-imp_context-0.5", "seconds": 60, "from_start": True},
        {"stage": "judge-imp_context-0.5", "seconds": 30, "from_start": True},
        {"stage": "train-dense_context-0.0", "seconds": 60, "from_start": True},
        {"stage": "judge-dense_context-0.0", "seconds": 30, "from_start": True},
    ]
    (run / "timings.jsonl").write_text("".join(json.dumps(r) + "\n" for r in timings))
    found = rows([run])
    assert row_of(found, "imp_context", "minutes")["mean"] == 3.5
    assert row_of(found, "dense_context", "minutes")["mean"] == 1.5


# -- tables -----------------------------------------------------------------------------------------------


def test_the_papers_figures_have_columns_of_their_own(three):
    found = tables(rows(three))
    paper, alike = found[0], found[1]
    assert paper.header == [
        *("method", "sparsity", "seeds", "bal. acc.", "precision"),
        *("paper: bal. acc.", "paper: precision"),
    ]
    half = share(interval(VALUES))
    assert paper.body[0] == [
        "rtl",
        "50%",
        "3",
        f"0.745 ± {half}",
        f"0.372 ± {share(interval(VALUES) / 2)}",
        "0.778",
        "0.276",
    ]
    assert paper.body[1] == ["imp", "50%", "3", "1.000 ± 0.000", "", "0.711", "0.478"]
    assert not any(column.startswith("paper") for column in alike.header)


def test_one_seed_has_no_interval_and_other_experiments_no_figures_of_the_paper(tmp_path):
    table = tables(rows([write_run(tmp_path / "run", 0, 0.5, "digits")]))[0]
    assert table.header == ["method", "sparsity", "seeds", "bal. acc.", "precision"]
    assert table.body[0] == ["rtl", "50%", "1", "0.500", "0.250"]


def test_counts_are_whole_numbers_beside_the_papers(three):
    stored = next(table for table in tables(rows(three)) if "What is stored" in table.title)
    assert stored.header == ["method", "sparsity", "seeds", "union", "paper: union"]
    assert stored.body == [["rtl", "50%", "3", "72,000", "72,000"], ["dense", "0%", "3", "125,832", ""]]


def test_items_are_counted_and_leads_have_a_table_of_their_own(photographs):
    quality, ahead = tables(rows(photographs))[:2]
    assert quality.header == ["method", "sparsity", "seeds", "items", "PSNR"]
    assert quality.body[0] == ["rtl", "50%", "2", "3", f"25.33 ± {interval([21.0, 30.0, 25.0]):.2f}"]
    assert quality.body[-1] == ["dense", "0%", "2", "3", "40.00 ± 0.00"]
    assert "Ahead of a single mask (imp; union_size_imp; same_mask)" in ahead.title
    assert ahead.header == ["method", "sparsity", "seeds", "items", "PSNR: of imp"]
    assert ahead.body == [["rtl", "50%", "2", "3", f"+1.08 ± {interval([2.5, -1.0, 1.75]):.2f}"]]


def test_leads_like_for_like_are_shares_with_a_sign():
    head = {"experiment": "x", "sparsity": 0.5, "reading": "like_for_like", "seeds": 3}
    found = [
        {**head, "method": "rtl", "metric": "auc_lead", "mean": -0.0512, "ci95": 0.004},
        {**head, "method": "imp_context", "metric": "accuracy_lead", "mean": 0.1, "ci95": None},
        {**head, "method": "imp_context", "metric": "accuracy_open", "mean": 0.25, "ci95": 0.01},
    ]
    alike, ahead = tables(found)
    assert alike.header[3:] == ["acc. (all classes)"]
    assert alike.body == [["imp_context", "50%", "3", "0.250 ± 0.010"]]
    assert ahead.header == ["method", "sparsity", "seeds", "AUC: of imp", "accuracy: of imp"]
    assert ahead.body == [
        ["rtl", "50%", "3", "-0.051 ± 0.004", ""],
        ["imp_context", "50%", "3", "", "+0.100"],
    ]


def test_subsets_have_rows_and_a_table_of_their_own_and_leads_of_both_references(tmp_path):
    values = {
        ("rtl", "north"): (0.7, 0.8),
        ("imp", "north"): (0.6, 0.65),
        ("union_size_imp", "north"): (0.75, 0.75),
    }
    runs = []
    for seed in (0, 1):
        run = write_run(tmp_path / f"seed{seed}", seed, 0.5, "corruptions")
        (run / "timings.jsonl").unlink()
        with (run / "records.jsonl").open("w") as file:
            for (method, ticket), pair in values.items():
                row = {"event": "metric", "method": method, "sparsity": 0.5, "metric": "accuracy"}
                row |= {"reading": "like_for_like", "ticket": ticket, "value": pair[seed]}
                file.write(json.dumps(row) + "\n")
        runs.append(run)
    found = {(r["method"], r["metric"]): r for r in rows(runs)}
    assert all(row["ticket"] == "north" for row in found.values())
    assert found["rtl", "accuracy_lead"]["mean"] == pytest.approx((0.1 + 0.15) / 2)
    assert found["rtl", "accuracy_lead_union"]["mean"] == pytest.approx(0.0)
    assert found["rtl", "accuracy_lead_union"]["ci95"] == pytest.approx(interval([-0.05, 0.05]))
    plain, ahead = tables(rows(runs))
    assert plain.title.endswith("Accuracy by subset")
    assert plain.header == ["method", "sparsity", "seeds", "north"]
    assert [line[0] for line in ahead.body] == ["rtl", "union_size_imp"]


def test_what_stands_in_for_the_data_is_named_and_has_no_figures_of_the_paper(tmp_path):
    run = write_run(tmp_path / "real", 0, 0.5, "cifar100", source="somewhere")
    other = write_run(tmp_path / "digits", 0, 0.5, "cifar100", source=None)
    real, standing_in = tables(rows([run]))[0], tables(rows([other]))[0]
    assert any(column.startswith("paper") for column in real.header)
    assert "(on digits)" in standing_in.of
    assert not any(column.startswith("paper") for column in standing_in.header)


def test_a_value_of_fewer_seeds_than_its_line_says_so(tmp_path):
    runs = [write_run(tmp_path / f"seed{seed}", seed, 0.5 + seed / 10) for seed in range(2)]
    head = {"event": "metric", "method": "rtl", "sparsity": 0.5, "reading": "like_for_like"}
    with (runs[0] / "records.jsonl").open("a") as file:
        file.write(json.dumps({**head, "metric": "accuracy", "value": 0.4}) + "\n")
    like = next(table for table in tables(rows(runs)) if "AUC" in table.header)
    assert like.header == ["method", "sparsity", "seeds", "AUC", "accuracy"]
    assert like.body == [["rtl", "50%", "2", "0.550 ± 0.635", "0.400 (n = 1)"]]


def test_a_new_metric_is_one_entry(tmp_path):
    info = MetricInfo(
        "perplexity", "Perplexity", format="decimal", higher_is_better=False, table="quality", headline=("",)
    )
    register_metric(info)
    try:
        run = write_run(tmp_path / "run", 0, 0.5)
        head = {"event": "metric", "sparsity": 0.5, "metric": "perplexity"}
        lines = [json.dumps({**head, "method": m, "value": v}) for m, v in (("rtl", 8.0), ("imp", 10.5))]
        (run / "records.jsonl").write_text("\n".join(lines) + "\n")
        found = rows([run])
        assert row_of(found, "rtl", "perplexity_lead")["mean"] == 2.5  # less is better
        plain, ahead = (t for t in tables(found) if "What" not in t.title and "cost" not in t.title)
        assert (plain.header[-1], plain.body[0][-1]) == ("perplexity", "8.0")
        assert (ahead.header[-1], ahead.body[0][-1]) == ("perplexity: of imp", "+2.5")
        with pytest.raises(UsageError, match="already"):
            register_metric(replace(info, label="Other"))
    finally:
        METRICS.pop("perplexity")


def test_a_table_is_markdown():
    table = Table("T", ["a", "b"], [["x", "1"]])
    assert table.markdown() == "### T\n\n| a | b |\n| --- | ---: |\n| x | 1 |\n"


# -- on a terminal -----------------------------------------------------------------------------------------

WIDE = Table(
    "digits, preset quick. Ahead of a single mask (imp; union_size_imp), differences within a seed and item",
    ["method", "sparsity", "seeds", *(f"column {i}" for i in range(9))],
    [["rtl", "50%", "3", *(f"+.{i}00 ± .0{i}0" for i in range(9))], ["imp", "50%", "3", *([""] * 9)]],
)


def shown(table, width):
    file = io.StringIO()
    Console(file=file, width=width, color_system=None).print(table)
    return file.getvalue()


def test_a_wide_table_is_printed_in_parts_that_begin_alike():
    text = shown(WIDE, 80)
    lines = [line.rstrip() for line in text.splitlines()]
    assert max(map(len, lines)) <= 80
    assert all(text.count(cell) == 1 for cell in WIDE.header[3:] + WIDE.body[0][3:])
    assert text.count("method") == text.count("sparsity") == text.count("rtl") > 1
    assert "…" not in text


def test_a_caption_has_the_width_of_the_terminal():
    lines = [line.rstrip() for line in shown(WIDE, 80).splitlines() if line.strip()]
    assert lines[0] == "digits, preset quick. Ahead of a single mask (imp; union_size_imp), differences"
    assert len(shown(Table("a short title", ["a"], [["1"]]), 80).splitlines()[1].rstrip()) == 13


def test_words_in_brackets_are_no_markup():
    assert "[bold]" in shown(Table("t [bold]", ["[red]a"], [["[/x]"]]), 80)


@given(st.lists(st.integers(1, 30), min_size=2, max_size=12), st.integers(1, 120))
def test_every_column_is_somewhere_once_and_parts_fit_if_they_can(widths, width):
    header, body = ["x" * w for w in widths], [["y"] * len(widths)]
    found = parts(header, body, width)
    assert all(part[0] == 0 for part in found)
    assert [i for part in found for i in part[1:]] == list(range(1, len(widths)))
    for part in found:
        assert len(part) == 2 or sum(widths[i] + 3 for i in part) + 1 <= width


# -- pages ------------------------------------------------------------------------------------------------

COMPARED = made_by("compare")
BEGIN, END = COMPARED.begin, COMPARED.end


def test_a_page_keeps_the_words_around_its_tables(three, tmp_path):
    page, found = tmp_path / "docs" / "cifar10.md", rows(three)
    put_tables(page, COMPARED, found, tables)
    first = page.read_text()
    assert first.startswith(
        f"# cifar10\n\n## Tables\n\n{BEGIN}\n\n### cifar10, preset quick\n\n#### The paper's reading"
    )
    page.write_text(f"before\n{first}\nafter; the end mark is {END}\n")
    put_tables(page, COMPARED, found, tables)
    assert page.read_text() == f"before\n{first}\nafter; the end mark is {END}\n"
    assert json.loads(page.with_suffix(".json").read_text()) == found


def test_a_page_keeps_the_rows_of_other_outcomes_and_replaces_its_own(three, tmp_path):
    page, found = tmp_path / "cifar10.md", rows(three)
    put_tables(page, COMPARED, found, tables)
    changed = [{**row, "mean": 0.5} for row in found if row["method"] == "rtl"]
    put_tables(page, COMPARED, changed, tables)
    stored = json.loads(page.with_suffix(".json").read_text())
    assert [row for row in stored if row["method"] == "rtl"] == changed
    others = [row for row in found if row["method"] != "rtl"]
    assert [row for row in stored if row["method"] != "rtl"] == others
    page.with_suffix(".json").write_text("no json")
    with pytest.raises(DataError, match="damaged"):
        put_tables(page, COMPARED, found, tables)


def test_a_page_without_marks_in_order_is_refused_and_left_as_it_is(three, tmp_path):
    page = tmp_path / "page.md"
    for text in ("words", BEGIN, f"{END}\n{BEGIN}"):
        page.write_text(text)
        with pytest.raises(DataError, match="no place for tables"):
            put_tables(page, COMPARED, rows(three), tables)
        assert page.read_text() == text
    assert not page.with_suffix(".json").exists()
    with pytest.raises(UsageError, match=r"NAME\.md"):
        put_tables(tmp_path / "page.txt", COMPARED, rows(three), tables)


def test_a_page_is_checked_with_the_marks_and_the_twin_of_a_command(tmp_path):
    page = tmp_path / "page.md"
    check_page(page, COMPARED)  # a new one
    page.write_text(f"{BEGIN}\n{END}\n")
    check_page(page, COMPARED)
    with pytest.raises(DataError, match="put the lines <!-- tables: made by `tombola route` -->"):
        check_page(page, made_by("route"))
    page.with_suffix(".json").write_text("[{}]")
    with pytest.raises(DataError, match="is damaged"):
        check_page(page, COMPARED)


def test_a_page_of_several_experiments_has_a_place_for_each(tmp_path):
    page, mine, other = tmp_path / "all.md", place_of(("digits", "quick T=5")), place_of(("mine", ""))
    page.write_text(f"a\n{mine.begin}\n{mine.end}\nb\n{other.begin}\n{other.end}\nc\n")
    made = [Table("T", ["a"], [["1"]])]
    kept = {"experiment": "digits", "preset": "paper", "n": 0}
    for n in (1, 2):  # the second time the row is replaced
        put_tables(page, mine, [kept, {"experiment": "digits", "preset": "quick", "n": n}], made)
    put_tables(page, other, [{"experiment": "mine", "preset": "", "n": 3}], [])
    table = f"{mine.begin}\n\n{made[0].markdown()}\n{mine.end}"
    assert page.read_text() == f"a\n{table}\nb\n{other.begin}\n\n\n{other.end}\nc\n"
    stored = json.loads(page.with_suffix(".json").read_text())
    assert [row["n"] for row in stored] == [0, 2, 3]


# -- ticket files -----------------------------------------------------------------------------------------


def test_describe_counts_what_a_file_holds(convnet, random_masks, tmp_path):
    from tombola import TicketModel, scope

    masks = random_masks(scope(convnet))
    private = {name: {"1.running_mean": convnet[1].running_mean + i} for i, name in enumerate(masks.names)}
    file = tmp_path / "x.tickets"
    size = TicketModel(convnet, masks, private, {"seed": 3}).save(file)
    metadata = describe(file)
    assert metadata["bytes"] == size == file.stat().st_size
    assert metadata["weights_in_scope"] == masks.scope.size
    assert metadata["tickets"] == masks.counts
    assert (metadata["union"], metadata["core"]) == (int(masks.union().sum()), int(masks.core().sum()))
    assert metadata["private_numbers_per_ticket"] == 4
    assert metadata["facts"] == {"seed": 3}
    for name in masks.names:
        assert metadata["layers"][name] == masks.layer_densities(name)
    assert np.allclose(metadata["jaccard"], masks.jaccard().numpy(), atol=1e-4)
    assert math.isclose(metadata["kappa"][0][0], 1)


def test_describe_says_that_a_stage_holds_no_tickets(tmp_path):
    with Run(tmp_path, {"seed": 0, "methods": []}) as run:
        run.get_or_compute("a", lambda stage: ({}, {}))
    with pytest.raises(TicketFileError, match="holds no tickets"):
        describe(tmp_path / "stages" / "a.safetensors")


@pytest.mark.parametrize("what", ["data", "partition", "backbone", "objective"])
def test_runs_of_other_data_are_no_seeds_of_one_experiment(what, tmp_path):
    runs = [write_run(tmp_path / f"seed{seed}", seed, 0.5) for seed in range(2)]
    for run, value in zip(runs, "ab", strict=True):
        config = yaml.safe_load((run / "config.yaml").read_text())
        (run / "config.yaml").write_text(yaml.safe_dump({**config, what: value}))
    with pytest.raises(RunError, match=f"have different {what}: compare them one by one"):
        rows(runs)
    (runs[1] / "config.yaml").write_text(yaml.safe_dump({k: v for k, v in config.items() if k != what}))
    assert rows(runs)  # an older run, which did not say


def test_one_seed_may_lie_in_two_runs_of_different_methods(tmp_path):
    a = write_run(tmp_path / "a", 0, 0.5, methods=["rtl"])
    b = write_run(tmp_path / "b", 0, 0.7, methods=["imp"])
    assert rows([a, b])
    with pytest.raises(RunError, match="are both seed 0 of rtl: compare them one by one"):
        rows([a, write_run(tmp_path / "c", 0, 0.6, methods=["imp", "rtl"])])
