"""What must hold on another device than the CPU; ``tests/test_device.py`` runs this in a process of its own.

On ``apart`` (``apart.cpp``), whose arithmetic is that of the CPU, masks and weights are equal up to rounding.
On a real accelerator (``TOMBOLA_TEST_DEVICE=cuda pytest tests/device/checks.py``) counts are compared.
"""

import copy
import itertools
import json
import os
from dataclasses import replace
from functools import cache

import apart
import pytest
import torch
from torch import nn

import tombola as tb
from tombola._utils.device import parse
from tombola._utils.errors import RunError
from tombola._utils.rng import generator
from tombola.data.images import Normalise, crop_and_flip
from tombola.lab.experiments import experiment
from tombola.lab.launch import Order
from tombola.lab.models.convnet import SmallConvNet
from tombola.lab.report.again import commands
from tombola.lab.report.findings import Ran
from tombola.methods.pipeline import Pipeline
from tombola.methods.result import run_method, sparsities_of
from tombola.methods.table import METHODS
from tombola.runs.directory import Run
from tombola.runs.log import read_config, read_environment
from tombola.tickets.membership import acting

REAL = bool(os.environ.get("TOMBOLA_TEST_DEVICE"))
EVERY = itertools.cycle(("Adam", "AdamW", "SGD", "RMSprop", "Adagrad", "Adadelta"))
DEVICE = apart.device()
SETTINGS = {
    "sparsity": (0.6,),
    "schedule": "fraction:0.4",
    "T": 3,
    "steps": 3,
    "statistics": 1,
    "rewind": 1,
}


@cache
def images():
    g = torch.Generator().manual_seed(0)
    y = torch.arange(120) % 4
    x = 0.5 * torch.randn(120, 1, 6, 6, generator=g)
    for c in range(2):
        x[y // 2 == c, 0, 3 * c : 3 * c + 2] += 1.0
    site = (y % 2).numpy()
    data = tb.Data.of(x, y // 2, {"site": site}, validation=0.3, test=0.2, augment=flip)
    return data, tb.partition.by_column(data, "site")


def flip(x, generator):
    mirrored = torch.rand(len(x), generator=generator) < 0.5
    return torch.where(mirrored.view(-1, 1, 1, 1).to(x.device), x.flip(-1), x)


def network(dropout=0.0):
    return nn.Sequential(nn.Dropout(dropout), SmallConvNet(2, generator=generator(0, "network")))


def outcomes(name, device, optimizer="Adam", dropout=0.0, **options):
    data, partition = images()
    config = tb.TrainConfig(lr=0.01, batch_size=8, optimizer=optimizer)
    objective = options.pop("objective", None) or tb.objectives.Classification()
    options = {"train": config, "search": config, "parallel": "no", **options}
    backbone = network(dropout).to(device)
    return tb.find(name, backbone, objective, data, partition, **{**SETTINGS, **options})


def compare(here, there):
    """Outcomes on the CPU and on the device."""
    assert len(here) == len(there) > 0
    for a, b in zip(here, there, strict=True):
        for one, other in zip(a.models, b.models, strict=True):
            assert all(t.device.type == DEVICE.type for t in other.state_dict().values())
            assert one.masks.counts == other.masks.counts
            if REAL:
                continue
            differ = (one.masks.masks_KN != other.masks.masks_KN).float().mean()
            assert float(differ) <= 0.01  # scores that rounding puts in another order
            for n, t in one.state_dict().items():
                if n == "bits_KM" or not t.numel():
                    continue  # the masks
                # A step of Adam: where a gradient is nearly zero, rounding decides on its sign.
                away = (other.state_dict()[n].cpu().double() - t.double()).abs()
                assert float(away.mean()) <= 2e-3, n
                assert float(away.max()) <= 0.1, n


# First: once a process with a device has computed gradients, its forks cannot.
@pytest.mark.skipif(REAL, reason="its tolerances are of the stand-in; two ranks on a real device are untried")
def test_ranks_compute_on_a_device_each(over):
    ways = ("ranks", "joint_ranks", "batched_ranks")

    def find(_):
        states = []
        for way in ways:
            (found,) = outcomes("rtl", DEVICE, parallel=way, normalization="frozen")
            state = found.tickets.state_dict()
            assert all(t.device.type == DEVICE.type for t in state.values())
            states.append({name: t.cpu() for name, t in state.items()})
        return states

    ranks = over(find)
    (alone,) = outcomes("rtl", "cpu", normalization="frozen")
    for way, first, second in zip(ways, *ranks, strict=True):
        assert all(torch.equal(t, second[name]) for name, t in first.items())
        for name, t in alone.tickets.state_dict().items():
            away = (first[name].double() - t.double()).abs()
            assert not away.numel() or float(away.mean()) <= 2e-3, (way, name)


# Methods that differ from another one here in their data, not in what they compute where.
ALIKE = {
    *("twin", "same_mask", "union_size_imp", "union_size_same_mask"),
    *("one_shot", "lr_rewinding", "dense_context", "random_pruning"),
}


@pytest.mark.parametrize("name", METHODS if REAL else [name for name in METHODS if name not in ALIKE])
def test_every_method_gives_what_it_gives_on_the_cpu(name):
    objective = tb.objectives.OneVsRest() if name == "shuffled_partition" else None
    changes = {"granularity": "channel"} if "channels" in name else {}
    compare(
        outcomes(name, "cpu", objective=objective, **changes),
        outcomes(name, DEVICE, objective=objective, **changes),
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"rewinding": "learning_rate"},
        {"rewinding": "fine_tune"},
        {"form": "simultaneous"},
        {"normalization": "per_ticket"},
        {"normalization": "shared"},
        {"rewind": 0},
        {"selection": "row"},
        {"granularity": "block:1x3"},
        {"parallel": "batched"},
        {"objective": tb.objectives.OneVsRest()},
    ],
    ids=lambda changes: "+".join(changes),
)
def test_every_part_does(changes):
    optimizer = next(EVERY)  # each of them comes up
    compare(outcomes("rtl", "cpu", optimizer, **changes), outcomes("rtl", DEVICE, optimizer, **changes))


def same(first, second):
    for a, b in zip(first, second, strict=True):
        assert all(torch.equal(a.models[0].state_dict()[n], t) for n, t in b.models[0].state_dict().items())
        assert a.metrics == b.metrics


def test_one_seed_gives_one_result():
    same(*(outcomes("rtl", DEVICE, dropout=0.3) for _ in range(2)))


def test_pictures_are_augmented_on_the_device_as_on_the_cpu():
    x = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    normalise = Normalise((0.5, 0.4, 0.3), (0.2, 0.2, 0.2))
    here, there = (
        normalise(crop_and_flip(x.to(d), torch.Generator().manual_seed(1))) for d in ("cpu", DEVICE)
    )
    torch.testing.assert_close(there.cpu(), here)


def test_a_run_of_an_experiment_goes_on_where_it_began(tmp_path):
    small = ["T=1", "steps=1", "schedule=one_shot", "search.batch_size=4", "train.batch_size=4"]
    order = Order.of("digits", None, (0.5,), small, source=None, methods=["rtl"], device=str(DEVICE))
    path, data = tmp_path / "run", order.load()[""]
    assert any("rtl at 50%" in line for line in order.run(data, 0, path))
    assert json.loads((path / "environment.json").read_text())["device"] == str(DEVICE)
    assert any("done before" in line for line in replace(order, device="").run(data, 0, path))
    with pytest.raises(RunError, match=f"began on the device {DEVICE}, and cpu may change"):
        list(replace(order, device="cpu").run(data, 0, path))
    assert f"--device {DEVICE}" in commands([Ran(path, read_config(path), read_environment(path), ())])[0]


def test_speech_is_mixed_for_the_device_as_for_the_cpu():
    data, index = experiment("speech").load(None, True), torch.arange(3)
    here, there = (
        data.inputs("train", index, torch.Generator().manual_seed(1), torch.device(d))
        for d in ("cpu", DEVICE)
    )
    torch.testing.assert_close(there.cpu(), here, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["digits", "inr"])
def test_an_experiment_runs(name):
    chosen = experiment(name)
    loaded = chosen.load(None, False)
    data = loaded if isinstance(loaded, tb.Data) else next(iter(loaded.values()))
    small = {"sparsity": (0.5,), "T": 1, "steps": 1, "rewind": 0, "schedule": "one_shot", "statistics": 1}
    settings = chosen.preset(None)[1].settings
    recipes = {part: replace(getattr(settings, part), batch_size=4) for part in ("search", "train")}
    backbone = chosen.backbone(generator(0, "theta0")).to(DEVICE)
    given = backbone, chosen.objective, data, chosen.partition(data)
    assert tb.find("rtl", *given, settings=replace(settings, **small, **recipes), parallel="no")[0].metrics


class Died(Exception):
    """Instead of kill -9."""


def run(path, alive):
    """RTL in a run directory that saves at every step, until it has advanced so often."""
    left = iter(range(alive))

    def progress(*_):
        if next(left, None) is None:
            raise Died

    data, partition = images()
    config = tb.TrainConfig(lr=0.01, batch_size=8)
    changes = {"steps": 30, "rewinding": "learning_rate"}
    settings = tb.Settings(**{**SETTINGS, **changes}, search=config, train=config)
    with Run(path, {"settings": settings.plain()}, progress, save_seconds=0.0, parallel="no") as cache:
        net = network(0.3).to(DEVICE)
        pipeline = Pipeline(net, tb.objectives.Classification(), data, partition, settings, 0, cache)
        return [run_method(pipeline, "rtl", sparsity) for sparsity in sparsities_of(pipeline, "rtl")]


def test_an_interrupted_run_goes_on_as_if_it_had_never_stopped(tmp_path):
    whole, alive = run(tmp_path / "whole", 10_000), (1, 3, 12, 24)
    for steps in alive:  # in the rewind point, the search, the training, and its end
        with pytest.raises(Died):
            run(tmp_path / "run", steps)
    same(whole, run(tmp_path / "run", 10_000))


@cache
def found_on(device):
    (outcome,) = outcomes("rtl", device)
    return outcome.models[0]


@pytest.mark.parametrize("router", tb.routing.ROUTERS.values(), ids=list(tb.routing.ROUTERS))
def test_tickets_route_calibrate_and_answer(router):
    data, partition = images()
    x, found = data.inputs("test", torch.arange(8)), []
    for device in ("cpu", DEVICE):
        tickets = copy.deepcopy(found_on(device))
        tickets.router = router().fit(tickets, data, partition)
        tickets.calibration = tb.calibration.Calibration().fit(tickets, data, partition)
        named = list(tickets.names) * 4 if router is tb.routing.ContextRouter else None
        found.append(tickets.predict(x.to(device), context=named))
        assert found[-1].outputs.device.type == "cpu"
    assert REAL or found[0].tickets == found[1].tickets
    assert REAL or torch.allclose(found[0].confidence_B, found[1].confidence_B, atol=1e-3)


def test_tickets_that_are_saved_answer_the_same_on_the_cpu(tmp_path):
    data, _ = images()
    tickets, x = copy.deepcopy(found_on(DEVICE)), data.inputs("test", torch.arange(8))
    tickets.save(tmp_path / "a.tickets")
    loaded, names = tb.load(tmp_path / "a.tickets", network()), list(tickets.names) * 4
    tickets.cache = tb.WeightCache(2**20)
    for _ in range(2):
        there = tickets(x.to(DEVICE), ticket=names)
        assert there.device.type == DEVICE.type
        torch.testing.assert_close(there.cpu(), loaded(x, ticket=names), rtol=1e-4, atol=1e-4)
    back = loaded.to(DEVICE)
    torch.testing.assert_close(back(x.to(DEVICE), ticket=names), there, rtol=1e-4, atol=1e-4)


def test_a_ticket_grows_there_and_the_others_stay_as_they_were():
    data, _ = images()
    alone, found = tb.Data(data.train, data.validation, data.test), []
    for device in ("cpu", DEVICE):
        tickets = found_on(device)
        before = acting(tickets, tickets.names)
        grown = tickets.grow("new", alone, tb.objectives.Classification(), score="magnitude", callback="")
        assert acting(grown, tickets.names) == before
        assert all(t.device.type == tickets.bits_KM.device.type for t in grown.state_dict().values())
        left = grown.forget(tickets.names[0])
        found.append(left["new"].cpu())
    assert REAL or float((found[0] != found[1]).float().mean()) <= 0.01


def test_a_backbone_on_two_devices_is_one_clear_error():
    data, partition = images()
    net = network()
    net[1].classifier.to(DEVICE)
    with pytest.raises(tb.errors.ScopeError, match="move it to one device"):
        tb.find("rtl", net, tb.objectives.Classification(), data, partition, **SETTINGS)


def test_a_device_without_a_number_is_that_of_the_rank(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "3")
    count = torch.accelerator.device_count()
    assert parse(DEVICE.type) == torch.device(DEVICE.type, 3 % count)
    assert parse("cpu") == torch.device("cpu")
    monkeypatch.delenv("LOCAL_RANK")
    assert parse(DEVICE.type) == torch.device(DEVICE.type)
