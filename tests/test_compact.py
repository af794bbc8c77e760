"""Channel tickets as smaller dense networks: equal outputs, fewer weights, the same classes."""

import pytest
import torch
from torch import nn

from tombola._utils.errors import TombolaError
from tombola.lab.models.convnet import SmallConvNet
from tombola.lab.models.ghostnet import GhostNet
from tombola.masks.maskset import MaskSet
from tombola.masks.prunable import scope
from tombola.pruning import prune
from tombola.tickets.export import compact
from tombola.tickets.model import TicketModel


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.one = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.two = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        return torch.relu(x + self.two(torch.relu(self.norm(self.one(x)))))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 3, padding=1)
        self.blocks = nn.Sequential(Block(24), nn.MaxPool2d(2), Block(24))
        self.hidden = nn.Linear(24 * 16, 20)
        self.out = nn.Linear(20, 5)

    def forward(self, x):
        x = self.blocks(torch.relu(self.stem(x)))
        return self.out(torch.relu(self.hidden(x.view(x.size(0), -1))))


def random_norms(net, seed=0):
    """Shifts, scales and statistics as training leaves them: nothing is zero by accident."""
    g = torch.Generator().manual_seed(seed)
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.weight.data = torch.rand(m.num_features, generator=g) + 0.5
            m.bias.data = torch.randn(m.num_features, generator=g) * 0.3
            m.running_mean = torch.randn(m.num_features, generator=g) * 0.1
            m.running_var = torch.rand(m.num_features, generator=g) + 0.5
    return net


def channel_tickets(net, sparsity=0.75, seed=1):
    net, layout = random_norms(net), scope(net)
    scores = torch.rand(layout.size, generator=torch.Generator().manual_seed(seed))
    keep = round((1 - sparsity) * layout.size)
    mask = prune(
        torch.ones(layout.size).bool(), scores, keep, layout, "uniform", granularity="channel", transposed={}
    )
    return TicketModel(net, MaskSet(layout, {"a": mask, "all": torch.ones_like(mask)})).eval()


def count(module):
    return sum(p.numel() for p in module.parameters())


NETS = {
    "convnet": (lambda: SmallConvNet(), (1, 8, 8)),
    "ghostnet": (lambda: GhostNet(10, torch.Generator().manual_seed(0)), (3, 32, 32)),
    "residual": (Residual, (3, 8, 8)),
}


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("given", [True, False])
def test_outputs_are_equal_with_fewer_weights(name, given):
    torch.manual_seed(0)
    build, shape = NETS[name]
    tickets = channel_tickets(build())
    x = torch.randn(6, *shape)
    if name == "residual" and not given:
        with pytest.raises(TombolaError, match=r"does not take inputs .* pass an example"):
            compact(tickets, "a")  # it takes images of one size, which cannot be guessed
        return
    small = compact(tickets, "a", x[:1] if given else None)
    with torch.no_grad():
        torch.testing.assert_close(small(x), tickets(x, ticket="a"), rtol=1e-5, atol=1e-5)
    assert count(small) < 0.8 * count(tickets.bake("a"))
    assert type(small) is type(tickets.backbone)


@pytest.mark.parametrize("name", NETS)
def test_a_dense_ticket_stays_as_it_is(name):
    torch.manual_seed(0)
    build, shape = NETS[name]
    tickets = channel_tickets(build())
    assert count(compact(tickets, "all", torch.randn(1, *shape))) == count(tickets.backbone)


def test_nothing_changes_in_the_tickets():
    tickets = channel_tickets(SmallConvNet())
    before = {n: t.clone() for n, t in tickets.state_dict().items()}
    compact(tickets, "a")
    assert all(torch.equal(t, before[n]) for n, t in tickets.state_dict().items())


def test_a_dead_layer_keeps_one_channel():
    net = random_norms(SmallConvNet())
    layout = scope(net)
    masks = MaskSet(layout, {"a": torch.arange(layout.size) >= layout.sizes[0]})
    tickets, x = TicketModel(net, masks).eval(), torch.randn(4, 1, 8, 8)
    small = compact(tickets, "a", x)
    assert small.layers[0].out_channels == 1
    with torch.no_grad():
        torch.testing.assert_close(small(x), tickets(x, ticket="a"), rtol=1e-5, atol=1e-5)


def test_channels_that_something_unknown_reads_stay():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.norm, self.two = nn.Conv2d(1, 8, 1), nn.GroupNorm(2, 8), nn.Conv2d(8, 4, 1)

        def forward(self, x):
            return self.two(self.norm(self.one(x)))

    net = Odd()
    layout = scope(net, include=["one.weight"])
    tickets = TicketModel(net, MaskSet(layout, {"a": torch.arange(8) < 2})).eval()
    with pytest.warns(UserWarning, match="none could be taken out"):
        assert compact(tickets, "a").one.out_channels == 8


def test_what_cannot_be_traced_is_an_error():
    class Branch(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Linear(4, 4)

        def forward(self, x):
            return self.one(x) if x.sum() > 0 else x

    net = Branch()
    tickets = TicketModel(net, MaskSet(scope(net, include=["one.weight"]), {"a": torch.ones(16).bool()}))
    with pytest.raises(TombolaError, match=r"Branch cannot be traced by torch\.fx"):
        compact(tickets, "a")


@pytest.mark.parametrize(
    "net",
    [
        nn.Sequential(
            *(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1, groups=4)),
            *(nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 2, 1), nn.Flatten()),
        ),
        GhostNet(10, torch.Generator().manual_seed(0)),
    ],
    ids=["pooled", "ghostnet"],
)
def test_without_an_example_the_copy_serves_all_sizes(net):
    tickets = channel_tickets(net)
    small = compact(tickets, "a")
    assert count(small) < count(net)
    for size in (8, 16, 24, 32, 64):
        x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(size))
        with torch.no_grad():
            torch.testing.assert_close(small(x), tickets(x, ticket="a"), rtol=1e-5, atol=1e-5)


def flat_net():
    torch.manual_seed(0)
    pooled = (nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(*pooled, nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))


def test_channels_before_a_flatten_module_are_taken_out():
    tickets = channel_tickets(flat_net())
    small, x = compact(tickets, "a"), torch.randn(2, 3, 20, 20)
    assert small[0].out_channels == 2
    with torch.no_grad():
        torch.testing.assert_close(small(x), tickets(x, ticket="a"), rtol=1e-5, atol=1e-5)


def test_what_was_frozen_stays_frozen_and_dtypes_stay():
    net = flat_net().double()
    net[4].requires_grad_(False)
    small = compact(channel_tickets(net), "a")
    assert [p.requires_grad for p in small.parameters()] == [p.requires_grad for p in net.parameters()]
    assert small[0].weight.dtype == torch.float64


class Unusual(nn.Module):
    """Joins and cuts channels in ways that are not followed."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 8, 1), nn.Conv2d(16, 4, 1)

    def forward(self, x):
        y = self.one(x)
        y = torch.cat(tensors=[y, y], dim=1)
        return self.two(y[:, : y.size(1)]).mean((2, 3))


def test_channels_that_are_joined_in_unknown_ways_stay_and_a_warning_says_so():
    with pytest.warns(UserWarning, match="none could be taken out"):
        assert compact(channel_tickets(Unusual(), 0.5), "a").one.out_channels == 8
