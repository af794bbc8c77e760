"""SET and RigL: one move by hand, counts of every layer at every step, and resuming."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tombola.pruning import prune
from tombola.settings import TrainConfig
from tombola.training.callbacks.dynamic_sparse import SET, Moves, RigL, moved
from tombola.training.pruning_context import TicketContext
from tombola.training.rewind import StartWeights
from tombola.training.search import find_tickets

RECIPES = [
    TrainConfig("SGD", 0.1, 8, options={"momentum": 0.9}),
    TrainConfig("Adam", 0.01, 8),
    TrainConfig("AdamW", 0.01, 8, options={"weight_decay": 0.1}),
]
numbers = st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0]), min_size=12, max_size=12).map(torch.tensor)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.booleans(), min_size=12, max_size=12).map(torch.tensor), numbers, numbers, st.data())
def test_a_move_drops_the_smallest_and_grows_what_promises_most(mask, size, promise, data):
    count = data.draw(st.integers(0, int(mask.sum())))
    inside = sorted((float(size[i]), i) for i in range(12) if mask[i])
    shared = {i for _, i in inside[count:]}  # of equal ones the first goes
    outside = sorted((float(promise[i]), i) for i in range(12) if i not in shared)
    grown = {i for _, i in outside[len(outside) - count :]}
    after = moved(mask, size, promise, count)
    assert {i for i in range(12) if after[i]} == shared | grown
    assert after.sum() == mask.sum()


def ticket(problem, density=0.5, k=0):
    """A ticket in training under a random mask, as `extract` has it."""
    f, g = problem.f, torch.Generator().manual_seed(3)
    scores, keep = torch.rand(f.scope.size, generator=g), round(density * f.scope.size)
    mask = prune(torch.ones(f.scope.size, dtype=torch.bool), scores, keep, f.scope, "erk")
    theta0 = f.theta0()
    return TicketContext(problem, theta0, theta0.masked(mask), mask, k, 1)


@pytest.mark.parametrize("config", RECIPES, ids=lambda r: r.optimizer)
@pytest.mark.parametrize("by_gradient", [False, True], ids=["set", "rigl"])
def test_every_layer_keeps_its_count_and_nothing_moves_outside_the_mask(
    convnet, make_problem, config, by_gradient
):
    problem = make_problem(convnet, config=config)
    context = ticket(problem)
    moves, T, seen = Moves((RigL if by_gradient else SET)(0.5, 3), context, 12), 12, []
    sizes = context.scope.sizes
    counts = [int(part.sum()) for part in context.mask_N.split(sizes)]

    def look(step, theta, optimizer):
        before, values = context.mask_N.clone(), theta.weights_N.detach().clone()
        state = {n: t.clone() for n, t in optimizer.tensors().items() if t.shape == before.shape}
        moves(step, theta, optimizer)
        after = context.mask_N
        assert [int(part.sum()) for part in after.split(sizes)] == counts
        assert not theta.weights_N.detach()[before ^ after].any()
        assert not theta.weights_N.detach()[~after].any()
        stay = ~(before ^ after)
        assert torch.equal(theta.weights_N.detach()[stay], values[stay])
        now = {n: t for n, t in optimizer.tensors().items() if t.shape == before.shape}
        assert now.keys() == state.keys() != set()
        assert all(
            torch.equal(t[stay], state[n][stay]) and not t[before ^ after].any() for n, t in now.items()
        )
        seen.append(int((before ^ after).sum()) // 2)
        return False

    look.metadata = moves.metadata
    problem.train(context.theta, context.mask_N, 0, T, "test", callbacks=[look])
    share = [0.25 * (1 + math.cos(math.pi * t / T)) for t in (3, 6, 9)]
    most = [sum(int(s * count) for count in counts) for s in share]
    assert [n > 0 for n in seen] == [t in (3, 6, 9) for t in range(1, 13)]  # none at the end
    assert all(n <= m for n, m in zip((seen[2], seen[5], seen[8]), most, strict=True))
    assert moves.metadata() == {"event": "moved", "moves": 3, "grown": sum(seen)}
    assert problem.samples_seen == 12 * 8 + (3 * 8 if by_gradient else 0)


def test_rigl_grows_where_the_gradient_of_all_weights_is_largest(convnet, make_problem):
    problem = make_problem(convnet)
    context = ticket(problem)
    weights = context.theta.weights_N.detach().clone().requires_grad_()
    loss = problem.loss(
        type(context.theta)(
            weights,
            context.theta.shared_R,
            context.theta.private,
            {n: b.clone() for n, b in context.theta.buffers.items()},
        ),
        None,
        next(problem.draw([(0, problem.stream(0, "score", 1), 0)])),
    )
    (gradient,) = torch.autograd.grad(loss, weights)
    assert gradient[~context.mask_N].abs().max() > 0
    before, optimizer = context.mask_N.clone(), problem.config.build(context.theta.leaves())
    Moves(RigL(0.4, 1), context, 100)(1, context.theta, optimizer)
    grown = context.mask_N & ~before
    layers = (t.split(context.scope.sizes) for t in (gradient.abs(), grown, context.mask_N | before))
    for g, new, taken in zip(*layers, strict=True):
        assert not new.any() or g[new].min() >= g[~taken].max()
    assert grown.any()


def test_set_draws_from_the_seed_and_the_ticket(convnet, make_problem):
    def after(seed=0, k=0):
        problem = make_problem(convnet, seed=seed)
        context = ticket(problem, k=k)
        optimizer = problem.config.build(context.theta.leaves())
        Moves(SET(0.4, 1), context, 100)(1, context.theta, optimizer)
        return context.mask_N

    assert torch.equal(after(), after())
    assert not torch.equal(after(), after(seed=1))
    assert not torch.equal(after(), after(k=1))


@pytest.mark.parametrize("by_gradient", [False, True], ids=["set", "rigl"])
def test_a_search_with_moving_masks_goes_on_to_the_same_bits(
    convnet, make_problem, interrupted, random_masks, by_gradient
):
    def search(checkpoint):
        problem = make_problem(convnet)
        masks = random_masks(problem.f.scope)
        count = min(masks.counts.values())
        found = find_tickets(
            problem,
            problem.f.theta0(),
            masks,
            [count],
            9,
            rewind=StartWeights([problem.f.theta0()] * 3, keeps=True),
            callbacks=[(RigL if by_gradient else SET)(0.5, 2)],
            checkpoint=checkpoint,
        )
        return found, problem.samples_seen

    expected, checkpoint = search(None), interrupted(0)
    with pytest.raises(KeyboardInterrupt):
        search(checkpoint)
    checkpoint.alive = -1
    assert search(checkpoint) == expected
