"""Tasks that arrive one by one: what rivals keep, forget and store."""

import json
import sys
from dataclasses import replace

import pytest
import torch

from tombola._utils.rng import generator
from tombola.cli import main as cli
from tombola.lab.continual.evaluate import carried_out, order_of, rows, summary, tables
from tombola.lab.continual.rivals import RIVALS, Arrivals, elastic
from tombola.lab.experiments.tenants import tenants
from tombola.masks.maskset import MaskSet
from tombola.tickets.membership import acting
from tombola.training.trainer import Problem

MASKS = ("grow", "grow_free", "wsn", "packnet", "supsup", "piggyback")


@pytest.fixture(scope="module")
def arrivals():
    experiment = tenants(3)
    data = experiment.load(None, False)
    s = experiment.presets["quick"].settings
    settings = replace(s, sparsity=(0.8,), T=5, steps=20, schedule="fraction:0.5")
    backbone = experiment.backbone(generator(0, "theta0"))
    return Arrivals(backbone, experiment.objective, data, experiment.partition(data), settings, 0, (2, 0, 1))


@pytest.mark.parametrize("rival", RIVALS)
def test_every_rival_is_judged_after_every_arrival(rival, arrivals):
    found = carried_out(rival, arrivals)
    assert found["names"] == ["tenant 2", "tenant 0", "tenant 1"]
    assert [len(row) for row in found["R"]] == ([1, 2, 3] if len(found["R"]) == 3 else [3])
    assert all(0.1 <= value <= 1 for row in found["R"] for value in row)
    assert found["capacity"] > found["union"] > 0
    values = summary(found)
    if rival in MASKS:
        assert values["forgetting"] == values["backward_transfer"] == 0
    assert ("task_inferred" in values) == (rival != "separate")
    if rival in MASKS:
        assert values["task_inferred"] > 0.5  # of three
        assert values["accuracy_inferred"] <= min(values["task_inferred"], values["accuracy"])
    if rival == "packnet":
        assert found["union"] == pytest.approx(0.6, abs=0.01)  # a fifth of its own for each


@pytest.mark.parametrize("rival", MASKS)
def test_no_arrival_changes_a_bit_of_those_before(rival, arrivals):
    before = {}
    for models in RIVALS[rival].run(arrivals):
        for name, model in models.items():
            assert before.setdefault(name, acting(model, [name])) == acting(model, [name])
    assert len(before) == 3


def test_who_is_trained_in_turn_forgets_and_less_so_where_weights_are_held(arrivals):
    longer = replace(arrivals, settings=replace(arrivals.settings, steps=150))
    plain, held = (summary(carried_out(name, longer)) for name in ("finetune", "ewc"))
    assert plain["forgetting"] > held["forgetting"]
    assert plain["forgetting"] > 0.1


@pytest.mark.parametrize("rival", RIVALS)
def test_every_rival_takes_as_many_steps(rival, arrivals, monkeypatch):
    steps, plain = [], Problem.gradient

    def counted(self, *given):
        steps.append(1)
        return plain(self, *given)

    monkeypatch.setattr(Problem, "gradient", counted)
    for _ in RIVALS[rival].run(arrivals):
        pass
    assert arrivals.steps == 3 * 5 + 20  # rounds to a fifth by halves, then Algorithm 2
    assert len(steps) == 3 * arrivals.steps


def test_the_penalty_is_the_one_of_the_equation(arrivals):
    p = arrivals.pipeline
    problem = p.problem("own", arrivals.settings.train)
    theta = p.theta0.clone(3)
    held = elastic(problem.objective, problem, theta, 0)
    masks = MaskSet.dense(p.f.scope, p.partition.names)
    (batch,) = problem.draw([(1, problem.stream(1, "test"), 0)])
    there = float(problem.loss(theta, masks.masks_KN[1], batch))
    problem.objective = held
    assert float(problem.loss(theta, masks.masks_KN[1], batch)) == pytest.approx(there)  # nothing has moved
    with torch.no_grad():
        theta.weights_N += 0.1
    moved = float(problem.loss(theta, None, batch))
    twice = elastic(held, replace(problem, objective=held), theta, 1)
    assert vars(twice)["plain"] is vars(held)["plain"]  # F is of the loss, whatever holds it back already
    problem.objective = p.problem("own", arrivals.settings.train).objective
    assert moved > float(problem.loss(theta, None, batch))


def test_what_is_found_once_more_counts_once_and_what_has_no_room_is_named(tmp_path, capsys):
    command = ("continual", "tenants", "--out", tmp_path, "--set", "T=1", "steps=1", "schedule=one_shot")
    _, _, err = call(capsys, *command, "--sparsity", "0.8", "--rival", "grow", "grow")
    assert "--rival: each value is needed once" in err.replace("\n", " ")
    _, _, err = call(capsys, *command, "--sparsity", "0.5", "--rival", "separate", "packnet")
    assert "packnet: K = 10 tickets of their own do not fit at 50%: 90% or more is needed" in err.replace(
        "\n", " "
    )
    assert not list(tmp_path.rglob("*.json"))
    call(capsys, *command, "--sparsity", "0.8", "--rival", "separate")
    (kept,) = tmp_path.rglob("*.json")
    kept.write_text("{")
    _, _, err = call(capsys, *command, "--sparsity", "0.8", "--rival", "separate")
    assert "is damaged: delete it" in err.replace("\n", " ")


def test_tasks_are_inferred_whatever_order_they_came_in(arrivals):
    for rival in ("joint", "multi_head", "grow"):
        assert carried_out(rival, arrivals)["task_inferred"] > 0.5


def test_orders_are_those_of_their_seed():
    assert order_of(5, 0) == [0, 1, 2, 3, 4]
    assert order_of(20, 1) == order_of(20, 1) != order_of(20, 2)


def test_rows_have_a_mean_over_seeds_and_tables_a_line_per_rival(arrivals):
    found = [carried_out("separate", replace(arrivals, seed=seed)) for seed in (0, 1)]
    made = rows(found, "tenants", "quick")
    assert {row["seeds"] for row in made} == {2}
    (table,) = tables(made)
    assert table.body[0][:3] == ["separate", "", "2"]


def call(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        sys.exit(cli.main([*map(str, arguments)]))
    out, err = capsys.readouterr()
    return stop.value.code or 0, out, err


def test_the_command_goes_on_where_it_was(tmp_path, capsys):
    few = ("T=1", "steps=2", "schedule=one_shot")
    command = ("continual", "tenants", "--rival", "grow", "--out", tmp_path, "--sparsity", "0.8", "--json")
    code, out, err = call(capsys, *command, "--set", *few)
    assert code == 0, err
    (kept,) = tmp_path.glob("tenants-quick/continual/seed0/*.json")
    assert len(json.loads(kept.read_text())["R"]) == 10
    content = kept.read_text().replace('"seconds": [', '"seconds": [1000, ')
    older = json.loads(content)
    del older["made_of"]["settings"]["reference"]  # of a version that did not have it
    content = json.dumps(older)
    kept.write_text(content)
    code, out, _ = call(capsys, *command, "--set", *few, "--write", tmp_path / "page.md")
    assert code == 0
    assert next(row for row in json.loads(out) if row["metric"] == "seconds")["mean"] > 90
    assert "one by one" in (tmp_path / "page.md").read_text()
    code, _, err = call(capsys, *command, "--set", "T=2")
    assert code != 0
    assert "was made with other settings or data" in err.replace("\n", " ")
    for name, words in (("digits", "are its answers"), ("inr", "a network for each of its items")):
        code, _, err = call(capsys, "continual", name, "--out", tmp_path)
        assert code != 0
        assert words in err.replace("\n", " ")
    code, _, err = call(capsys, *command[:3], "nobody")
    assert "nobody" in err
    assert "grow" in err


def test_a_rival_that_fails_loses_nothing_of_the_others(tmp_path, capsys):
    few = ("--set", "T=1", "steps=1", "schedule=one_shot", "--out", tmp_path, "--json")
    command = ("continual", "tenants", "--sparsity", "0.9995", "--rival")
    code, out, err = call(capsys, *command, "packnet", "finetune", *few)
    assert code == 1
    assert "seed 0: packnet at 99.95% failed: " in err.replace("\n", " ")
    assert err.rstrip().endswith("some rivals failed, see above")
    assert {row["method"] for row in json.loads(out)} == {"finetune"}
    code, out, err = call(capsys, *command, "packnet", *few)
    assert (code, out) == (1, "")
    assert err.rstrip().endswith("no rival could be carried out")
