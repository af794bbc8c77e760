"""The alarm for collapse: what is recorded, when it fires, and what readers are told of it."""

import json

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tombola._utils.errors import DataError, RunError
from tombola.cli.collapse import collapse
from tombola.cli.main import main
from tombola.lab.experiments import EXPERIMENTS
from tombola.lab.report.findings import gather
from tombola.lab.report.html import page
from tombola.lab.report.tickets import collapse as chapter
from tombola.masks.layout import Layout
from tombola.masks.maskset import MaskSet
from tombola.masks.similarity import kappa
from tombola.runs.log import read_records
from tombola.settings import Settings
from tombola.training.callbacks.collapse import CollapseMonitor, alarms, cusum, first_alarm

SCOPE = Layout(("a", "b", "c"), ((400,), (30,), (500,)))
NAMES = ["w", "x", "y"]


def pruned(names=NAMES, keeps=((400, 25, 500), (300, 12, 200), (9, 8, 12))):
    """Masks of three rounds, each within the one before, with other counts for every ticket."""
    g = torch.Generator().manual_seed(0)
    scores = {name: torch.rand(SCOPE.size, generator=g) for name in names}
    rounds = []
    for r, keep in enumerate(keeps):
        rows = {}
        for k, (name, score) in enumerate(scores.items()):
            parts = zip(score.split(SCOPE.sizes), keep, strict=True)
            rows[name] = torch.cat([s.argsort().argsort() < max(1, n - r * k) for s, n in parts])
        rounds.append(MaskSet(SCOPE, rows))
    return rounds


def watched(rounds, threshold=None):
    """What a monitor records, one that is resumed before each round."""
    rows, state = [], CollapseMonitor().state()
    for r, masks in enumerate(rounds):
        monitor = CollapseMonitor(threshold)
        monitor.restore(json.loads(json.dumps(state)))
        monitor.on_round_end(r, masks, lambda **row: rows.append(row))
        state = monitor.state()
    return rows


# -- the monitor ------------------------------------------------------------------------------------------


def test_every_round_is_measured_and_the_smallest_layer_is_an_alarm_once():
    rounds = pruned()
    rounds.append(rounds[-1])
    rows = watched(rounds)
    assert [row["event"] for row in rows] == ["watch", "watch", "watch", "alarm", "watch"]
    watch, alarm = rows[2], rows[3]
    assert list(watch) == ["event", "round", "density", "fewest", "ticket", "layer", "kappa"]
    assert (watch["round"], watch["fewest"], watch["ticket"], watch["layer"]) == (2, 5, "y", "a")  # 9 − 2 · 2
    others = ~torch.eye(3, dtype=torch.bool)
    assert watch["kappa"] == pytest.approx(float(kappa(rounds[2], rounds[2])[others].mean()), abs=1e-6)
    density = rounds[2].density
    assert alarm == {"event": "alarm", "round": 2, "density": density, "fired": ["smallest layer"]}
    assert rows[0]["fewest"] == 400  # the layer of 30 is too small to be asked


def test_a_resumed_monitor_records_what_one_that_goes_through_does():
    rounds, rows, monitor = pruned(), [], CollapseMonitor(0.0)
    for r, masks in enumerate(rounds):
        monitor.on_round_end(r, masks, lambda **row: rows.append(row))
    assert rows == watched(rounds, 0.0)


def test_one_ticket_has_no_kappa_and_dense_masks_have_none_that_is_defined():
    (row,) = watched([MaskSet.dense(SCOPE, ["all"])])
    assert "kappa" not in row
    (row,) = watched([MaskSet.dense(SCOPE, NAMES)])
    assert row["kappa"] is None
    (row,) = watched([MaskSet.dense(Layout(("b",), ((30,),)), ["all"])])
    assert row == {"event": "watch", "round": 0, "density": 1.0}


def course(*kappas):
    return [{"round": r, "density": 0.8**r, "kappa": k} for r, k in enumerate(kappas)]


def test_specialisation_is_an_alarm_above_a_threshold_that_the_user_gives():
    rows = course(0.5, 0.5, 0.6, None, 0.75, 0.75)
    assert cusum(rows) == pytest.approx([0, 0, 0.09, 0.09, 0.23, 0.22])
    assert first_alarm(rows) is None
    assert first_alarm(rows, 0.3) is None
    assert first_alarm(rows, 0.1) == {"round": 4, "density": 0.8**4, "fired": ["specialisation"]}
    both = [{**row, "fewest": 9 if row["round"] == 4 else 10} for row in rows]
    assert first_alarm(both, 0.1)["fired"] == ["smallest layer", "specialisation"]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.none() | st.floats(0, 1), max_size=12), st.floats(0, 0.5))
def test_the_cusum_is_never_negative_and_no_round_changes_those_before_it(kappas, threshold):
    g = cusum(course(*kappas))
    assert all(value >= 0 for value in g)
    assert g[:5] == cusum(course(*kappas[:5]))
    found = first_alarm(course(*kappas), threshold)
    assert (found is None) == all(value <= threshold for value in g)


# -- records, the command, the page -----------------------------------------------------------------------

REMOVED = [round(1 - 0.8**t, 4) for t in range(1, 16)]


def write_run(path, seed=0, scores=(), jump=99, fewest=(), fired=None):
    """A run whose search was watched: kappa rises steadily, and fast from round ``jump`` on."""
    path.mkdir(parents=True)
    plain = {**Settings().plain(), "sparsity": REMOVED}
    config = {"experiment": None, "seed": seed, "settings": plain, "methods": ["rtl"]}
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    stage, records = {"stage": "search-own-0.9"}, []
    for r, removed in enumerate(REMOVED):
        row = {"event": "watch", "round": r, "density": 1 - removed, **stage, "ticket": "a", "layer": "w"}
        row |= {"kappa": 0.4 + 0.005 * r + 0.05 * max(r - jump + 1, 0), "fewest": [*fewest, *[100] * 15][r]}
        records += [row, {**row, "stage": "search-twin-0.9", "fewest": 0}]
    for removed, score in zip(REMOVED, scores, strict=False):
        row = {"event": "metric", "method": "rtl", "sparsity": removed, "metric": "balanced_accuracy"}
        records.append({**row, "reading": "like_for_like", "value": score})
        records.append({**row, "reading": "paper", "value": removed})
    if fired:
        records.append(
            {"event": "alarm", **stage, "round": 8, "density": 0.1, "fired": fired, "last_good": 7}
        )
    (path / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in records))
    return path


def falling(at, by=0.05):
    return [0.9 - by * (t >= at) for t in range(15)]


@pytest.fixture
def three(tmp_path):
    """Drops in rounds 10, 12 and never; kappa jumps in round 8, the smallest layer falls in round 11."""
    write_run(tmp_path / "g" / "seed0", 0, falling(10), jump=8)
    write_run(tmp_path / "g" / "seed1", 1, falling(12), fewest=[100] * 11 + [9] * 4)
    write_run(tmp_path / "g" / "seed2", 2, falling(12, by=0.02))
    return tmp_path / "g"


def test_alarms_and_drops_by_hand(three, tmp_path, capsys):
    out = tmp_path / "collapse.md"
    out.write_text("# C\n\n<!-- tables: g -->\n<!-- end of tables: g -->\nwords\n")
    collapse(three, threshold=0.1, write=out, json=True)
    runs = json.loads(capsys.readouterr().out)
    assert [run["drop"] for run in runs] == [REMOVED[10], REMOVED[12], None]
    assert [run["alarm"] for run in runs] == [
        REMOVED[10],
        REMOVED[11],
        None,
    ]  # 0.045 a round above .1: the third
    assert [run["fired"] for run in runs] == [["specialisation"], ["smallest layer"], []]
    assert runs[0]["cusum"] == pytest.approx(7 * 0.045)
    assert runs == json.loads(out.with_suffix(".json").read_text())
    text = out.read_text()
    assert text.endswith("<!-- end of tables: g -->\nwords\n")
    assert f"| seed 1 | {REMOVED[12]:.1%} | {REMOVED[11]:.1%} | smallest layer | 0.000 |" in text
    assert "| seed 2 | never | never |  | 0.000 |" in text
    collapse(three, points=1, json=True)
    runs = json.loads(capsys.readouterr().out)
    assert [run["alarm"] for run in runs] == [None, REMOVED[11], None]
    assert runs[2]["drop"] == REMOVED[12]


def test_a_new_page_has_a_place_for_each_experiment(three, tmp_path, capsys):
    other = write_run(tmp_path / "h" / "seed0", 0, falling(10))
    page = tmp_path / "new.md"
    collapse(three, other, write=page, json=True)
    assert len(json.loads(page.with_suffix(".json").read_text())) == 4
    text = page.read_text()
    assert text.startswith("# new\n\n## Tables\n\n<!-- tables: g -->\n\n")
    first, second = text.split("<!-- end of tables: g -->\n\n<!-- tables: h -->")
    assert "| seed 2 |" in first
    assert "| seed 0 |" in second
    page.write_text("<!-- tables: g -->\n<!-- end of tables: g -->\n")  # of one alone: nothing is written
    with pytest.raises(DataError, match="put the lines <!-- tables: h -->"):
        collapse(three, other, write=page)
    assert page.read_text() == "<!-- tables: g -->\n<!-- end of tables: g -->\n"
    capsys.readouterr()


def test_changes_of_a_preset_share_its_place_and_have_a_table_each(tmp_path, capsys):
    settings = EXPERIMENTS["digits"].presets["quick"].settings.plain()
    for T, at in ((settings["T"], 10), (8, 12)):
        run = write_run(tmp_path / f"T{T}" / "seed0", 0, falling(at))
        config = {"experiment": "digits", "preset": "quick", "seed": 0, "settings": {**settings, "T": T}}
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        collapse(run, write=tmp_path / "page.md", json=True)  # one after the other, then both
        text = (tmp_path / "page.md").read_text()
    assert "digits, preset quick T=8" in text
    assert f"{REMOVED[10]:.1%}" in text
    assert f"{REMOVED[12]:.1%}" in text
    collapse(tmp_path, write=tmp_path / "page.md", json=True)
    assert (tmp_path / "page.md").read_text() == text
    capsys.readouterr()


def test_what_cannot_be_judged_is_refused(three, tmp_path):
    for arguments in (["collapse"], ["collapse", str(three), "--points", "0"]):
        with pytest.raises(SystemExit) as error:
            main(arguments)
        assert error.value.code == 2
    unwatched = forget(write_run(tmp_path / "old"))
    with pytest.raises(RunError, match="watched in none"):
        collapse(unwatched)


def forget(run):
    kept = [line for line in (run / "records.jsonl").read_text().splitlines(True) if "watch" not in line]
    (run / "records.jsonl").write_text("".join(kept))
    return run


def test_an_alarm_in_words_and_on_the_page(tmp_path):
    run = write_run(tmp_path / "run", fired=["likeness", "drift"])  # an older run's
    words = "alarm for collapse in the search own: likeness and drift, in round 9, at 90.0% removed"
    assert alarms(read_records(run)) == [words]
    text = page([run])
    assert "Has pruning gone too far?" in text
    assert f"seed 0: {words}." in text
    assert "Likeness and the smallest layer, round by round" in text


def test_a_page_without_an_alarm_says_so_and_old_runs_have_no_chapter(tmp_path):
    run = write_run(tmp_path / "run")
    _, said, table = chapter(gather(("g", ""), [run]))
    assert said.lines == ["No alarm in 1 watched run."]
    assert table.table.body[0] == ["seed 0", "20.0%", "0.400", "100"]
    assert len(table.table.body) == 15
    assert chapter(gather(("g", ""), [forget(run)])) == []
    assert "Has pruning gone too far?" not in page([run])
