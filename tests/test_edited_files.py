"""Ticket files that were edited and sealed again: each works, or is refused in one line."""

import copy
import random
import warnings

import pytest
import torch
from torch import nn

import tombola as tb
from tombola._utils import io
from tombola._utils.errors import TicketFileError, TombolaError
from tombola.lab.report.inspect import describe
from tombola.tickets.calibration import Calibration
from tombola.tickets.routing import router

VALUES = [None, -1, 7, 0.5, 10**30, float("nan"), "zz", [], {}, [[1]], ["zz", "zz"]]
CHANGES = {
    "cut": lambda t: t[:-1] if t.ndim else t[None],
    "double": lambda t: torch.cat([t, t]) if t.ndim else torch.stack([t, t]),
    "dtype": lambda t: t.double() if t.is_floating_point() else t.float(),
    "flat": lambda t: t.reshape(-1, 1),
    "empty": lambda t: t.new_zeros(0),
    "noise": lambda t: torch.randint_like(t, 0, 100),
}


def network():
    convolution = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()
    return nn.Sequential(
        *convolution, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 6), nn.Linear(6, 2)
    )


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    torch.manual_seed(0)
    x, y = torch.rand(120, 1, 6, 6), torch.arange(120) % 2
    data = tb.Data.of(x + y[:, None, None, None], y)
    parts = tb.partition.by_label(data, ["a", "b"])
    tickets = tb.rtl(network(), tb.objectives.OneVsRest(), data, parts, sparsity=0.5, T=2, steps=2)
    tickets.router = router("gate").fit(tickets, data, parts)
    tickets.calibration = Calibration().fit(tickets, data, parts)
    path = tmp_path_factory.mktemp("edited") / "a.tickets"
    tickets.save(path, coding="plain")
    return path


def places(known, path=()):
    if path:
        yield path
    for key in known if isinstance(known, dict) else range(len(known)) if isinstance(known, list) else ():
        yield from places(known[key], (*path, key))


def edited(tensors, header, picks):
    tensors, header = dict(tensors), copy.deepcopy(header)
    if picks.random() < 0.6:
        *way, last = picks.choice(list(places(header)))
        inner = header
        for key in way:
            inner = inner[key]
        if picks.random() < 0.2:
            del inner[last]
        else:
            inner[last] = copy.deepcopy(picks.choice(VALUES))
        return tensors, header
    name = picks.choice(sorted(tensors))
    tensor = tensors.pop(name)
    if change := CHANGES.get(picks.choice([*CHANGES, "away"])):
        tensors[name] = change(tensor)
    return tensors, header


def use(path, net):
    tickets, x = tb.load(path, net), torch.rand(2, 1, 6, 6)
    for name in tickets:
        tickets(x, ticket=name)
    tickets.predict(x)
    if tickets.router is not None:
        tickets(x)
    tickets.save(path.with_name("again.tickets"))


def outcome(action, *given):
    """Whether it works; that it is refused in one line if not."""
    words = ""
    try:
        action(*given)
    except TombolaError as error:
        words = str(error)
    assert "\n" not in words
    return not words


def test_edits_under_a_valid_hash_are_refused_in_one_line_or_harmless(file, tmp_path):
    tensors, header = io.read(file)
    path, net, works = tmp_path / "edited.tickets", network(), []
    for seed in range(300):
        io.write(path, *edited(tensors, header, random.Random(seed)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            works += [outcome(use, path, net), outcome(describe, path)]
    assert outcome(use, file, net)
    assert 0.1 < sum(works) / len(works) < 0.6


def write(file, path, change):
    tensors, header = io.read(file)
    change(tensors, header)
    io.write(path, tensors, header)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda t, _: t.pop("rest.5.bias"),
            r"not written like this by Tombola \(5.bias\): save the tickets again",
        ),
        (lambda t, _: t.update(weights=t["weights"][1:]), r"\(weights\)"),
        (lambda _, h: h.pop("names"), r"\(names\)"),
        (lambda _, h: h["facts"].update(outputs=[0]), r"\(facts outputs\)"),
        (lambda _, h: h["parts"]["router"].update(shallow=3), r"the router in the file is damaged"),
        (lambda t, _: t.pop("part.calibration.map.0.a"), r"the calibration in the file is damaged"),
        (lambda _, h: h.update(format=None), "has format None"),
    ],
)
def test_what_is_wrong_is_named(file, tmp_path, change, words):
    write(file, tmp_path / "b.tickets", change)
    with pytest.raises(TicketFileError, match=words):
        tb.load(tmp_path / "b.tickets", network())


@pytest.mark.parametrize("header", ["[1]", "nothing", "[" * 100_000])
def test_a_header_that_is_no_object_is_refused(tmp_path, monkeypatch, header):
    monkeypatch.setattr(io, "_json", lambda _: header)
    io.write(tmp_path / "a.tickets", {"a": torch.zeros(1)}, {})
    with pytest.raises(TicketFileError, match="no JSON object"):
        io.read(tmp_path / "a.tickets")
