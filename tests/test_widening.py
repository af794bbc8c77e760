"""Tickets on a wider network: the same answers, and room for others."""

import pytest
import torch
from test_growth import TASK, answers, founders, inputs, new_data
from torch import nn

import tombola as tb
from tombola._utils.errors import MaskError, TombolaError
from tombola.lab.models.convnet import SmallConvNet
from tombola.lab.models.lenet import LeNet
from tombola.tickets.model import TicketModel


def wider(a=40, b=20, norm=True):
    torch.manual_seed(7)
    layers = [nn.Linear(6, a), *([nn.BatchNorm1d(a)] if norm else []), nn.ReLU(), nn.Linear(a, b)]
    return nn.Sequential(*layers, nn.ReLU(), nn.Linear(b, 3))


@pytest.mark.filterwarnings("ignore:answers are the same up to rounding")
@pytest.mark.parametrize("normalization", ["shared", "per_ticket_statistics", "per_ticket"])
def test_answers_are_those_of_before_and_new_weights_are_free(normalization, tmp_path):
    two = founders(normalization=normalization)
    wide = two.widen(wider())
    assert wide.scope.size == 6 * 40 + 40 * 20
    assert wide.free == wide.scope.size - int(two.masks.union().sum())
    assert wide.masks.counts == two.masks.counts
    said = answers(two, two.names)
    for name, output in answers(wide, two.names).items():
        torch.testing.assert_close(output, said[name], rtol=1e-5, atol=1e-6)
    three = wide.grow("west", new_data(), TASK, policy="free")
    mine = three.scope.unflatten(three["west"])["0.weight"]
    assert bool(mine[16:].any())
    three.save(tmp_path / "wide.tickets")
    loaded = tb.load(tmp_path / "wide.tickets", wider())
    now = answers(wide, two.names)
    assert all(torch.equal(output, now[name]) for name, output in answers(loaded, two.names).items())


@pytest.mark.filterwarnings("ignore:answers are the same up to rounding")
def test_growth_widens_where_it_is_asked_to():
    two = founders()
    with pytest.raises(TombolaError, match=r"wider network \(widen=\)"):
        two.grow("west", new_data(), TASK, policy="free", sparsity=0.1)
    three = two.grow("west", new_data(), TASK, policy="free", sparsity=0.6, widen=wider())
    assert three.scope.size == 1040
    right = three(new_data().test.x, ticket="west").argmax(1) == new_data().test.y
    assert float(right.float().mean()) > 0.5


@pytest.mark.filterwarnings("ignore:answers are the same up to rounding")
@pytest.mark.parametrize(
    ("net", "wide", "shape"),
    [
        (LeNet(4), LeNet(4, widths=(9, 20, 130, 90)), (3, 32, 32)),
        (SmallConvNet(4), SmallConvNet(4), (1, 8, 8)),
    ],
    ids=["channels before a flattening", "of the same width"],
)
def test_channels_and_what_is_flattened(net, wide, shape):
    layout = tb.scope(net)
    masks = {
        name: torch.rand(layout.size, generator=torch.Generator().manual_seed(k)) < 0.3
        for k, name in enumerate("ab")
    }
    tickets, x = TicketModel(net, tb.MaskSet(layout, masks)).eval(), torch.rand(3, *shape)
    made = tickets.widen(wide, like=x)
    for name in "ab":
        torch.testing.assert_close(made(x, ticket=name), tickets(x, ticket=name), rtol=1e-5, atol=1e-6)


def test_networks_that_do_not_fit_are_refused():
    two = founders()
    with pytest.raises(MaskError, match=r"0.weight is \(12, 6\), which has no room for \(16, 6\)"):
        two.widen(wider(12))
    with pytest.raises(MaskError, match=r"has no (1|2)\."):
        two.widen(wider(norm=False))
    head = nn.Sequential(nn.Linear(6, 16), nn.LayerNorm(16), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3))
    layout = tb.scope(head)
    tickets = TicketModel(head, tb.MaskSet.dense(layout, ["a"])).eval()
    wide = nn.Sequential(nn.Linear(6, 20), nn.LayerNorm(20), nn.Linear(20, 12), nn.ReLU(), nn.Linear(12, 3))
    with pytest.raises(TombolaError, match="answers would change by"):
        tickets.widen(wide, like=inputs())
    with pytest.raises(TombolaError, match="pass some as like="):
        tickets.widen(wide)
