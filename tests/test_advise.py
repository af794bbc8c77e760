"""The advice whether tickets pay."""

from __future__ import annotations

import html
import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import tombola as tb
from tests.test_affinity import CONFIG, network, planted, world
from tombola.analysis.advise import Advice, _judged_on_validation, _lead
from tombola.analysis.trials import ARMS, Arm, Trials, _arms
from tombola.cli.advise import _command
from tombola.cli.main import main
from tombola.lab.launch import Order
from tombola.methods.pipeline import Pipeline
from tombola.runs.cache import StageCache
from tombola.settings import Settings

PAGE = Path(__file__).parent.parent / "docs" / "advise.md"
SHORT = Settings((0.5,), "one_shot", T=5, steps=50, statistics=1, search=CONFIG, train=CONFIG)


def advice(turned: tuple[bool, ...], samples: int = 1200, **options: object) -> Advice:
    data, partition = world(turned, samples)
    options = {
        "settings": SHORT,
        "minutes": 30,
        "parallel": "no",
        **options,
    }  # as many as the settings ask for
    return tb.advise(network(), tb.objectives.Classification(), data, partition, **options)


def test_contexts_that_agree_need_one_mask():
    found = advice((False, False), 6000)
    assert found.method == "imp"
    assert found.answer.startswith("One mask is enough")
    assert "agree" in found.reasons[0]
    assert {arm.method for arm in found.first} == {"imp", "imp_context"}
    assert "the contexts agree" in found.closed["rtl"]


def test_contexts_that_disagree_need_more():
    found = advice((False, True))
    assert found.method != "imp"
    assert found.affinity.mean < 0
    assert {arm.method for arm in found.first} == {"imp", "imp_context", "rtl", "imp_per_subset"}
    assert "rtl" in {arm.method for arm in found.second}
    assert found.information is not None
    assert found.information > 0.1
    assert found.method in str(found)
    assert "not run (no part of the network is private" in str(found)
    assert "-1 opposition." in found.reasons[0]  # two contexts are one pair
    three = planted(3, torch.tensor([[1.0, 0.1], [1.0, 0.0], [-1.0, 0.2]]), 4, 0.01, 0)
    assert re.search(r"; least between 1 and 2, -0\.9\d\.$", replace(found, affinity=three).reasons[0])
    assert not found.answer.startswith("Too short")
    assert replace(found, share=0.02).answer.startswith("Too short to tell, give it more minutes; after 2% ")


def test_the_test_split_is_not_read():
    settings = replace(SHORT, sparsity=(0.5,))

    def arms(broken: bool) -> list[Arm]:
        data, _ = world((False, True))
        if broken:
            data.test.y.fill_(1)
            data.test.x.fill_(torch.nan)
        given = _judged_on_validation(data, tb.partition.by_column(data, "context"))
        cache = StageCache("no")
        pipeline = Pipeline(network(), tb.objectives.Classification(), *given, settings, 0, cache)
        return _arms([Trials(pipeline, 1.0)._rung("first", ["imp", "rtl"], settings)], 0)

    assert arms(broken=True) == arms(broken=False)


def test_a_folder_keeps_it_and_it_goes_on_there(tmp_path):
    two = replace(SHORT, sparsity=(0.5, 0.75), steps=5)
    first = advice((False, True), out=tmp_path, settings=two)
    stages = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    second = advice((False, True), out=tmp_path, settings=two)
    assert first.plain() == second.plain()
    assert json.dumps(first.plain())
    assert stages
    assert all(path.stat().st_mtime_ns == time for path, time in stages.items())
    with pytest.raises(tb.TombolaError, match=r"was begun with 30 minutes"):
        advice((False, True), out=tmp_path, settings=two, minutes=20)
    with pytest.raises(tb.TombolaError, match="is no run and holds none"):
        tb.results(tmp_path)


@pytest.mark.parametrize("sparsity", [(0.5,), (0.25, 0.5, 0.75)])
@pytest.mark.parametrize("minutes", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("slower", [0.7, 1.0, 1.5])  # the machine, once the first rung is over
@pytest.mark.parametrize("fixed", [0.1, 1.5])  # seconds of an arm that are no training
def test_the_budget_is_kept(sparsity, minutes, slower, fixed, monkeypatch):
    clock, full = [0.0], 60.0  # seconds of an arm in full

    class Timed(Trials):
        def _rung(self, place, names, settings, seed=0):
            pace = 1.0 if place == "first" else slower
            each = fixed + full * settings.steps / SHORT.steps / 100
            clock[0] += pace * each * len(names) * len(settings.sparsity)
            return []

    monkeypatch.setattr("tombola.analysis.trials._arms", lambda found, first: found)
    monkeypatch.setattr(Timed, "_whole", lambda self, sparsity: full)
    settings = replace(SHORT, sparsity=sparsity, steps=100 * SHORT.steps)
    data, partition = world((False, True))
    given = _judged_on_validation(data, partition)
    pipeline = Pipeline(network(), tb.objectives.Classification(), *given, settings, 0, StageCache("no"))
    trials = Timed(pipeline, minutes, timer=lambda: clock[0])
    trials.closed["imp_context"] = "not here"
    clock[0] += 0.1 * minutes * 60  # affinity
    _, whole = trials.first(0.5)
    found, whole = trials.second(["imp", "rtl"], 0.5, whole)
    if len(sparsity) > 1:
        trials.third("imp", whole)
    assert len(found) >= 1
    assert clock[0] < 1.12 * minutes * 60
    assert clock[0] > 0.75 * minutes * 60 or trials.share == 1


def arm(method: str, *values: float, sparsity: float = 0.5) -> Arm:
    return Arm(method, sparsity, "accuracy", {(i, ""): v for i, v in enumerate(values)}, 10, 20)


def of(*arms: Arm, others: tuple[Arm, ...] = ()) -> Advice:
    return Advice(None, None, arms, arms, others, {})  # type: ignore[arg-type]


def test_the_simplest_of_equals_is_enough():
    assert of(arm("rtl", 0.9, 0.91, 0.92), arm("imp", 0.91, 0.90, 0.92)).method == "imp"
    assert of(arm("rtl", 0.9, 0.91, 0.92), arm("imp", 0.8, 0.81, 0.82)).method == "rtl"
    assert (
        of(arm("rtl", 0.903, 0.913, 0.923), arm("imp", 0.9, 0.91, 0.92)).method == "imp"
    )  # surely, a trifle
    assert of(arm("imp_per_subset", 0.9, 0.91, 0.92), arm("rtl", 0.9, 0.91, 0.92)).method == "rtl"


def test_the_sparsity_is_the_highest_that_costs_next_to_nothing():
    others = (arm("imp", 0.9), arm("imp", 0.897, sparsity=0.8), arm("imp", 0.7, sparsity=0.9))
    assert of(arm("imp", 0.9), others=others).sparsity == 0.8


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"minutes": 0}, "minutes must be above 0"),
        ({"out": 3}, "path of a directory"),
        ({"T2": 3}, "setting"),
    ],
)
def test_bad_arguments_are_refused(options, words):
    with pytest.raises(tb.TombolaError, match=words):
        advice((False, True), **options)


def test_the_program_of_the_page_runs():
    program = "\n".join(re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL))
    names: dict[str, object] = {}
    exec(program, names)
    assert names["merged"].names == ("north+south", "mirror")  # type: ignore[attr-defined]
    assert names["found"].names == ("all",)  # type: ignore[attr-defined]
    assert names["moved"].sizes() == names["merged"].sizes()  # type: ignore[attr-defined]
    assert names["advice"].method in ARMS  # type: ignore[attr-defined]


def test_one_subset_has_nothing_to_choose():
    data, partition = world((False, False))
    with pytest.raises(tb.TombolaError, match="one subset"):
        tb.advise(network(), tb.objectives.Classification(), data, partition.whole())


def test_the_command_writes_it_where_the_report_finds_it(tmp_path, capsys):
    begin = ["advise", "corruptions", "--minutes", "0.01", "--sparsity", "0.5", "--out", str(tmp_path)]
    short = ["T=1", "rewind=0", "steps=2", "statistics=1", "schedule=one_shot"]
    with pytest.raises(SystemExit, match="0"):
        main([*begin, "--set", *short, "--parallel", "no", "--json"])
    folder = tmp_path / "corruptions-quick" / "advice"
    kept = json.loads((folder / "advice.json").read_text())
    assert json.loads(capsys.readouterr().out) == kept
    assert kept["names"] == ["clean", "rotation", "blur", "noise"]
    assert kept["matrix"][0][3] > kept["matrix"][0][1]  # noise is more like clean pictures than turned ones
    page = tmp_path / "page.html"
    with pytest.raises(SystemExit, match="1"):
        main(["report", str(folder), "-o", str(page)])
    assert "is no run and holds none" in capsys.readouterr().err
    run = ["run", "corruptions", "--method", "imp", "--sparsity", "0.5", "--out", str(tmp_path), "--brief"]
    for command in ([*run, "--set", *short], ["report", str(folder.parent), "-o", str(page)]):
        with pytest.raises(SystemExit, match="0"):
            main(command)
    assert "Do tickets pay here?" in page.read_text()
    assert html.escape(kept["answer"], quote=False) in page.read_text()


def test_the_next_command_asks_for_what_was_advised_on():
    order = Order.of("digits", augment=True, source="my data", device="cuda", tune=True)
    advice = SimpleNamespace(method="rtl", sparsity=0.8)
    words = _command(order, advice, ["T=3", "sparsity=[0.5]", "private=[a, b]"], "cat")
    assert words == (
        "tombola run digits --data 'my data' --augment --tune --device cuda --item cat --method rtl imp "
        "--sparsity 0.8 --seed 0 1 2 --set T=3 'private=[a, b]'"
    )
    words = _command(Order.of("digits", source=None), advice, (), "")
    assert words == "tombola run digits --method rtl imp --sparsity 0.8 --seed 0 1 2"


def test_a_difference_without_an_interval_says_so():
    reached = {"imp": 0.9, "rtl": 0.8}
    first, second = (Arm(name, 0.5, "accuracy", {(0, ""): v}, 1.0, 1.0) for name, v in reached.items())
    assert "one difference, no interval" in _lead(first, second)
