"""The backbones: sizes, initialisation, and that they know nothing of tickets."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tombola.models.convnet import SmallConvNet
from tombola.models.ghostnet import GhostModule, GhostNet, SqueezeExcite, kaiming_
from tombola.scope import scope


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_ghostnet_has_the_papers_prunable_weights_whatever_the_classes():
    assert scope(GhostNet(10)).size == scope(GhostNet(100)).size == 125_832


def test_ghostnet_keeps_94_63_31_thousand_weights():
    kept = [125_832 - round(s * 125_832) for s in (0.25, 0.5, 0.75)]
    assert [round(k / 1000) for k in kept] == [94, 63, 31]


def test_the_small_convnet_has_the_weights_it_says():
    assert scope(SmallConvNet()).size == 18_576


@pytest.mark.parametrize(("make", "shape"), [(GhostNet, (2, 3, 32, 32)), (SmallConvNet, (2, 1, 8, 8))])
def test_the_generator_decides_the_initialisation(make, shape):
    nets = [make(10, generator=seeded(s)).eval() for s in (0, 0, 1)]
    state, again, other = (net.state_dict() for net in nets)
    assert all(torch.equal(t, again[n]) for n, t in state.items())
    weights = [n for n, p in nets[0].named_parameters() if p.ndim > 1]
    assert not any(torch.equal(state[n], other[n]) for n in weights)
    assert nets[0](torch.rand(shape)).shape == (2, 10)


@pytest.mark.parametrize("make", [GhostNet, SmallConvNet])
def test_networks_with_other_heads_share_all_the_rest(make):
    ten, three = (make(c, generator=seeded()).state_dict() for c in (10, 3))
    assert all(torch.equal(t, three[n]) for n, t in ten.items() if not n.startswith("classifier"))


def test_ghostnet_halves_the_image_five_times_over():
    net, shapes = GhostNet(10, seeded()).eval(), []
    for block in net.blocks:
        block.register_forward_hook(lambda *call: shapes.append(tuple(call[2].shape[1:])))
    net(torch.rand(1, 3, 32, 32))
    assert shapes == [
        (16, 16, 16),
        (24, 8, 8),
        (24, 8, 8),
        (40, 4, 4),
        (40, 4, 4),
        (80, 2, 2),
        *[(80, 2, 2)] * 3,
    ]


def test_a_ghost_module_stacks_primary_and_cheap_channels():
    module, x = GhostModule(6, 8, relu=True).eval(), torch.rand(2, 6, 5, 5)
    primary = torch.relu(module.primary(x))
    expected = torch.cat([primary, torch.relu(module.cheap(primary))], 1)
    assert torch.equal(module(x), expected)
    assert module.cheap[0].groups == 4


def test_squeeze_and_excitation_is_a_gate_per_channel_and_has_no_prunable_layer():
    block, x = SqueezeExcite(16), torch.rand(3, 16, 5, 4)
    nn.init.normal_(block.reduce_bias)
    hidden = F.conv2d(x.mean((2, 3), keepdim=True), block.reduce[:, :, None, None], block.reduce_bias).relu()
    gate = F.hardsigmoid(F.conv2d(hidden, block.expand[:, :, None, None], block.expand_bias))
    torch.testing.assert_close(block(x), x * gate)
    assert block.reduce.shape == (4, 16)
    assert list(block.children()) == []


def test_kaiming_has_the_right_spread_and_zero_biases():
    net = nn.Sequential(nn.Linear(200, 300), nn.Conv2d(20, 40, 3), SqueezeExcite(400))
    for p in net.parameters():
        nn.init.constant_(p, 7.0)
    kaiming_(net, seeded())
    for weight, fan_in in (
        (net[0].weight, 200),
        (net[1].weight, 180),
        (net[2].reduce, 400),
        (net[2].expand, 100),
    ):
        assert float(weight.detach().std()) == pytest.approx((2 / fan_in) ** 0.5, rel=0.05)
    for bias in (net[0].bias, net[1].bias, net[2].reduce_bias, net[2].expand_bias):
        assert not bias.any()
