"""The alarm against labels: runs, rules, tables, pages; and what readers are told of it."""

import json
import math

import pytest
import yaml

from tombola._utils.errors import RunError
from tombola.cli.main import main
from tombola.lab.analysis.alarmed import alarms
from tombola.lab.report.collapsing import chapter
from tombola.lab.report.findings import gather as gather_findings
from tombola.lab.report.html import page
from tombola.lab.report.rows import rows
from tombola.lab.report.trials import finished_search, gather, judge, rules, verdicts_table
from tombola.settings import Settings

REMOVED = [round(1 - 0.8**t, 4) for t in range(1, 16)]


def write_run(path, seed=0, scores=None, jump=99, stopped=None, skip=(), fewest=None, methods=("rtl",)):
    """A run whose search was watched: kappa rises steadily, and fast from round ``jump`` on."""
    path.mkdir(parents=True)
    settings = {**Settings().plain(), "sparsity": REMOVED}
    config = {"experiment": None, "seed": seed, "settings": settings, "methods": list(methods)}
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    records = []
    for r, removed in enumerate(REMOVED):
        kappa = 1 - math.exp(-(0.5 + 0.01 * r + 0.001 * (r % 3) + 0.3 * max(r - jump + 1, 0)))
        row = {
            "event": "watch",
            "round": r,
            "density": 1 - removed,
            "kappa": kappa,
            "stage": "search-own-0.9",
        }
        row["fewest"] = 100 if fewest is None else fewest[r]
        records.append({**row, "ticket": "a", "layer": "w"})
    values = scores or [0.9] * 15
    for method in methods:
        for i, removed in enumerate(REMOVED):
            if i not in skip:
                row = {"event": "metric", "method": method, "sparsity": removed, "reading": "like_for_like"}
                records.append({**row, "metric": "balanced_accuracy", "value": values[i]})
                records.append(
                    {
                        "event": "metric",
                        "method": method,
                        "sparsity": removed,
                        "metric": "per_ticket",
                        "value": 9,
                    }
                )
    if stopped is not None:
        alarm = {
            "event": "alarm",
            "stage": "search-own-0.9",
            "round": 8,
            "density": 0.1,
            "fired": ["likeness"],
        }
        records.append(
            {**alarm, "last_good": 7, "last_good_density": 0.168, "false_alarms": 0.05, "stops": True}
        )
        row = {"event": "stopped", "stage": "search-own-0.9", "at": stopped[0], "sparsity": 0.832}
        records.append({**row, "not_reached": list(stopped)})
    (path / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in records))
    return path


def falling(at, by=0.05):
    return [0.9 - by * (t >= at) for t in range(15)]


@pytest.fixture
def three(tmp_path):
    """Drops in rounds 10, 12 and never; alarms in rounds 8, 13 and never."""
    write_run(tmp_path / "g" / "seed0", 0, falling(10), jump=8)
    write_run(tmp_path / "g" / "seed1", 1, falling(12), jump=13)
    write_run(tmp_path / "g" / "seed2", 2)
    return tmp_path / "g"


def test_rules_are_judged_by_hand(three):
    (runs,) = gather(sorted(three.iterdir()), "balanced_accuracy", "like_for_like", "rtl").values()
    made = {each.rule: each for each in judge(runs)}
    likeness = made["likeness alone"]
    fired = [rules()["likeness alone"](run)[0] for run in runs]
    assert fired[2] is None
    assert 8 <= fired[0] < 10 < 13 <= fired[1]
    assert likeness.leads == (10 - fired[0], 12 - fired[1])
    e = likeness.found
    assert (e.runs, e.drops, e.in_time, e.late, e.missed, e.false) == (3, 2, 1, 1, 0, 0)
    assert made["smallest layer alone"].found.missed == 2
    fixed = made["stop at a fixed density"]
    # Learnt from the others: rounds 11, 9 and 9 are the last safe ones.
    assert fixed.leads == (10 - 11, 12 - 9)
    assert fixed.removed == pytest.approx((REMOVED[11] + 2 * REMOVED[9]) / 3)
    assert fixed.lost == pytest.approx(0.05 / 3)
    assert fixed.found.false == 1
    assert made["never stop"].lost == pytest.approx(0.1 / 3)


def test_an_alarm_ends_at_the_last_good_round(tmp_path):
    fewest = [100] * 9 + [5] * 6
    runs = [finished_search(write_run(tmp_path / str(s), s, falling(12), fewest=fewest)) for s in (0, 1)]
    made = {each.rule: each for each in judge(runs)}
    assert made["smallest layer alone"].removed == pytest.approx(REMOVED[8])
    assert made["smallest layer alone"].leads == (3, 3)
    assert made["the alarm"].leads == (3, 3)
    alone = judge(runs[:1])
    assert [each.rule for each in alone] == [rule for rule in made if rule != "stop at a fixed density"]
    table = verdicts_table(("digits", "quick"), alone, "balanced accuracy", 0.02)
    assert "learnt from other runs" in table.title


def test_a_run_that_is_unfinished_unwatched_or_seldom_judged_is_left_out(tmp_path):
    assert finished_search(write_run(tmp_path / "part", skip=(14,))) is None
    assert finished_search(write_run(tmp_path / "stopped", skip=(13, 14), stopped=REMOVED[13:])) is not None
    few = write_run(tmp_path / "few", skip=range(4, 15), stopped=REMOVED[4:])
    assert finished_search(few) is None
    with pytest.raises(RunError, match="--set stop=warn"):
        gather([few], "balanced_accuracy", "like_for_like", "rtl")
    assert finished_search(tmp_path / "stopped", metric="auc") is None


def call(*arguments):
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    assert stopped.value.code in (0, None)


def test_the_command_writes_a_page_and_its_twin(three, tmp_path, capsys):
    out = tmp_path / "collapse.md"
    out.write_text("# C\n\n<!-- tables: g -->\n<!-- end of tables: g -->\nwords\n")
    call("collapse", str(three), "--write", str(out), "--json")
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(out.with_suffix(".json").read_text())
    assert {row["rule"] for row in printed} >= {"the alarm", "stop at a fixed density"}
    text = out.read_text()
    assert text.endswith("<!-- end of tables: g -->\nwords\n")
    assert "| likeness alone | 3 | 2 | 1 | 1 | 0 | 0 |" in text
    call("collapse", str(three), "--write", str(out))
    assert out.read_text() == text
    for arguments in (["collapse"], ["collapse", str(three), "--points", "0"]):
        with pytest.raises(SystemExit) as error:
            main(arguments)
        assert error.value.code == 2


# -- what readers are told --------------------------------------------------------------------------------


def test_an_alarm_in_words(tmp_path):
    run = write_run(tmp_path / "run", skip=(13, 14), stopped=REMOVED[13:])
    (alarm,) = alarms(map(json.loads, (run / "records.jsonl").open()))
    assert alarm.words == (
        "alarm for collapse in the search of the tickets: likeness, in round 9, at 90.0% of the weights "
        "removed (the last good round: 83.2%, stated false-alarm rate 5%). The search stopped: it went "
        "back to 83.2%; "
        f"sparsity {REMOVED[13]:.4g}, {REMOVED[14]:.4g} was not reached"
    )


def test_rows_and_page_name_what_was_not_reached(tmp_path):
    stopped = write_run(tmp_path / "g" / "seed0", 0, skip=(14,), stopped=REMOVED[14:])
    whole = write_run(tmp_path / "g" / "seed1", 1)
    reached = [row for row in rows([stopped, whole]) if row["metric"] == "reached"]
    assert [(row["sparsity"], row["mean"], row["seeds"]) for row in reached] == [(REMOVED[14], 0.5, 2)]
    found = gather_findings(("g", ""), [stopped, whole])
    assert [ran.missing for ran in found.runs] == [(), ()]  # a stopped run is not an unfinished one
    text = page([stopped, whole])
    assert f"sparsity {REMOVED[14]:.4g} was not reached" in text
    assert "Has pruning gone too far?" in text
    assert "likeness: kappa across tickets" in text
    assert "Each rule against a drop" in text


def test_a_page_without_an_alarm_says_so_and_old_runs_have_no_chapter(tmp_path):
    run = write_run(tmp_path / "run")
    blocks = chapter(gather_findings(("g", ""), [run]))
    assert blocks[1].lines == ["No alarm in 1 watched run."]
    kept = [line for line in (run / "records.jsonl").read_text().splitlines(True) if "watch" not in line]
    (run / "records.jsonl").write_text("".join(kept))
    assert chapter(gather_findings(("g", ""), [run])) == []
    assert "Has pruning gone too far?" not in page([run])
