"""Kinds of rewinding: against a plain loop, and by hand."""

import pytest
import torch
from test_extract import linear_problem
from torch.nn import functional as F

from tombola.masks.layout import Layout
from tombola.masks.maskset import MaskSet
from tombola.pruning import keep_top
from tombola.settings import TrainConfig
from tombola.training.model import Params
from tombola.training.rewind import StartWeights, inherit
from tombola.training.search import find_tickets

SCOPE = Layout(("w",), ((4,),))


def theta(weights, rest, private=(0.0,), steps=0):
    buffers = {"mean": torch.tensor([float(steps)]), "count": torch.tensor(steps)}
    own = [torch.tensor([p]) for p in private]
    return Params(torch.tensor(weights), torch.tensor(rest), own, buffers)


def test_shared_weights_begin_at_the_mean_over_those_that_keep_them():
    masks = MaskSet(SCOPE, {"a": torch.tensor([1, 1, 0, 0]), "b": torch.tensor([0, 1, 1, 0])})
    rewound = theta([9.0, 9, 9, 9], [7.0, 7, 7])
    trained = [
        theta([1.0, 2, 3, 4], [1.0, 2, 3], [5.0], 2),
        theta([10.0, 20, 30, 40], [10.0, 20, 30], [6.0], 4),
    ]
    trainable = [torch.tensor([True, False, False]), torch.tensor([True, True, False])]
    both = inherit(rewound, trained, masks, [0, 1], trainable)
    assert both.weights_N.tolist() == [1, 11, 30, 9]
    assert both.shared_R.tolist() == [5.5, 20, 7]
    assert [p.tolist() for p in both.private] == [[5], [6]]
    assert (both.buffers["mean"].item(), both.buffers["count"].item()) == (3.0, 2)
    alone = inherit(rewound, trained, masks, [1], trainable)
    assert alone.weights_N.tolist() == [9, 20, 30, 9]
    assert alone.shared_R.tolist() == [10, 20, 7]
    assert [p.tolist() for p in alone.private] == [[0], [6]]
    assert rewound.weights_N.tolist() == [9, 9, 9, 9]


def test_one_ticket_goes_on_with_its_own_bits():
    g = torch.Generator().manual_seed(0)
    weights, mask = torch.randn(4, generator=g), torch.tensor([True, True, True, False])
    trained = theta(weights.tolist(), torch.randn(3, generator=g).tolist())
    found = inherit(theta([0.0] * 4, [0.0] * 3), [trained], MaskSet(SCOPE, {"a": mask}), [0], [None])
    assert torch.equal(found.weights_N[mask], trained.weights_N[mask])
    assert torch.equal(found.shared_R, trained.shared_R)


def test_starts_come_back_from_tensors_as_they_were():
    trained = [theta([1.0, 2, 3, 4], [1.0], [1.0, 2.0]), theta([5.0, 6, 7, 8], [2.0], [3.0, 4.0])]
    rewound = theta([0.0] * 4, [0.0], [0.0, 0.0])
    saved, restored = StartWeights(trained, keeps=True), StartWeights([rewound] * 2, keeps=True)
    restored.restore(saved.tensors())
    for old, new in zip(trained, restored.thetas, strict=True):
        assert all(torch.equal(t, new.tensors()[name]) for name, t in old.tensors().items())


def test_a_rewind_keeps_nothing_of_a_round():
    rewound, trained = theta([0.0] * 4, [0.0]), theta([1.0] * 4, [1.0])
    rewinds, keeps = StartWeights([rewound] * 2), StartWeights([rewound] * 2, keeps=True)
    rewinds.after(1, trained)
    keeps.after(1, trained)
    assert rewinds.thetas == [rewound, rewound]
    assert rewinds.tensors() == {}
    assert keeps.thetas == [rewound, trained]


@pytest.mark.parametrize(
    "config", [TrainConfig("SGD", 0.3, 8, "cosine"), TrainConfig("Adam", 0.05, 8, "step:0.5", {}, 0.3)]
)
@pytest.mark.parametrize("kind", ["learning_rate", "fine_tune"])
def test_masks_are_those_of_a_plain_loop_that_keeps_its_weights(config, kind):
    problem, T, schedule = linear_problem(config), 5, [12, 8, 5]
    theta0, dense = problem.f.theta0(), MaskSet.dense(problem.f.scope, ["a", "b"])
    later = config.tail(config.rate(T - 1, T)) if kind == "fine_tune" else None
    starts = StartWeights([theta0] * 2, keeps=True)
    found = find_tickets(problem, theta0, dense, schedule, T, rewind=starts, later=later)

    train = problem.data.train
    for k, name in enumerate("ab"):
        mask = torch.ones(18, dtype=torch.bool)
        weight, bias = theta0.weights_N.detach().view(3, 6).clone(), torch.zeros(3)
        for r, keep in enumerate(schedule):
            weight = (weight * mask.view(3, 6)).detach().requires_grad_()
            bias = bias.detach().clone().requires_grad_()
            optimizer = getattr(torch.optim, config.optimizer)([weight, bias], lr=config.lr)
            stream = problem.stream(k, "extract", r)
            for t in range(T):
                last = kind == "fine_tune" and r
                optimizer.param_groups[0]["lr"] = config.rate(T - 1 if last else t, T)
                optimizer.zero_grad()
                F.cross_entropy(F.linear(train.x[stream[t]], weight, bias), train.y[stream[t]]).backward()
                weight.grad.mul_(mask.view(3, 6))
                optimizer.step()
            mask = keep_top(weight.detach().flatten().abs(), keep, mask)
        assert torch.equal(found[name], mask)
        torch.testing.assert_close(starts[k].weights_N.view(3, 6), weight, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(starts[k].shared_R, bias, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("alive", [0, 1, 2])
def test_a_search_that_keeps_weights_goes_on_to_the_same_bits(interrupted, alive):
    def search(checkpoint):
        problem = linear_problem(TrainConfig("Adam", 0.05, 8))
        theta0, dense = problem.f.theta0(), MaskSet.dense(problem.f.scope, ["a", "b"])
        starts = StartWeights([theta0] * 2, keeps=True)
        later = problem.config.tail(0.01)
        masks = find_tickets(
            problem, theta0, dense, [12, 8, 5], 4, rewind=starts, later=later, checkpoint=checkpoint
        )
        return masks, starts.tensors()

    masks, tensors = search(None)
    checkpoint = interrupted(alive)
    with pytest.raises(KeyboardInterrupt):
        search(checkpoint)
    checkpoint.alive = -1
    again, found = search(checkpoint)
    assert again == masks
    assert all(torch.equal(found[name], t) for name, t in tensors.items())
