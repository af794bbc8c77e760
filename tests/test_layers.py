"""The table of layers in docs/networks.md: what is pruned by default, what a channel is, which scores can."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import orthogonal, spectral_norm, weight_norm

import tombola as tb
from tombola._utils.errors import TombolaError
from tombola.masks.prunable import default_names
from tombola.pruning.granularity import transposed
from tombola.pruning.scores import CRITERIA
from tombola.training.model import FunctionalModel
from tombola.training.pruning_context import Pruner, TicketContext
from tombola.training.trainer import Problem

PAGE = Path(__file__).parent.parent / "docs" / "networks.md"


class Read(nn.Module):
    """A layer between inputs and an output layer."""

    def __init__(self, layer, call=None):
        super().__init__()
        self.layer, self.call, self.head = (
            layer,
            call or (lambda layer, x: layer(x).flatten(2).mean(2)),
            nn.Linear(8, 2),
        )

    def forward(self, x):
        return self.head(torch.relu(self.call(self.layer, x)))


def plain(layer, x):
    return layer(x)


def last(layer, x):
    return layer(x)[0][:, -1]


def make(name):
    """The network, and an input without its first axis."""
    if name.startswith("Conv") and name != "Conv1D":
        n = int(name[-2])
        return Read(getattr(nn, name)(4, 8, 3, padding=1)), (4, *[4] * n)
    if name in ("RNN", "LSTM", "GRU"):
        return Read(getattr(nn, name)(8, 8, batch_first=True), last), (5, 8)
    if name == "MultiheadAttention":
        attention = nn.MultiheadAttention(8, 2, batch_first=True)
        return Read(attention, lambda layer, x: layer(x, x, x, need_weights=False)[0].mean(1)), (5, 8)
    if name == "Conv1D":
        utils = pytest.importorskip("transformers.pytorch_utils", reason="transformers is not installed")
        return Read(utils.Conv1D(8, 8), plain), (8,)
    if name == "Embedding":
        return Read(nn.Embedding(12, 8), lambda layer, x: layer(x.long()).mean(1)), (5,)
    if name == "Bilinear":
        return Read(nn.Bilinear(8, 8, 8), lambda layer, x: layer(x, x)), (8,)
    made = {"weight_norm": weight_norm, "spectral_norm": spectral_norm, "other parametrisations": orthogonal}
    return Read(made[name](nn.Linear(8, 8)) if name in made else nn.Linear(8, 8), plain), (8,)


def rows():
    """Name of a layer, and the other cells of its row."""
    table = PAGE.read_text().split("| layer |")[1].split("\n\n")[0].splitlines()[2:]
    for line in table:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        names = re.findall(r"`(\w+)`", cells[0]) or [cells[0]]
        for name in names:
            if name != "transformers":
                yield pytest.param(name, *cells[1:], id=name)


def context_of(net, shape, include):
    x = torch.rand(40, *shape, generator=torch.Generator().manual_seed(0)) * 3
    data = tb.Data.of(x, torch.arange(40) % 2)
    partition = tb.partition.by_label(data, ["a", "b"])
    f = FunctionalModel(net, tb.scope(net, include=include))
    problem = Problem(f, data, partition, tb.objectives.Classification(), tb.TrainConfig(batch_size=8), 0)
    mask = torch.ones(f.scope.size, dtype=torch.bool)
    theta = f.theta0()
    context = TicketContext(problem, theta, theta.masked(mask), mask, 0, trajectory=True)
    problem.train(context.theta, mask, 0, 2, "test", moved_N=context.moved_N)
    return context


@pytest.mark.parametrize(("name", "default", "channel", "cannot"), rows())
def test_every_row_of_the_table_is_true(name, default, channel, cannot):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net, shape = make(name)
    found = default_names(net, "head.weight")
    assert bool(found) == default.startswith("yes"), found
    matrices = [n for n, p in net.named_parameters() if p.ndim > 1 and not n.startswith("head")]
    names = sorted(found) or [n for n in matrices if not n.endswith("original0")]
    context = context_of(net, shape, names)
    fails = {score for score in CRITERIA if not scored(CRITERIA[score], context)}
    assert fails == set(re.findall(r"`(\w+)`", cannot)) | {"gamma"}
    half = context.scope.size // 2
    for granularity in ("weight", "block:2x2", "2:4"):
        if granularity != "2:4" or all(size % 4 == 0 for size in row_sizes(context)):
            assert int(Pruner(granularity=granularity)(context, half).sum()) == half
    if channel.startswith("none"):
        return
    mask = Pruner(granularity="channel")(context, half)
    axis = int(channel.startswith("a column"))
    for part in context.scope.unflatten(mask).values():
        whole = part.transpose(0, axis).flatten(1)
        assert bool((whole.all(1) | ~whole.any(1)).all())


def row_sizes(context):
    turned = transposed(context.problem.f.module)
    for name, shape in zip(context.scope.names, context.scope.shapes, strict=True):
        yield torch.empty(shape).numel() // shape[1 if name in turned else 0]


def scored(score, context):
    try:
        return bool(torch.isfinite(score(context)).all())
    except TombolaError:
        return False
