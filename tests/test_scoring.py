"""Scores: a number per weight, low = prune first; each against values computed by hand, in float64."""

from dataclasses import dataclass, field

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tombola as tb
from tombola._utils.errors import PruningError, UsageError
from tombola.masks.layout import Layout
from tombola.methods.context import conditioned
from tombola.pruning import prune
from tombola.pruning.scores import CRITERIA, Criterion, needs_trajectory, parse, register, registry
from tombola.pruning.scores.grasp import grasp, hessian_product
from tombola.pruning.scores.simple import absolute, snip, taylor, uniform
from tombola.pruning.scores.synflow import synaptic_flow
from tombola.pruning.scores.wanda import squared_inputs, wanda


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


@dataclass
class Known:
    """Evidence whose loss of batch b is ``½ wᵀ A_b w + c_b · w``: gradient ``A w + c``, Hessian ``A``."""

    weights_N: torch.Tensor
    A: list = field(default_factory=list)
    c: list = field(default_factory=list)
    mask_N: torch.Tensor | None = None
    moved_N: torch.Tensor | None = None
    scope: Layout | None = None
    x: list = field(default_factory=list)
    net: nn.Module | None = None

    def __post_init__(self):
        self.start_N = self.weights_N
        if self.mask_N is None:
            self.mask_N = torch.ones_like(self.weights_N, dtype=torch.bool)
        self.scope = self.scope or Layout(("w",), (tuple(self.weights_N.shape),))

    def loss(self, weights_N, batch):
        return weights_N @ self.A[batch] @ weights_N / 2 + self.c[batch] @ weights_N

    def inputs(self, batch):
        return self.x[batch]

    def network(self):
        return self.net


A = f64([2, 1], [1, 3])
QUADRATIC = Known(f64(1, -2), [A, A], [f64(0, 0), f64(-4, 8)])  # g: (0, -5) and (-4, 3), mean (-2, -1)


# -- values by hand -----------------------------------------------------------------------------------


def test_snip_is_the_mean_gradient_times_the_weight_without_its_sign():
    assert snip(QUADRATIC, 1).tolist() == [0, 10]
    assert snip(QUADRATIC, 2).tolist() == [2, 2]  # gradients are averaged before the absolute value


def test_snip_is_the_derivative_by_a_connection():
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    x, w_N = torch.randn(5, 3, dtype=torch.float64), net[0].weight.detach().flatten()

    class PruningContext(Known):
        def loss(self, weights_N, batch):
            out = torch.func.functional_call(net, {"0.weight": weights_N.view(4, 3)}, (x,))
            return out.square().mean()

    context = PruningContext(w_N)
    c = torch.ones_like(w_N, requires_grad=True)
    (by_connection,) = torch.autograd.grad(context.loss(c * w_N, 0), c)
    torch.testing.assert_close(snip(context), by_connection.abs())


def test_taylor_squares_each_batch_by_itself():
    assert taylor(QUADRATIC, 1).tolist() == [0, 100]
    assert taylor(QUADRATIC, 2).tolist() == [(0 + 16) / 2, (100 + 36) / 2]


def test_taylor_squares_do_not_vanish_in_float32():
    tiny = Known(torch.tensor([1e-15]), [torch.zeros(1, 1)], [torch.tensor([1e-10])])
    assert float(taylor(tiny)) == pytest.approx(1e-50)


def test_grasp_is_the_weight_times_the_hessian_of_the_gradient():
    assert grasp(QUADRATIC, 1).tolist() == [-5, 30]  # H g = (-5, -15), w = (1, -2)
    assert grasp(QUADRATIC, 2).tolist() == [-5, 10]  # mean g = (-2, -1): H g = (-5, -5)


def test_grasp_prunes_first_what_the_gradient_can_do_without():
    """The lowest score is the weight whose removal, to first order, makes the gradient longest."""

    def squared_norm(w):
        return float((A @ w).square().sum())

    w, small = f64(1, -2), 1e-6
    change = [squared_norm(w - small * w * e) - squared_norm(w) for e in torch.eye(2, dtype=torch.float64)]
    assert [x / (2 * small) for x in change] == pytest.approx([5, -30], abs=1e-3)  # the paper's S(-w)
    assert grasp(QUADRATIC).tolist() == [-5, 30]  # ours is its negative: weight 0 goes first
    mask = prune(QUADRATIC.mask_N, grasp(QUADRATIC), 1, QUADRATIC.scope)
    assert mask.tolist() == [False, True]


def test_grasp_knows_no_gradient_outside_the_mask():
    masked = Known(f64(0, -2), [A], [f64(0, 0)], torch.tensor([False, True]))
    assert grasp(masked).tolist() == [0, 36]  # g = (-2, -6), under the mask (0, -6): H g = (-6, -18)


def test_the_hessian_of_what_is_linear_is_zero_and_one_that_is_not_there_is_an_error():
    assert hessian_product(lambda w: 3 * w.sum(), f64(1, 2), f64(1, 1)).tolist() == [0, 0]

    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, w):
            return w.exp()

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, grad):
            return grad

    with pytest.raises(PruningError, match="second derivatives"):
        hessian_product(lambda w: Once.apply(w).square().sum(), f64(1, 2), f64(1, 1))


def test_hard_gates_can_be_differentiated_twice():
    gate, weights_N = (
        nn.Hardsigmoid(),
        f64(1, -1, 9),
    )  # (w/6 + 1/2)² inside, 1 beyond 3: second derivative 1/18
    product_N = hessian_product(lambda w: gate(w).square().sum(), weights_N, f64(1, 2, 3))
    assert product_N.tolist() == pytest.approx([1 / 18, 2 / 18, 0])


def two_layers(*between):
    net = nn.Sequential(nn.Linear(2, 2, bias=False), *between, nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(f64([1, -2], [3, -4]))
        net[-1].weight.copy_(f64([-5, 6]))
    return net, Layout(("0.weight", f"{len(between) + 1}.weight"), ((2, 2), (1, 2)))


FLOW = [5, 10, 18, 24, 15, 42]  # R = 5 (1 + 2) + 6 (3 + 4); each layer adds up to R = 57


def test_synflow_is_the_sum_over_paths_of_absolute_weights():
    scores = synaptic_flow(*two_layers(nn.ReLU()), torch.randn(1, 2))
    assert scores.dtype == torch.float64
    assert scores.tolist() == FLOW
    assert sum(FLOW[:4]) == sum(FLOW[4:]) == 57


def test_synflow_sees_no_norm_and_no_dropout():
    norm = nn.BatchNorm1d(2)
    nn.init.constant_(norm.running_var, 7.0)
    net, scope = two_layers(norm, nn.LayerNorm(2), nn.Dropout(0.9), nn.ReLU())
    assert synaptic_flow(net.train(), scope, torch.randn(1, 2)).tolist() == FLOW


def test_synflow_takes_biases_as_absolute_too():
    net = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1, bias=False)).double()
    for parameter, value in zip(net.parameters(), (-2.0, -3.0, 4.0), strict=True):
        nn.init.constant_(parameter, value)
    scope = Layout(("0.weight", "1.weight"), ((1, 1), (1, 1)))
    assert synaptic_flow(net, scope, torch.zeros(1, 1)).tolist() == [8, 20]  # 4·2, and 4·(2 + 3)


def test_synflow_does_not_leave_the_range_of_numbers_in_deep_networks():
    net = nn.Sequential(*[nn.Linear(1, 1, bias=False) for _ in range(100)])
    for parameter in net.parameters():
        nn.init.constant_(parameter, 1e-2)
    scope = Layout(tuple(f"{i}.weight" for i in range(100)), ((1, 1),) * 100)
    torch.testing.assert_close(
        synaptic_flow(net, scope, torch.zeros(1, 1)), f64(*[1e-200] * 100), atol=0, rtol=1e-5
    )


def test_synflow_says_why_it_cannot_run():
    with pytest.raises(PruningError, match="synflow cannot run"):
        synaptic_flow(*two_layers(), torch.zeros(1, 3))


def test_wanda_is_the_weight_times_the_norm_of_its_input():
    net = nn.Linear(2, 2).double()
    x = [f64([3, 1], [0, 2]), f64([4, 2])]  # norms 5 and 3, over both batches
    context = Known(f64(1, -2, 0, 3), scope=Layout(("weight",), ((2, 2),)), x=x, net=net)
    assert wanda(context, 2).tolist() == [5, 6, 0, 9]
    assert wanda(context, 1).tolist() == pytest.approx([3, 2 * 5**0.5, 0, 3 * 5**0.5])


def test_wanda_counts_every_position_of_a_sequence():
    net, x = nn.Linear(2, 1), f64([[3, 1], [4, 0]]).float()  # [1, 2, 2]
    assert squared_inputs(net, Layout(("weight",), ((1, 2),)), [x]).tolist() == [25, 1]


@pytest.mark.parametrize(
    ("options", "squares"),
    [
        ({"padding": 1}, [14, 14]),  # the taps meet 0 1 2 3 and 1 2 3 0
        ({"padding": 1, "stride": 2}, [4, 10]),  # 0 2 and 1 3
        ({"padding": 1, "dilation": 2}, [0 + 1 + 4, 4 + 9 + 0]),  # 0 1 2 and 2 3 0
        ({"padding": 1, "padding_mode": "circular"}, [9 + 14, 14 + 1]),  # 3 1 2 3 and 1 2 3 1
    ],
)
def test_wanda_follows_the_taps_of_a_convolution(options, squares):
    net, x = nn.Conv1d(1, 2, 2, **options), torch.tensor([[[1.0, 2.0, 3.0]]])
    assert squared_inputs(net, Layout(("weight",), ((2, 1, 2),)), [x]).tolist() == squares * 2


def test_wanda_equals_the_norms_of_unfolded_patches():
    x = torch.randn(3, 4, 7, 6, dtype=torch.float64)
    net = nn.Conv2d(4, 5, 3, stride=2, padding=1, bias=False).double()
    patches = F.unfold(x, 3, padding=1, stride=2).square().sum((0, 2))
    found = squared_inputs(net, Layout(("weight",), ((5, 4, 3, 3),)), [x[:1], x[1:]])
    torch.testing.assert_close(found.view(5, -1), patches.expand(5, -1))


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3, groups=2, bias=False),
        nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2, output_padding=1, bias=False),
        nn.Conv3d(4, 2, (1, 2, 2), bias=False),
    ],
    ids=["groups", "transposed", "three dimensions"],
)
def test_wanda_is_the_sum_of_squares_that_each_weight_meets(layer):
    """One weight at a time: an output is that weight times an input that it meets."""
    x = torch.randn(2, 4, *([4] * (layer.weight.ndim - 2)), dtype=torch.float64)
    scope = Layout(("weight",), (tuple(layer.weight.shape),))
    found = squared_inputs(layer.double(), scope, [x])
    with torch.no_grad():
        for i in (0, 5, scope.size - 1):
            alone = torch.zeros(scope.size, dtype=torch.float64)
            alone[i] = 1
            layer.weight.copy_(alone.view_as(layer.weight))
            torch.testing.assert_close(layer(x).square().sum(), found[i])


def test_wanda_reads_what_the_weight_meets_not_what_the_module_is_given():
    net = conditioned(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)), 4, 5, torch.Generator())
    x = torch.tensor([[1.0, 2.0, 3.0], [0.0, 2.0, 1.0]])  # two features and the number of the context
    found = squared_inputs(net, Layout(("0.weight",), ((3, 7),)), [x]).view(3, 7)
    embedded = net[0].context.detach()[[3, 1]].double().square().sum(0)
    torch.testing.assert_close(found[0], torch.cat([f64(1, 8), embedded]))


def test_wanda_adds_up_the_uses_of_a_shared_weight_and_misses_no_unused_one():
    net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
    net[1].weight = net[0].weight
    nn.init.constant_(net[0].weight, 2.0)
    scope = Layout(("0.weight",), ((1, 1),))
    assert squared_inputs(net, scope, [torch.tensor([[3.0]])]).tolist() == [9 + 36]
    unused = nn.ModuleDict({"a": nn.Linear(1, 1), "b": nn.Linear(1, 1)})
    unused.forward = lambda x: unused["a"](x)
    with pytest.raises(PruningError, match=r"b\.weight: exclude it"):
        squared_inputs(unused, Layout(("a.weight", "b.weight"), ((1, 1),) * 2), [torch.ones(1, 1)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_magnitude_is_the_absolute_value_in_the_dtype_of_the_weights(dtype):
    theta_N = torch.tensor([-2.0, 1.0, -0.0, 0.5], dtype=dtype)
    for scores in (absolute(theta_N), CRITERIA["magnitude"](Known(theta_N))):
        assert scores.dtype == dtype
        assert scores.tolist() == [2, 1, 0, 0.5]


def test_magnitude_neither_tracks_gradients_nor_changes_the_weights():
    theta_N = torch.tensor([-2.0, 1.0], requires_grad=True)
    scores = absolute(theta_N)
    scores.zero_()
    assert not scores.requires_grad
    assert theta_N.tolist() == [-2, 1]


def test_random_scores_come_from_the_generator_alone():
    first = uniform(torch.zeros(100), torch.Generator().manual_seed(1))
    second = uniform(torch.randn(100), torch.Generator().manual_seed(1))
    other = uniform(torch.zeros(100), torch.Generator().manual_seed(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_random_scores_leave_the_global_generator_alone():
    state = torch.get_rng_state()
    uniform(torch.zeros(100), torch.Generator().manual_seed(1))
    assert torch.equal(torch.get_rng_state(), state)


def test_random_scores_are_uniform():
    scores = uniform(torch.zeros(100_000), torch.Generator().manual_seed(0))
    assert scores.shape == (100_000,)
    assert (scores >= 0).all()
    assert (scores < 1).all()
    counts = torch.histc(scores, bins=10, min=0, max=1)
    assert (counts - 10_000).abs().max() < 500  # five standard deviations


# -- criteria in general ------------------------------------------------------------------------------

TWO = Layout(("first", "second"), ((2,), (2,)))


def fixed(values, **options):
    return Criterion("fixed", lambda context: values, **options)


def test_movement_gives_what_was_summed_and_asks_for_it():
    assert CRITERIA["movement"](Known(f64(1, 2), moved_N=f64(-3, 4))).tolist() == [-3, 4]
    with pytest.raises(PruningError, match="was not kept"):
        CRITERIA["movement"](Known(f64(1, 2)))
    assert [name for name, criterion in CRITERIA.items() if needs_trajectory(criterion)] == ["movement"]
    assert not needs_trajectory(lambda context: context.weights_N)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_name_the_layer_unless_they_are_outside_the_mask(bad):
    scores, mask = f64(1, 2, bad, 4), torch.tensor([True, True, True, True])
    with pytest.raises(PruningError, match="fixed scores of second are NaN or infinite"):
        fixed(scores)(Known(f64(1, 1, 1, 1), scope=TWO))
    mask[2] = False
    context = Known(f64(1, 1, 0, 1), scope=TWO, mask_N=mask)
    for selection in ("global", "layer"):
        kept = prune(mask, fixed(scores)(context), 2, TWO, selection)
        other = prune(mask, fixed(scores.nan_to_num(-5.0, -5.0))(context), 2, TWO, selection)
        assert torch.equal(kept, other)
        assert not kept[2]


def test_a_layer_of_zeros_is_named_unless_nothing_of_it_is_kept():
    scores = f64(1, 2, 0, 0)
    with pytest.raises(PruningError, match=r"fixed scores of second are all zero.*exclude the layer"):
        fixed(scores)(Known(f64(1, 1, 1, 1), scope=TWO))
    gone = Known(f64(1, 1, 0, 0), scope=TWO, mask_N=torch.tensor([True, True, False, False]))
    assert fixed(scores)(gone).tolist() == [1, 2, 0, 0]
    assert fixed(scores, zeros=True)(Known(f64(1, 1, 1, 1), scope=TWO)).tolist() == [1, 2, 0, 0]


def test_zero_weights_are_an_answer_to_magnitude_and_none_to_snip():
    zero = Known(f64(1, 1, 0, 0), [torch.eye(4, dtype=torch.float64)], [f64(0, 0, 1, 1)], scope=TWO)
    assert CRITERIA["magnitude"](zero).tolist() == [1, 1, 0, 0]
    with pytest.raises(
        PruningError, match=r"snip scores of second are all zero.*\(T\), read more batches \(snip:N\)"
    ):
        CRITERIA["snip"](zero)


def test_a_criterion_that_draws_draws_the_same_and_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    drawn = Criterion("drawn", lambda context: torch.rand(2))
    assert torch.equal(drawn(Known(f64(1, 2))), drawn(Known(f64(1, 2))))
    assert torch.equal(torch.get_rng_state(), state)


def test_every_criterion_is_found_by_its_name():
    assert all(parse(name) is criterion and criterion.name == name for name, criterion in CRITERIA.items())
    assert {name for name, criterion in CRITERIA.items() if criterion.batches} == {
        "snip",
        "grasp",
        "taylor",
        "wanda",
    }


def test_a_score_of_ones_own_is_named_in_settings_like_any_other(convnet, images, by_class, monkeypatch):
    monkeypatch.setattr(registry, "CRITERIA", dict(CRITERIA))

    @register("last", batches=1)
    def last(context, batches):
        assert (batches, context.inputs(0).ndim) == (2, 4)
        return torch.arange(context.scope.size, dtype=torch.float32) + 1

    given = (convnet, tb.objectives.OneVsRest(), images, by_class)
    tickets = tb.rtl(*given, sparsity=0.1, T=1, steps=1, score="last:2", schedule="one_shot")
    for name, kept in tickets.masks.counts.items():
        assert tickets[name][-kept:].all()
        assert kept == round(0.9 * tickets.scope.size)
    for taken in ("last", "snip"):
        with pytest.raises(UsageError, match=f"there is a score '{taken}' already"):
            register(taken)(torch.abs)
    for scale in (1.0, 2.0):  # a cell of a notebook that is run again

        @register("again")
        def again(context):
            return context.weights_N * scale  # noqa: B023

        assert CRITERIA.get("again", parse("again")).score is again
    with pytest.raises(UsageError, match="cannot be named 'last:2'"):
        register("last:2")


@pytest.mark.parametrize("name", ["snip", "grasp", "taylor", "wanda"])
def test_the_number_of_batches_reaches_the_criterion(name):
    net = nn.Linear(2, 1, bias=False).double()
    scope = Layout(("weight",), ((1, 2),))
    known = Known(f64(1, -2), QUADRATIC.A, QUADRATIC.c, scope=scope, x=[f64([1, 2]), f64([3, 1])], net=net)
    first, both = parse(f"{name}:1")(known), parse(f"{name}:2")(known)
    assert torch.equal(first, parse(name)(known))
    assert not torch.equal(first, both)
    assert torch.equal(both, CRITERIA[name].score(known, 2))


# -- gamma -----------------------------------------------------------------------------------------------


def test_gamma_gives_every_channel_the_scale_of_its_own_batch_norm():
    from tombola.pruning.scores.gamma import channel_scales

    net = nn.Sequential(
        nn.Conv1d(2, 3, 2, bias=False),
        nn.BatchNorm1d(3),
        nn.ReLU(),
        nn.ConvTranspose1d(3, 2, 1),
        nn.BatchNorm1d(2),
    ).double()
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([1.0, -2.0, 0.5]))
        net[4].weight.copy_(torch.tensor([-3.0, 4.0]))
    layout = Layout(("0.weight", "3.weight"), ((3, 2, 2), (3, 2, 1)))
    found = channel_scales(net, layout, torch.zeros(1, 2, 5, dtype=torch.float64)).tolist()
    assert found == [1.0] * 4 + [2.0] * 4 + [0.5] * 4 + [3.0, 4.0] * 3  # stored [in, out]


def test_gamma_names_the_layers_without_a_batch_norm_behind_them():
    from tombola.pruning.scores.gamma import channel_scales

    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.BatchNorm1d(3), nn.Linear(3, 2))
    with pytest.raises(PruningError, match=r"0\.weight, 3\.weight has none: exclude it"):
        channel_scales(net, Layout(("0.weight", "3.weight"), ((3, 2), (2, 3))), torch.zeros(1, 2))


def test_every_prunable_layer_of_ghostnet_and_of_the_small_convnet_has_a_scale():
    from tombola.lab.models.convnet import SmallConvNet
    from tombola.lab.models.ghostnet import GhostNet
    from tombola.masks.prunable import scope
    from tombola.pruning.scores.gamma import channel_scales

    for net, example in (
        (GhostNet(10), torch.zeros(1, 3, 32, 32)),
        (SmallConvNet(), torch.zeros(1, 1, 8, 8)),
    ):
        layout = scope(net)
        assert channel_scales(net, layout, example).tolist() == [1.0] * layout.size
