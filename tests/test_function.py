"""The backbone as f(x; m ⊙ θ), and the network that is never touched."""

import copy

import pytest
import torch
from torch import nn

from tombola._utils.errors import ScopeError
from tombola.lab.models.ghostnet import GhostNet
from tombola.masks.layout import Layout
from tombola.masks.maskset import MaskSet
from tombola.masks.prunable import scope
from tombola.objectives import OneVsRest
from tombola.settings import TrainConfig
from tombola.training.joint import train_jointly
from tombola.training.model import FunctionalModel, Params
from tombola.training.search import find_tickets


def bits(t):
    return t.detach().contiguous().view(torch.int32)


def function(net, **options):
    return FunctionalModel(net, scope(net), **options)


def ones(f):
    return torch.ones(f.scope.size, dtype=torch.bool)


def half(f, seed=0):
    return torch.rand(f.scope.size, generator=torch.Generator().manual_seed(seed)) < 0.5


@pytest.mark.parametrize("training", [False, True])
def test_full_mask_equals_the_plain_module(convnet, images, training):
    f, x = function(convnet), images.train.x[:16]
    theta, plain = f.theta0(), copy.deepcopy(convnet).train(training)
    f.module.train(training)
    assert torch.equal(f(theta, ones(f), x), plain(x))
    assert torch.equal(f(theta, None, x), plain(x))
    for name, buffer in plain.named_buffers():
        assert torch.equal(theta.buffers[name], buffer), name


def test_half_a_mask_equals_a_module_masked_by_hand(convnet, images):
    f, x = function(convnet.eval()), images.train.x[:16]
    mask = half(f)
    plain = copy.deepcopy(convnet)
    for name, m in f.scope.unflatten(mask).items():
        plain.get_parameter(name).data.mul_(m)
    assert torch.equal(f(f.theta0(), mask, x), plain(x))


def test_gradients_are_exactly_zero_outside_the_mask(convnet, images):
    f = function(convnet)
    theta, mask = f.theta0(), half(f)
    f(theta, mask, images.train.x[:16]).square().sum().backward()
    assert bool((theta.weights_N.grad[~mask] == 0).all())
    assert int((theta.weights_N.grad[mask] != 0).sum()) > 0.9 * int(mask.sum())


def test_gradients_inside_the_mask_are_those_of_the_masked_module(convnet, images):
    f, x = function(convnet), images.train.x[:16]
    theta, mask = f.theta0(), half(f)
    f.module.train()
    f(theta, mask, x).square().sum().backward()
    plain = copy.deepcopy(convnet).train()
    for name, m in f.scope.unflatten(mask).items():
        plain.get_parameter(name).data.mul_(m)
    plain(x).square().sum().backward()
    expected = f.scope.flatten({n: p.grad for n, p in plain.named_parameters()}) * mask
    assert torch.equal(theta.weights_N.grad, expected)
    shared = f.shared.flatten({n: p.grad for n, p in plain.named_parameters()})
    assert torch.equal(theta.shared_R.grad, shared)


@pytest.mark.parametrize("training", [False, True])
def test_the_users_backbone_is_never_modified(convnet, make_problem, training):
    convnet.train(training)
    before = {n: t.clone() for n, t in convnet.state_dict().items()}
    problem = make_problem(convnet, OneVsRest(), TrainConfig(lr=0.1, batch_size=8))
    masks = MaskSet.dense(problem.f.scope, problem.partition.names)
    theta0 = problem.f.theta0()
    masks = find_tickets(problem, theta0, masks, [100], 2)
    problem.f.write(train_jointly(problem, theta0, masks, 2))
    assert all(torch.equal(t, before[n]) for n, t in convnet.state_dict().items())
    assert all(module.training is training for module in convnet.modules())
    assert all(p.grad is None and p.requires_grad for p in convnet.parameters())


def test_masked_is_m_times_theta0_bit_for_bit(convnet):
    f = function(convnet)
    theta0, mask = f.theta0(), half(f)
    before, buffers = bits(theta0.weights_N).clone(), {n: b.clone() for n, b in theta0.buffers.items()}
    theta = theta0.masked(mask)
    assert torch.equal(theta.weights_N, theta0.weights_N * mask)
    assert torch.equal(bits(theta.weights_N)[mask], before[mask])
    assert not bits(theta.weights_N)[~mask].any()
    assert torch.equal(theta.shared_R, theta0.shared_R)
    with torch.no_grad():
        theta.weights_N.add_(1)
        theta.shared_R.add_(1)
        for b in theta.buffers.values():
            b.add_(1)
    assert torch.equal(bits(theta0.weights_N), before)
    assert all(torch.equal(b, buffers[n]) for n, b in theta0.buffers.items())


def test_training_after_the_rewind_leaves_theta0_alone(convnet, make_problem):
    problem = make_problem(convnet)
    theta0 = problem.f.theta0()
    before = {n: t.clone() for n, t in theta0.tensors().items()}
    problem.train(theta0.masked(half(problem.f)), half(problem.f), 0, 3, "test")
    assert all(torch.equal(t, before[n]) for n, t in theta0.tensors().items())


def test_frozen_parameters_stay_out_of_theta_and_keep_their_values(convnet, make_problem):
    convnet[9].requires_grad_(False)
    problem = make_problem(convnet)
    theta = problem.f.theta0()
    assert not {"9.weight", "9.bias"} & {*problem.f.scope.names, *problem.f.shared.names}
    problem.train(theta, ones(problem.f), 0, 3, "test")
    module = problem.f.write(theta)
    assert torch.equal(module[9].weight, convnet[9].weight)
    assert not module[9].weight.requires_grad


def test_frozen_weight_in_scope_is_an_error_that_names_it(convnet):
    convnet[4].requires_grad_(False)
    with pytest.raises(ScopeError, match=r"4\.weight cannot be trained.*exclude it"):
        function(convnet)


def test_private_parameters_are_separate_for_each_ticket(convnet, images):
    f = function(convnet.eval(), private=["1.weight", "1.bias"])
    assert f.private.names == ("1.weight", "1.bias")
    assert not set(f.private.names) & set(f.shared.names)
    theta, x = f.theta0().clone(tickets=3), images.train.x[:8]
    assert torch.equal(f(theta, None, x, 0), f(theta, None, x, 2))
    with torch.no_grad():
        theta.private[1].add_(0.5)
    assert torch.equal(f(theta, None, x, 0), f(theta, None, x, 2))
    assert not torch.equal(f(theta, None, x, 0), f(theta, None, x, 1))
    f(theta, None, x, 1).sum().backward()
    assert [p.grad is None for p in theta.private] == [True, False, True]


@pytest.mark.parametrize("k", [0, 1])
def test_written_module_has_the_same_outputs(convnet, images, k):
    f, x = function(convnet.eval(), private=["1.weight", "1.bias"]), images.train.x[:8]
    theta, mask = f.theta0().clone(tickets=2), half(f)
    with torch.no_grad():
        for leaf in theta.leaves():
            leaf.add_(0.1 * torch.randn(leaf.shape))
        theta.private[1].mul_(2)
        theta.buffers["1.running_mean"].add_(1)
    module = f.write(theta, mask, k)
    assert type(module) is type(convnet)
    assert list(module.state_dict()) == list(convnet.state_dict())
    assert torch.equal(module(x), f(theta, mask, x, k))
    unmasked = f.write(theta, k=k)
    assert torch.equal(unmasked(x), f(theta, None, x, k))
    with torch.no_grad():
        theta.weights_N.zero_()
    assert bool(unmasked[0].weight.any())  # a copy, no view


def test_tensors_and_back(convnet):
    f = function(convnet, private=["1.weight"])
    theta = f.theta0().clone(tickets=2)
    back = Params.from_tensors(theta.tensors())
    assert list(back.tensors()) == list(theta.tensors())
    assert all(torch.equal(back.tensors()[n], t) for n, t in theta.tensors().items())
    assert all(leaf.requires_grad and leaf.is_leaf for leaf in back.leaves())


def test_a_weight_with_two_names_is_one_weight():
    a, b = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
    b.weight = a.weight
    net = nn.Sequential(a, nn.Tanh(), b, nn.Linear(4, 2))
    f = FunctionalModel(net, Layout(("0.weight",), ((4, 4),)))
    mask, x = half(f), torch.rand(3, 4)
    written = f.write(f.theta0(), mask)
    assert torch.equal(written[0].weight, written[2].weight)
    assert torch.allclose(f(f.theta0(), mask, x), written(x))


def test_ghostnet_has_the_papers_number_of_weights_in_scope():
    net = GhostNet(10, torch.Generator().manual_seed(0))
    f = FunctionalModel(net, scope(net))
    assert f.scope.size == 125_832
    assert not any(".se." in name or name.startswith("classifier") for name in f.scope.names)
    assert f.scope.size + f.shared.size == sum(p.numel() for p in net.parameters())


def test_parameters_of_several_dtypes_are_an_error_with_a_remedy():
    net = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2).double())
    with pytest.raises(ScopeError, match="several dtypes: cast the model to one"):
        FunctionalModel(net, scope(net)).theta0()


def test_a_backbone_without_values_or_on_two_devices_is_an_error_with_a_remedy():
    net = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    net[0].to("meta")
    with pytest.raises(ScopeError, match="one device"):
        FunctionalModel(net, Layout(("0.weight",), ((8, 4),)))
    with pytest.raises(ScopeError, match="no values"):
        FunctionalModel(net.to("meta"), Layout(("0.weight",), ((8, 4),)))


def test_a_network_is_written_with_the_buffers_that_are_not_saved():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)
            self.register_buffer("seen", torch.zeros(()), persistent=False)

        def forward(self, x):
            self.seen += 1
            return self.layer(x)

    net = Counting()
    f = FunctionalModel(net, scope(net))
    theta = f.theta0()
    for _ in range(3):
        f(theta, None, torch.ones(1, 3))
    assert (float(f.write(theta).seen), float(net.seen)) == (3, 0)
