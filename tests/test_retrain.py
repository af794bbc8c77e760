"""Algorithm 2 against naive loops, and what must hold of every joint training."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tombola._utils.checkpoint import Checkpoint
from tombola._utils.errors import DataError, UsageError
from tombola.data import partition as partitions
from tombola.data.dataset import Data
from tombola.lab.models.ghostnet import kaiming_
from tombola.masks.maskset import MaskSet
from tombola.masks.prunable import scope
from tombola.objectives import Classification
from tombola.settings import TrainConfig
from tombola.training.joint import train_jointly
from tombola.training.model import FunctionalModel
from tombola.training.trainer import Problem


@pytest.fixture
def small():
    """A perceptron 6 → 8 → 3, two subsets of different size, masks that overlap."""
    g = torch.Generator().manual_seed(1)
    x = torch.randn(80, 6, generator=g)
    y = (x[:, :3] + x[:, 3:]).argmax(1)
    data = Data.of(x, y, {"site": (torch.arange(80) % 5 < 2).numpy().astype(int)}, validation=0.2)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    kaiming_(net, g)
    f = FunctionalModel(net, scope(net))
    partition = partitions.by_column(data, "site", ["many", "few"])
    problem = Problem(f, data, partition, Classification(), TrainConfig("SGD", 0.2, 8), 0)
    masks = MaskSet(f.scope, {n: torch.rand(48, generator=g) < 0.6 for n in ("many", "few")})
    return problem, masks


def reference(problem, masks, steps, simultaneous, dtype=torch.float32):
    """The loop of the paper, written out for this network; products in this dtype."""

    def linear(x, weight, bias):
        return F.linear(x.to(dtype), weight.to(dtype), bias.to(dtype))

    named = {n: p.detach().clone().requires_grad_() for n, p in problem.f.module.named_parameters()}
    train = problem.data.train
    streams = [problem.stream(k, "retrain") for k in range(2)]
    for b in range(steps):
        sums = {n: torch.zeros_like(p) for n, p in named.items()}
        for k in range(2):
            index, m = streams[k][b], masks.masks_KN[k].view(8, 6)
            hidden = torch.relu(linear(train.x[index], named["0.weight"] * m, named["0.bias"]))
            outputs = linear(hidden, named["2.weight"], named["2.bias"]).float()
            grads = torch.autograd.grad(F.cross_entropy(outputs, train.y[index]), list(named.values()))
            for (name, p), grad in zip(named.items(), grads, strict=True):
                grad = grad * m if name == "0.weight" else grad
                if simultaneous:
                    sums[name] += grad
                else:
                    p.data -= 0.2 * grad
        for name, p in named.items():
            p.data -= 0.2 * sums[name]
    return named


@pytest.mark.parametrize("form", ["sequential", "simultaneous"])
def test_training_equals_a_naive_loop(small, form):
    problem, masks = small
    theta = train_jointly(problem, problem.f.theta0(), masks, 12, form=form)
    expected = reference(problem, masks, 12, form == "simultaneous")
    for name, value in problem.f.named(theta, None).items():
        torch.testing.assert_close(value, expected[name], msg=name)


@pytest.mark.parametrize("form", ["sequential", "simultaneous"])
def test_passes_in_bfloat16_move_weights_of_the_networks_own_dtype(small, form):
    problem, masks = small
    plain = train_jointly(problem, problem.f.theta0(), masks, 12, form=form)
    problem.config = replace(problem.config, precision="bfloat16")
    theta = train_jointly(problem, problem.f.theta0(), masks, 12, form=form)
    expected = reference(problem, masks, 12, form == "simultaneous", torch.bfloat16)
    assert theta.weights_N.dtype == torch.float32
    assert not torch.equal(theta.weights_N, plain.weights_N)
    for name, value in problem.f.named(theta, None).items():
        torch.testing.assert_close(value, expected[name], msg=name)


def test_passes_in_bfloat16_are_refused_where_they_would_not_be(small):
    problem, _ = small
    double = FunctionalModel(problem.f.module.double(), problem.f.scope)
    config = replace(problem.config, precision="bfloat16")
    with pytest.raises(UsageError, match="does nothing to one in float64"):
        replace(problem, f=double, config=config)


def test_the_two_forms_differ(small):
    problem, masks = small
    one, two = (
        train_jointly(problem, problem.f.theta0(), masks, 5, form=f) for f in ("sequential", "simultaneous")
    )
    assert not torch.allclose(one.weights_N, two.weights_N)


def test_a_small_subset_repeats_cyclically_and_every_ticket_gets_every_step(small):
    problem, masks = small
    seen = {0: [], 1: []}

    class Watching(Classification):
        def targets(self, data, partition, index, k):
            seen[k].append(index)
            return super().targets(data, partition, index, k)

    problem.objective = Watching()
    sizes = list(problem.partition.sizes().values())
    steps = 2 * problem.batches(0)
    train_jointly(problem, problem.f.theta0(), masks, steps)
    assert sizes[0] > sizes[1]
    for k in range(2):
        assert len(seen[k]) == steps
        counts = torch.cat(seen[k]).bincount(minlength=len(problem.data.train))
        own = problem.partition.members["train"][:, k]
        assert not counts[~own].any()
        assert int(counts[own].max() - counts[own].min()) <= 1
        assert int(counts[own].min()) >= (2 if k == 0 else 3)
    assert problem.samples_seen == 2 * steps * 8


def test_shares_by_size_give_every_sample_its_turn_at_the_same_cost(small):
    problem, masks = small
    turns = []

    class Watching(Classification):
        def targets(self, data, partition, index, k):
            turns.append((k, index))
            return super().targets(data, partition, index, k)

    problem.objective, checkpoint = Watching(), Checkpoint()
    train_jointly(problem, problem.f.theta0(), masks, 15, shares="size", save_every=1, checkpoint=checkpoint)
    assert len(turns) == 2 * 15
    sizes = torch.tensor(list(problem.partition.sizes().values()), dtype=torch.float64)
    made = torch.tensor([k for k, _ in turns]).bincount()
    assert torch.allclose(made.double(), 30 * sizes / sizes.sum(), atol=1)
    for k, count in enumerate(made.tolist()):  # each goes through its own samples as ever
        stream = problem.stream(k, "retrain")
        seen = [index for turn, index in turns if turn == k]
        assert all(torch.equal(index, stream[i]) for i, index in enumerate(seen))
        passes = [row["step"] for row in checkpoint.rows if row["ticket"] == masks.names[k]]
        assert len(set(passes)) == min(count, 15)  # no loss is recorded where there was no turn


RECIPES = [
    TrainConfig("Adam", 0.01, 8),
    TrainConfig("AdamW", 0.01, 8, lr_schedule="cosine", options={"weight_decay": 0.1}),
    TrainConfig("SGD", 0.01, 8, options={"momentum": 0.9, "weight_decay": 0.01}),
    TrainConfig("AdamW", 0.01, 8, precision="bfloat16"),
]


@pytest.mark.parametrize("config", RECIPES)
@pytest.mark.parametrize("form", ["sequential", "simultaneous"])
def test_weights_outside_the_union_keep_their_bits(convnet, make_problem, random_masks, config, form):
    problem = make_problem(convnet, config=config)
    masks, theta0 = random_masks(problem.f.scope, density=0.3), problem.f.theta0()
    theta = train_jointly(problem, theta0, masks, 4, form=form)
    same = theta.weights_N.detach().view(torch.int32) == theta0.weights_N.detach().view(torch.int32)
    assert bool(same[~masks.union()].all())
    assert int((~same)[masks.union()].sum()) > 0.9 * int(masks.union().sum())


@pytest.mark.parametrize("config", RECIPES)
def test_the_step_of_a_ticket_leaves_what_only_others_own(convnet, make_problem, random_masks, config):
    problem = make_problem(convnet, config=config)
    masks, theta0 = random_masks(problem.f.scope), problem.f.theta0()
    theta = train_jointly(problem, theta0, masks, 4, tickets=[1])
    assert torch.equal(theta.weights_N[~masks["middle"]], theta0.weights_N[~masks["middle"]])
    assert not torch.equal(theta.weights_N, theta0.weights_N)


def test_private_parts_move_in_their_own_steps_only(convnet, make_problem, random_masks):
    problem = make_problem(convnet, private=["1.weight", "1.bias"])
    masks, theta0 = random_masks(problem.f.scope), problem.f.theta0()
    theta = train_jointly(problem, theta0, masks, 3, tickets=[0, 2])
    assert len(theta.private) == 3
    moved = [not torch.equal(p, theta0.private[0]) for p in theta.private]
    assert moved == [True, False, True]
    assert not torch.equal(theta.private[0], theta.private[2])


def test_theta0_keeps_its_bits(convnet, make_problem, random_masks):
    problem = make_problem(convnet)
    theta0 = problem.f.theta0()
    before = {n: t.clone() for n, t in theta0.tensors().items()}
    train_jointly(problem, theta0, random_masks(problem.f.scope), 3)
    assert all(torch.equal(t, before[n]) for n, t in theta0.tensors().items())


def test_two_trainings_are_equal_and_another_seed_or_purpose_differs(convnet, make_problem, random_masks):
    def train(seed=0, **options):
        problem = make_problem(convnet, seed=seed)
        return train_jointly(
            problem, problem.f.theta0(), random_masks(problem.f.scope), 3, **options
        ).weights_N

    assert torch.equal(train(), train())
    assert not torch.equal(train(), train(seed=1))
    assert not torch.equal(train(), train(purpose="rewind"))


def test_a_ticket_trained_alone_is_plain_training_of_its_network(small):
    problem, masks = small
    theta = train_jointly(problem, problem.f.theta0(), masks, 6, tickets=[0])
    alone = problem.f.theta0()
    problem.train(alone, masks.masks_KN[0], 0, 6, "retrain")
    assert torch.equal(theta.weights_N, alone.weights_N)
    assert torch.equal(theta.shared_R, alone.shared_R)


def test_training_lowers_the_loss(convnet, make_problem, random_masks):
    problem = make_problem(convnet, config=TrainConfig(lr=0.02, batch_size=16))
    checkpoint = Checkpoint()
    train_jointly(
        problem, problem.f.theta0(), random_masks(problem.f.scope), 60, save_every=20, checkpoint=checkpoint
    )
    losses = [[r["loss"] for r in checkpoint.rows if r["ticket"] == name] for name in problem.partition.names]
    assert all(len(row) == 3 and row[2] < 0.7 * row[0] for row in losses)


def states(theta):
    return theta.tensors()


@pytest.mark.parametrize("config", RECIPES)
@pytest.mark.parametrize(
    ("form", "shares"), [("sequential", "equal"), ("sequential", "size"), ("simultaneous", "equal")]
)
@pytest.mark.parametrize("alive", [0, 1, 3])
def test_an_interrupted_training_goes_on_to_the_same_bits(
    convnet, make_problem, random_masks, interrupted, config, form, shares, alive
):
    def train(checkpoint):
        problem = make_problem(convnet, config=config, private=["1.weight"])
        masks = random_masks(problem.f.scope)
        how = {"form": form, "shares": shares, "save_every": 2}
        theta = train_jointly(problem, problem.f.theta0(), masks, 7, **how, checkpoint=checkpoint)
        return theta.tensors(), problem.samples_seen

    plain = Checkpoint()
    expected, seen = train(plain)
    checkpoint = interrupted(alive)
    with pytest.raises(KeyboardInterrupt):
        train(checkpoint)
    checkpoint.alive = -1
    del checkpoint.rows[3 * alive :]  # a run cuts off what came after its last saved state
    found, again = train(checkpoint)
    assert again == seen
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert checkpoint.rows == plain.rows


def test_a_stage_that_is_finished_is_not_trained_again(convnet, make_problem, random_masks, interrupted):
    problem, checkpoint = make_problem(convnet), interrupted(-1)
    masks = random_masks(problem.f.scope)
    theta = train_jointly(problem, problem.f.theta0(), masks, 4, checkpoint=checkpoint)
    seen = problem.samples_seen
    again = train_jointly(problem, problem.f.theta0(), masks, 4, checkpoint=checkpoint)
    assert problem.samples_seen == seen
    assert torch.equal(again.weights_N, theta.weights_N)


@pytest.mark.parametrize("form", ["sequential", "simultaneous"])
def test_a_loss_that_is_not_finite_names_the_ticket(convnet, make_problem, random_masks, form):
    problem = make_problem(convnet, config=TrainConfig("SGD", 1e30, 8))
    with pytest.raises(DataError, match=r"loss of ticket '(top|middle|bottom)' became (nan|inf)"):
        train_jointly(problem, problem.f.theta0(), random_masks(problem.f.scope), 6, form=form)


@pytest.mark.parametrize(
    ("options", "names", "named"),
    [
        ({"form": "sequental"}, None, "form is one of sequential, simultaneous: got 'sequental'"),
        ({"shares": "sizes"}, None, "shares is one of"),
        ({"form": "simultaneous", "shares": "size"}, None, "takes a batch of every ticket"),
        (
            {},
            ["bottom", "middle", "top"],
            "masks are for bottom, middle, top, subsets are top, middle, bottom",
        ),
        ({}, ["top"], "one mask per subset"),
    ],
    ids=["form", "shares", "both", "order", "one"],
)
def test_what_cannot_be_meant_is_an_error(options, names, named, make_convnet, make_problem):
    problem = make_problem(make_convnet())
    masks = MaskSet.dense(problem.f.scope, names or problem.partition.names)
    with pytest.raises(UsageError, match=named):
        train_jointly(problem, problem.f.theta0(), masks, 1, **options)
