"""The backbones: sizes, initialisation, and that they know nothing of tickets."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tombola as tb
from tombola._utils.errors import UsageError
from tombola.data.dataset import Split, with_context
from tombola.lab.models.convnet import SmallConvNet
from tombola.lab.models.ghostnet import GhostModule, GhostNet, SqueezeExcite, kaiming_
from tombola.masks.prunable import scope
from tombola.methods.context import check_arrival, conditioned, with_context_input


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


# -- networks that are told the context -------------------------------------------------------------------

WIDTH = 16
FIRST = {
    "linear": (lambda: nn.Linear(3, 4), (3,)),
    "conv1d": (lambda: nn.Conv1d(3, 4, 5, stride=2, padding=2, bias=False), (3, 12)),
    "conv2d": (lambda: nn.Conv2d(3, 4, 3, dilation=2, padding=2, padding_mode="reflect"), (3, 9, 8)),
    "same": (lambda: nn.Conv2d(3, 4, (3, 5), padding="same"), (3, 9, 8)),
}
every_first_layer = pytest.mark.parametrize("kind", FIRST)


def plain_network(kind):
    """A network that begins with this layer, and inputs of it."""
    layer, shape = FIRST[kind]
    last = nn.Linear(4, 2) if kind == "linear" else nn.Flatten()
    return nn.Sequential(layer(), nn.ReLU(), last), torch.rand(6, *shape, generator=seeded(1))


def told_network(kind, contexts=5):
    return conditioned(plain_network(kind)[0], contexts, WIDTH, seeded(2))


@every_first_layer
def test_a_told_layer_sees_the_embedding_of_the_context_at_every_position(kind):
    plain, x = plain_network(kind)
    network = conditioned(plain, 5, WIDTH, seeded(2))
    numbers = torch.tensor([4, 0, 1, 1, 3, 2])
    outputs = network(with_context(x, numbers))
    assert outputs.shape == plain(x).shape
    layer = network[0]
    # By hand: the layer's plain form over the inputs and the sixteen numbers, repeated everywhere.
    everywhere = layer.context[numbers].view(6, WIDTH, *[1] * (x.ndim - 2)).expand(-1, -1, *x.shape[2:])
    by_hand = type(layer).__mro__[2].forward(layer, torch.cat([x, everywhere], 1))
    torch.testing.assert_close(outputs, network[2](by_hand.relu()))


@every_first_layer
def test_a_told_network_that_pays_no_attention_is_the_plain_one(kind):
    plain, x = plain_network(kind)
    network = conditioned(plain, 5, WIDTH, seeded(2))
    nn.init.zeros_(network[0].weight[:, 3:].data)
    torch.testing.assert_close(network(with_context(x, torch.full((6,), 3))), plain(x))


@every_first_layer
def test_a_told_network_keeps_names_weights_and_the_plain_network(kind):
    plain, _ = plain_network(kind)
    before, state = {n: t.clone() for n, t in plain.state_dict().items()}, torch.get_rng_state()
    network = conditioned(plain.eval(), 5, WIDTH, seeded(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(m.training for m in network.modules())
    found = network.state_dict()
    assert found.keys() - before.keys() == {"0.context"}
    assert all(torch.equal(t, before[n]) for n, t in plain.state_dict().items())
    assert all(torch.equal(found[n], t) for n, t in before.items() if n != "0.weight")
    assert torch.equal(found["0.weight"][:, :3], before["0.weight"])
    assert found["0.weight"].shape[1] == 3 + WIDTH
    again, other = (conditioned(plain, 5, WIDTH, seeded(s)).state_dict() for s in (2, 3))
    assert all(torch.equal(t, again[n]) for n, t in found.items())
    assert not torch.equal(found["0.context"], other["0.context"])
    assert not torch.equal(found["0.weight"], other["0.weight"])


def test_new_weights_have_the_spread_of_the_layer_and_embeddings_of_one():
    plain = nn.Sequential(nn.Linear(50, 400), nn.ReLU(), nn.Linear(400, 2))
    nn.init.normal_(plain[0].weight, std=0.3, generator=seeded())
    network = conditioned(plain, 200, WIDTH, seeded(2))
    assert float(network[0].weight[:, 50:].detach().std()) == pytest.approx(0.3, rel=0.05)
    assert float(network[0].context.detach().std()) == pytest.approx(1, rel=0.05)


def test_a_told_network_of_double_precision_keeps_its_bits():
    plain = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    network = conditioned(plain, 2, WIDTH, seeded())
    assert {p.dtype for p in network.parameters()} == {torch.float64}
    assert torch.equal(network[0].weight[:, :3], plain[0].weight)
    assert network(torch.zeros(2, 4, dtype=torch.float64)).dtype == torch.float64


def test_a_network_that_is_one_layer_can_be_told():
    network = conditioned(nn.Linear(3, 4), 2, WIDTH, seeded())
    assert network(torch.zeros(5, 4)).shape == (5, 4)


@every_first_layer
@pytest.mark.parametrize("copied", ["state_dict", "deepcopy", "pickle"])
def test_a_told_network_is_copied_in_the_ordinary_ways(kind, copied):
    network, x = told_network(kind), with_context(plain_network(kind)[1], torch.arange(6) % 5)
    if copied == "state_dict":
        other = conditioned(plain_network(kind)[0], 5, WIDTH, seeded(7))
        other.load_state_dict(network.state_dict())
    else:
        other = copy.deepcopy(network) if copied == "deepcopy" else pickle.loads(pickle.dumps(network))
    assert torch.equal(other(x), network(x))


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


@pytest.mark.parametrize(
    ("first", "named"),
    [
        (nn.Conv2d(4, 4, 3, groups=4), "0 Conv2d of 4 groups"),
        (nn.Embedding(10, 4), "0 Embedding"),
        (nn.BatchNorm2d(4), "0 BatchNorm2d"),
        (nn.Conv3d(4, 4, 3), "0 Conv3d"),
        (nn.ConvTranspose2d(4, 4, 3), "0 ConvTranspose2d"),
        (Doubled(4, 4), "0 Doubled"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_a_network_that_begins_with_anything_else_cannot_be_told(first, named):
    with pytest.raises(UsageError, match=rf"begins with {named}: leave out the methods that tell it$"):
        conditioned(nn.Sequential(first, nn.Linear(4, 2)), 3, WIDTH, seeded())
    with pytest.raises(UsageError, match="begins with"):
        conditioned(nn.Sequential(nn.ReLU()), 3, WIDTH, seeded())


def arrival(*layers, shape=(2, 3, 9, 8)):
    network, x = (
        conditioned(nn.Sequential(*layers), 3, WIDTH, seeded()),
        torch.rand(shape, generator=seeded(1)),
    )
    state = torch.get_rng_state()
    check_arrival(network, with_context(x, torch.ones(len(x))))
    assert torch.equal(torch.get_rng_state(), state)  # dropout was tried, too


def test_the_number_of_the_context_may_pass_what_does_not_change_it():
    arrival(nn.Conv2d(3, 4, 3))
    arrival(nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 4, 3))
    arrival(nn.ZeroPad2d((0, 2, 0, 2)), nn.Conv2d(3, 4, 3))  # behind the first position, which is read
    arrival(nn.Linear(3, 4), nn.Dropout(0.9), nn.Linear(4, 2), shape=(2, 3))
    arrival(nn.Dropout(0.0), nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), shape=(1, 3, 3))


@pytest.mark.parametrize(
    ("layers", "shape"),
    [
        ((nn.Dropout(0.1), nn.Linear(3, 4)), (2, 3)),
        ((nn.Flatten(), nn.Linear(216, 4)), (2, 3, 9, 8)),
        ((nn.ZeroPad2d(1), nn.Conv2d(3, 4, 3)), (2, 3, 9, 8)),
        ((nn.AvgPool2d(3, padding=1), nn.Conv2d(3, 4, 3)), (2, 3, 9, 8)),
        ((nn.BatchNorm2d(3, affine=False), nn.Conv2d(3, 4, 3)), (2, 3, 9, 8)),
        ((nn.Tanh(), nn.Conv2d(3, 4, 3)), (2, 3, 9, 8)),
        ((nn.Linear(8, 4),), (2, 3, 8)),
    ],
    ids=["dropout", "flatten", "padding", "average", "norm", "tanh", "last dimension"],
)
def test_a_number_that_is_changed_or_lost_on_the_way_is_refused(layers, shape):
    with pytest.raises(UsageError, match="does not reach the first layer"):
        arrival(*layers, shape=shape)


def test_contexts_that_the_dtype_of_inputs_cannot_count_are_refused():
    K, net = 300, nn.Linear(2, 3).bfloat16()
    split = Split(torch.zeros(600, 2).bfloat16(), torch.arange(600) % 3, {"who": np.arange(600) % K})
    data = tb.Data(split, split, split)
    partition = tb.partition.by_column(data, "who")
    with pytest.raises(UsageError, match="inputs of bfloat16 cannot hold the numbers of 300 contexts"):
        with_context_input(net, tb.objectives.Classification(), data, partition, 0)
