"""Merging with data: choices on validation data, figures on test data, joint retraining; files, folders."""

import copy
import json
import sys
import weakref
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import tombola as tb
from tombola._utils.errors import DataError, MaskError, TombolaError
from tombola.cli import main as cli
from tombola.objectives import Classification
from tombola.tickets import checkpoints, merge_data
from tombola.tickets.merging import stored

PROGRAM = """
import torch
import tombola as tb
from torch import nn

def base():
    torch.manual_seed(0)
    first = nn.Linear(6, 32), nn.BatchNorm1d(32), nn.ReLU()
    return nn.Sequential(*first, nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 3))

def data(k):
    g = torch.Generator().manual_seed(k)
    x = torch.randn(400, 6, generator=g)
    return tb.Data.of(x, x[:, k : k + 3].argmax(1))

def left(): return data(0)
def right(): return data(2)
"""
names: dict = {}
exec(PROGRAM, names)
base, data = names["base"], names["data"]
DATA = {"left": data(0), "right": data(2)}


def tuned(one, steps=60):
    net = base().train()
    optimizer, x, y = torch.optim.Adam(net.parameters(), 0.01), one.train.x, one.train.y
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    return net.eval()


NETS = {name: tuned(one) for name, one in DATA.items()}


def accuracy(net, part):
    with torch.no_grad():
        return float((net(part.x).argmax(1) == part.y).double().mean())


def merged(method="tall", **changes):
    how = {"data": DATA, "objective": Classification(), **changes}
    return tb.merge(base(), NETS, method, **how)


@pytest.mark.parametrize("method", ["tall", "emr", "mean", "sum"])
def test_what_is_chosen_is_best_on_validation_data_and_judged_on_test_data(method):
    tickets, plain = merged(method), tb.merge(base(), NETS, method)
    for name, known in tickets.metadata["merged"].items():
        baked, one = tickets.bake(name).eval(), DATA[name]
        assert known["metric"] == "accuracy"
        assert known["validation"] == pytest.approx(accuracy(baked, one.validation))
        assert known["ticket"] == pytest.approx(accuracy(baked, one.test))
        assert known["fine_tune"] == pytest.approx(accuracy(NETS[name], one.test))
        if method in ("tall", "emr"):
            assert known["validation"] >= accuracy(plain.bake(name).eval(), one.validation)
    if method in ("mean", "sum"):  # one network for all: one factor, the best of the mean over tasks
        (scale,) = {known["scale"] for known in tickets.metadata["merged"].values()}
        first = plain.metadata["merged"]["left"]["scale"]

        def value(factor):
            tried = []
            for name, net in NETS.items():
                made = copy.deepcopy(net)  # what is private is the task's own
                with torch.no_grad():
                    for layer in (0, 3):
                        start = base()[layer].weight
                        total = sum(other[layer].weight - start for other in NETS.values())
                        made[layer].weight.copy_(start + factor * total)
                tried.append(accuracy(made, DATA[name].validation))
            return sum(tried)

        over = 0.5 if method == "mean" else 1.0
        best = max(value(over * first * factor) for factor in merge_data.FACTORS)
        assert value(over * scale) == pytest.approx(best)


def test_lambda_is_that_of_validation_data_and_test_data_decide_nothing():
    other = {}
    for name, one in DATA.items():
        wrong = replace(one.test, y=(one.test.y + 1) % 3)
        other[name] = replace(one, test=wrong)
    one, two = merged(), merged(data=other)
    assert torch.equal(one.masks_KN, two.masks_KN)
    for name in NETS:
        known = [tickets.metadata["merged"][name] for tickets in (one, two)]
        assert known[0]["scale"] == known[1]["scale"]
        assert known[0]["ticket"] > known[1]["ticket"]
    turned = {
        n: replace(d, validation=replace(d.validation, y=(d.validation.y + 1) % 3)) for n, d in DATA.items()
    }
    values = [m["validation"] for m in merged(data=turned).metadata["merged"].values()]
    assert values != [m["validation"] for m in one.metadata["merged"].values()]


@pytest.mark.parametrize("method", ["tall", "mean"])
def test_joint_retraining_trains_what_is_under_masks_and_what_tickets_own(method, tmp_path):
    start = tb.merge(base(), NETS, method)
    tickets = merged(method, steps=60, train=tb.TrainConfig(lr=0.003, batch_size=32))
    for known in tickets.metadata["merged"].values():
        assert known["ticket"] > (0.85 if method == "tall" else 0.7)
        assert known["steps"] == 60
    assert torch.equal(tickets.masks_KN.any(0), tickets.owned_N)
    shared = tickets.scope.flatten(dict(tickets.backbone.named_parameters()))
    assert not bool(shared[~tickets.owned_N].any())  # nobody's: as it was in the base
    for name in tickets.names:
        baked = tickets.bake(name)
        assert not torch.equal(baked[0].weight, start.bake(name)[0].weight)
        assert not torch.equal(baked[5].bias, start.bake(name)[5].bias)
        outside = ~tickets[name][: 6 * 32].view(32, 6)
        assert torch.equal(baked[0].weight[outside], base()[0].weight[outside])
    size = tickets.save(tmp_path / "two.tickets")
    loaded = tb.load(tmp_path / "two.tickets", base())
    x = torch.randn(20, 6)
    for name in tickets.names:
        assert torch.equal(loaded(x, ticket=name), tickets(x, ticket=name))
    again = merged(method, steps=60, train=tb.TrainConfig(lr=0.003, batch_size=32))
    assert torch.equal(again(x, ticket="left"), tickets(x, ticket="left"))
    assert stored(tickets, size)["file"] == (tmp_path / "two.tickets").stat().st_size


def test_retraining_repairs_what_one_network_for_all_loses():
    before = merged("mean").metadata["merged"]
    after = merged("mean", steps=60, train=tb.TrainConfig(lr=0.003, batch_size=32)).metadata["merged"]
    assert sum(m["ticket"] for m in after.values()) > sum(m["ticket"] for m in before.values()) + 0.02


def test_bytes_of_a_merged_file_beside_whole_fine_tunes_and_changes():
    found = stored(tb.merge(base(), NETS), 1000)
    weights, own = (
        6 * 32 + 32 * 24,
        3 * 32 + 24 + 24 * 3 + 3 + 2 * 32,
    )  # bias, affine; 24; output layer; statistics
    counted = 8 + 4 * (weights + own)  # with the batches that the norm has counted
    assert found["changes"] == 2 * 4 * (weights + own)
    assert found["networks"] == 2 * counted
    assert found["own_per_task"] == 4 * (own + 2)  # and a scale per matrix
    assert (found["file"], found["per_task"]) == (1000, 500)


def test_mistakes_with_data_are_named_before_anything_is_merged(monkeypatch):
    monkeypatch.setattr("tombola.tickets.merging.merged", None)
    task = Classification()
    long = {**DATA, "right": tb.Data.of(torch.randn(50, 7), torch.arange(50) % 3)}
    scaled = {**DATA, "right": replace(DATA["right"], prepare=lambda x: 2 * x)}
    for changes, words in (
        ({"data": None}, "data and objective go together"),
        ({"data": None, "objective": None, "steps": 5}, "which needs data"),
        ({"data": {"left": DATA["left"]}}, "for each task, .*: left, right"),
        ({"data": {**DATA, "right": 3}}, "data must be of type Data"),
        ({"objective": Classification}, "call it: Classification"),
        ({"objective": tb.objectives.OneVsRest()}, "fine-tunes know their own"),
        ({"data": long}, "data of 'right': the backbone cannot take the data"),
        ({"data": scaled, "steps": 3}, "prepared otherwise"),
        ({"steps": -1}, "0 or more"),
    ):
        with pytest.raises(TombolaError, match=words):
            merged(**{"objective": task, **changes})


def test_lengths_that_differ_are_named():
    ids = {
        name: tb.Data.of(torch.randint(9, (40, n)), torch.arange(40) % 2) for name, n in (("a", 5), ("b", 6))
    }
    with pytest.raises(DataError, match="data of a, b do not go into one"):
        merge_data.together(ids)
    one, partition = merge_data.together({"a": ids["a"], "c": ids["a"]})
    assert partition.sizes("test") == {"a": len(ids["a"].test), "c": len(ids["a"].test)}
    assert torch.equal(one.test.x, torch.cat([ids["a"].test.x] * 2))


# -- checkpoints ---------------------------------------------------------------------------------------------


def test_a_folder_of_shards_is_read(tmp_path):
    state, placed = NETS["left"].state_dict(), {}
    for i, part in enumerate((list(state)[:4], list(state)[4:])):
        save_file({n: state[n] for n in part}, tmp_path / f"model-{i}.safetensors")
        placed |= dict.fromkeys(part, f"model-{i}.safetensors")
    (tmp_path / checkpoints.SHARDS).write_text(json.dumps({"weight_map": placed}))
    whole = tmp_path / "whole"
    whole.mkdir()
    save_file(NETS["right"].state_dict(), whole / "model.safetensors")
    right = tb.merge(base(), NETS)
    for left in (tmp_path, tmp_path / checkpoints.SHARDS):
        tickets = tb.merge(base(), {"left": left, "right": whole})
        assert torch.equal(tickets.masks_KN, right.masks_KN)
        assert torch.equal(tickets.private_KP, right.private_KP)
    (tmp_path / "model-1.safetensors").unlink()
    (tmp_path / "empty").mkdir()
    for wrong, words in ((tmp_path, "cannot be read"), (tmp_path / "empty", "holds neither")):
        with pytest.raises(TombolaError, match=f"checkpoint 'left': .*{words}"):
            tb.merge(base(), {"left": wrong, "right": whole})


def test_another_dtype_or_another_base_is_said():
    half = {**NETS, "right": copy.deepcopy(NETS["right"]).bfloat16()}
    with pytest.raises(MaskError, match=r"checkpoint 'right' has 0\.\w+ in bfloat16, the base in float32"):
        tb.merge(base(), half)
    torch.manual_seed(5)
    other = nn.Sequential(*[copy.deepcopy(layer) for layer in base()])
    for layer in (0, 3):
        nn.init.normal_(other[layer].weight)
    with pytest.warns(UserWarning, match="checkpoint 'right' is .* times as far from the base as zero is"):
        tb.merge(base(), {**NETS, "right": other})


def test_buffers_that_the_base_makes_anew_may_be_in_a_checkpoint():
    start = base()
    start.register_buffer("positions", torch.arange(3), persistent=False)
    tickets = tb.merge(
        start, {n: {**net.state_dict(), "positions": torch.arange(3)} for n, net in NETS.items()}
    )
    assert torch.equal(tickets.bake("left")[5].weight, NETS["left"][5].weight)


@pytest.mark.parametrize("method", ["tall", "emr", "ties", "dare_ties"])
def test_of_files_a_layer_of_each_is_held_at_most(method, tmp_path, monkeypatch):
    layers, K = 12, 3
    start = nn.Sequential(*(nn.Linear(16, 16) for _ in range(layers)))
    for k in range(K):
        net = copy.deepcopy(start)
        with torch.no_grad():
            for p in net.parameters():
                p += 0.01 * torch.randn(p.shape)
        save_file(net.state_dict(), tmp_path / f"{k}.safetensors")
    alive, most, opening = [], [0], checkpoints.safe_open

    class Counted:
        def __init__(self, *given, **how):
            self.file = opening(*given, **how)

        def __enter__(self):
            self.inner = self.file.__enter__()
            return self

        def __exit__(self, *error):
            return self.file.__exit__(*error)

        def keys(self):
            return self.inner.keys()

        def get_slice(self, name):
            return self.inner.get_slice(name)

        def get_tensor(self, name):
            found = self.inner.get_tensor(name)
            if found.ndim == 2 and not name.startswith(
                str(layers - 1)
            ):  # not the output layer, which is kept
                alive.append(weakref.ref(found))
                most[0] = max(most[0], sum(ref() is not None for ref in alive))
            return found

    monkeypatch.setattr(checkpoints, "safe_open", Counted)
    tb.merge(start, {f"task {k}": tmp_path / f"{k}.safetensors" for k in range(K)}, method)
    assert len(alive) >= K * (layers - 1)
    assert most[0] <= K + 1


# -- the command ---------------------------------------------------------------------------------------------


def call(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        sys.exit(cli.main([*map(str, arguments)]))
    out, err = capsys.readouterr()
    return stop.value.code or 0, out, err


def test_the_command_takes_data_and_says_what_it_found(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "merge_data_nets.py").write_text(PROGRAM)
    for name, net in NETS.items():
        save_file(net.state_dict(), f"{name}.safetensors")
    net = ("--backbone", "merge_data_nets:base")
    command = ("merge", "two.tickets", "left=left.safetensors", "right=right.safetensors", *net, "--force")
    given = (
        "--data",
        "left=merge_data_nets:left",
        "right=merge_data_nets:right",
        "--objective",
        "Classification",
    )
    code, out, err = call(capsys, *command, *given, "--json")
    assert code == 0, err
    rows, expected = json.loads(out), merged().metadata["merged"]
    for row in rows:
        assert {k: row[k] for k in expected[row["task"]]} == pytest.approx(expected[row["task"]])
        assert row["bytes"] == (tmp_path / "two.tickets").stat().st_size
        assert row["bytes_networks"] > row["bytes_changes"] > row["bytes_own_per_task"] > 0
    code, out, err = call(capsys, *command, *given, "--steps", 5, "--set", "train.lr=0.001")
    assert code == 0, err
    assert "of the ticket" in out
    said = tb.load("two.tickets", base()).metadata
    assert said["objective"] == "Classification"
    files = "left=left.safetensors right=right.safetensors"
    assert said["command"].startswith(f"tombola merge two.tickets {files} --method tall --backbone")
    assert said["command"].endswith("--steps 5 --set train.lr=0.001")
    for more, words in (
        (given[:3], "which objective?"),
        (("--data", "left=merge_data_nets:left", "--objective", "Classification"), "for each task"),
        (("--data", "left", "--objective", "Classification"), "TASK=DATA"),
        (("--steps", 3), "needs data"),
        ((*given, "--set", "train.lr=0.1"), "give --steps"),
        ((*given, "--steps", 3, "--set", "T=3"), "train.NAME=VALUE"),
    ):
        code, _, err = call(capsys, *command, *more)
        assert code != 0
        assert words in " ".join(err.split())
    sys.modules.pop("merge_data_nets", None)
