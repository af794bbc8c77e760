"""Norm statistics: plain means over a ticket's own batches, under a stated policy."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tombola as tb
from tombola._utils.errors import UsageError
from tombola.api import rtl
from tombola.masks.prunable import scope
from tombola.methods.pipeline import Network, Pipeline
from tombola.objectives import OneVsRest
from tombola.runs.cache import StageCache
from tombola.runs.stages import Stage
from tombola.settings import Settings, TrainConfig
from tombola.training.model import FunctionalModel
from tombola.training.norm import check, estimate, private_parameters, statistics_names


def passes(f, images, mask=None):
    return [(0, mask, images.train.x[i : i + 8]) for i in (0, 8, 16)]


def mean_over_batches(net, batches):
    """Of both norm layers of the tiny convnet, layer by layer, without dropout."""
    rows = []
    for x in batches:
        a = net[0](x)
        h = torch.relu(F.batch_norm(a, None, None, net[1].weight, net[1].bias, training=True))
        b = net[4](h)
        rows.append([t for u in (a, b) for t in (u.mean((0, 2, 3)), u.var((0, 2, 3)))])
    means = [torch.stack(column).mean(0) for column in zip(*rows, strict=True)]
    return dict(zip(statistics_names(net), means, strict=True))


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_estimate_is_the_mean_over_batches_and_dropout_is_off(make_convnet, images, dropout):
    net = make_convnet(dropout=dropout).train()
    f = FunctionalModel(net, scope(net))
    mask = torch.rand(f.scope.size) < 0.6
    found = estimate(f, f.theta0(), passes(f, images, mask))
    masked = f.write(f.theta0(), mask)
    expected = mean_over_batches(masked, [x for _, _, x in passes(f, images)])
    assert list(found) == ["1.running_mean", "1.running_var", "5.running_mean", "5.running_var"]
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=name)


def test_estimate_changes_nothing_else(make_convnet, images):
    net = make_convnet(dropout=0.5)
    f = FunctionalModel(net, scope(net))
    theta = f.theta0()
    f.module.train()
    f.module[9].eval()
    before = {n: t.clone() for n, t in theta.tensors().items()}
    module = {n: t.clone() for n, t in f.module.state_dict().items()}
    modes = [m.training for m in f.module.modules()]
    f.module[1].momentum = 0.3
    estimate(f, theta, passes(f, images))
    assert all(torch.equal(t, before[n]) for n, t in theta.tensors().items())
    assert all(torch.equal(t, module[n]) for n, t in f.module.state_dict().items())
    assert [m.training for m in f.module.modules()] == modes
    assert [f.module[1].momentum, f.module[5].momentum] == [0.3, 0.1]
    assert all(leaf.grad is None for leaf in theta.leaves())


def test_a_failing_pass_leaves_modes_and_momentum_as_they_were(convnet):
    f = FunctionalModel(convnet, scope(convnet))
    f.module.eval()
    with pytest.raises(RuntimeError):
        estimate(f, f.theta0(), [(0, None, torch.rand(2, 7))])
    assert not any(m.training for m in f.module.modules())
    assert f.module[1].momentum == 0.1


def test_estimate_does_not_depend_on_the_statistics_before(convnet, images):
    f = FunctionalModel(convnet, scope(convnet))
    one, two = f.theta0(), f.theta0()
    for name in statistics_names(convnet):
        two.buffers[name].fill_(float("inf"))
    found = estimate(f, one, passes(f, images)), estimate(f, two, passes(f, images))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_a_network_without_norms_has_no_statistics():
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    f = FunctionalModel(net, scope(net))
    assert estimate(f, f.theta0(), [(0, None, torch.rand(3, 4))]) == {}


def test_private_parameters_are_the_norm_affines_of_per_ticket_only(convnet):
    assert private_parameters(convnet, "per_ticket") == {"1.weight", "1.bias", "5.weight", "5.bias"}
    assert private_parameters(convnet, "per_ticket_statistics") == set()
    assert private_parameters(convnet, "shared") == set()


def test_unknown_policy_lists_those_that_are():
    with pytest.raises(UsageError, match=r"did you mean 'shared'.*per_ticket_statistics, per_ticket"):
        check("share")


def trained(convnet, images, by_class, policy):
    config = TrainConfig(lr=1e-2, batch_size=8)
    settings = Settings(
        (0.5,), "one_shot", T=2, steps=3, search=config, train=config, normalization=policy, statistics=3
    )
    pipeline = Pipeline(convnet, OneVsRest(), images, by_class, settings, 0, StageCache())
    model, _ = pipeline.train(
        Network(Stage("train", "test", sparsity=0.5), "own", pipeline.masks("own", 0.5))
    )
    return pipeline, model


def own_batches(pipeline, k):
    return list(pipeline.problem("own", pipeline.settings.train).inputs(k, 3, "statistics"))


def test_shared_stores_no_private_statistics(convnet, images, by_class):
    pipeline, model = trained(convnet, images, by_class, "shared")
    assert (model.private.size, model.statistics.size) == (0, 0)
    one, two = model.bake("top"), model.bake("bottom")
    for name in statistics_names(one):
        assert torch.equal(one.get_buffer(name), two.get_buffer(name))
    firsts = [model.bake(n)[0](x).mean((0, 2, 3)) for k, n in enumerate(model.names)
              for x in own_batches(pipeline, k)]  # fmt: skip
    torch.testing.assert_close(one[1].running_mean, torch.stack(firsts).mean(0).detach())


@pytest.mark.parametrize("policy", ["per_ticket_statistics", "per_ticket"])
def test_each_ticket_has_the_statistics_of_its_own_data(convnet, images, by_class, policy):
    pipeline, model = trained(convnet, images, by_class, policy)
    assert model.statistics.names == tuple(statistics_names(convnet))
    for k, name in enumerate(model.names):
        baked = model.bake(name)
        expected = mean_over_batches(copy.deepcopy(baked), own_batches(pipeline, k))
        for statistic, value in expected.items():
            torch.testing.assert_close(baked.get_buffer(statistic), value, msg=f"{name} {statistic}")


def test_per_ticket_statistics_shares_the_affine_part(convnet, images, by_class):
    _, model = trained(convnet, images, by_class, "per_ticket_statistics")
    assert model.private.size == 0
    assert torch.equal(model.bake("top")[1].weight, model.bake("bottom")[1].weight)


def test_per_ticket_trains_an_affine_part_for_each(convnet, images, by_class):
    _, model = trained(convnet, images, by_class, "per_ticket")
    assert model.private.names == ("1.weight", "1.bias", "5.weight", "5.bias")
    weights = [model.bake(name)[1].weight for name in model.names]
    assert not any(torch.equal(w, convnet[1].weight) for w in weights)
    assert not torch.equal(weights[0], weights[1])


# -- frozen norms, and norms without statistics --------------------------------------------------------------


class KeepsNorm(nn.Module):
    """A network that has been trained before and keeps its norm in evaluation mode."""

    def __init__(self, frozen):
        super().__init__()
        self.frozen = frozen
        self.one, self.norm, self.two = nn.Linear(36, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)
        self.norm.running_var.fill_(5.0)

    def train(self, mode=True):
        super().train(mode)
        if self.frozen:
            self.norm.eval()
        return self

    def forward(self, x):
        return self.two(torch.relu(self.norm(self.one(x.flatten(1)))))


QUICK = {"sparsity": 0.5, "T": 3, "steps": 4, "rewind": 0, "parallel": "no"}


@pytest.mark.parametrize("policy", ["shared", "per_ticket_statistics", "per_ticket", "frozen"])
@pytest.mark.parametrize("frozen", [True, False])
def test_a_frozen_norm_keeps_the_statistics_it_came_with(policy, frozen, images, by_class):
    net = KeepsNorm(frozen)
    tickets = rtl(net, OneVsRest(), images, by_class, normalization=policy, **QUICK)
    kept = frozen or policy == "frozen"
    for name in tickets.names:
        norm = tickets.bake(name).norm
        assert torch.equal(norm.running_var, net.norm.running_var) == kept
        assert torch.equal(norm.running_mean, net.norm.running_mean) == kept
    assert bool(tickets.statistics.size) == (not kept and policy != "shared")


def test_the_mode_of_a_frozen_norm_is_that_of_evaluation_in_every_step(images, by_class):
    modes = set()
    net = KeepsNorm(False)
    net.norm.register_forward_pre_hook(lambda module, _: modes.add(module.training))
    options = {**QUICK, "score": "snip"}
    rtl(net, OneVsRest(), images, by_class, normalization="frozen", **options)
    assert modes == {False}


@pytest.mark.parametrize(
    "norm", [nn.LayerNorm(8), nn.GroupNorm(2, 8), nn.RMSNorm(8), nn.InstanceNorm1d(4, affine=True)]
)
def test_per_ticket_gives_every_kind_of_norm_an_affine_part_of_its_own(norm, images, by_class):
    shape = nn.Unflatten(1, (4, 2)) if isinstance(norm, nn.InstanceNorm1d) else nn.Identity()
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), shape, norm, nn.Flatten(), nn.ReLU(), nn.Linear(8, 3))
    tickets = rtl(net, OneVsRest(), images, by_class, normalization="per_ticket", **QUICK)
    assert tickets.private.names == tuple(f"3.{name}" for name, _ in norm.named_parameters())
    one, two = (tickets.private_state(name)["3.weight"] for name in tickets.names[:2])
    assert not torch.equal(one, two)


def test_norms_of_plain_means_count_the_batches_of_each_ticket(convnet, images, by_class, tmp_path):
    convnet[1].momentum = None
    given = (convnet, tb.objectives.OneVsRest(), images, by_class)
    model = tb.rtl(*given, sparsity=0.5, T=1, steps=1, statistics=2)
    assert "1.num_batches_tracked" in model.statistics.names
    model.save(tmp_path / "a.tickets")
    model = tb.load(tmp_path / "a.tickets", convnet).train()
    x = images.inputs("train", torch.arange(12))
    before = {name: model.private_state(name)["1.running_mean"].clone() for name in model.names}
    for batch in x.split(4):
        for name in model.names:
            model(batch, ticket=name)
    for name in model.names:
        state, layer = model.private_state(name), model.bake(name)[0]
        means = torch.stack([layer(batch).mean((0, 2, 3)) for batch in x.split(4)])
        expected = (2 * before[name] + means.sum(0)) / 5
        torch.testing.assert_close(state["1.running_mean"], expected.detach())
        assert state["1.num_batches_tracked"].dtype == torch.int64
        assert state["1.num_batches_tracked"] == 5
