"""A step of one ticket."""

import pytest
import torch
from torch import nn

from tombola._utils.errors import DataError
from tombola.data.dataset import Data
from tombola.objectives import Classification
from tombola.settings import TrainConfig
from tombola.training.trainer import finite


def test_the_rate_reaches_the_optimiser(convnet, make_problem):
    """With a cosine the last of two steps has half the rate: plain SGD shows it."""
    problem = make_problem(convnet, config=TrainConfig("SGD", 0.1, 8, lr_schedule="cosine"))
    mask, thetas = torch.ones(problem.f.scope.size, dtype=torch.bool), []
    for lr in (0.1, 0.05):
        theta = problem.f.theta0() if not thetas else thetas[-1].clone()
        stream, t = problem.stream(0, "test"), len(thetas)
        problem.f.module.train()
        problem.gradient(theta, mask, next(problem.draw([(0, stream, t)])))
        with torch.no_grad():
            for leaf in theta.leaves():
                if leaf.numel():
                    leaf -= lr * leaf.grad
        thetas.append(theta.clone())
    trained = problem.f.theta0()
    problem.train(trained, mask, 0, 2, "test")
    torch.testing.assert_close(trained.weights_N, thetas[-1].weights_N)


def test_seen_counts_samples_and_batches_cover_an_epoch(convnet, make_problem):
    problem = make_problem(convnet)
    problem.train(problem.f.theta0(), torch.ones(252, dtype=torch.bool), 0, 5, "test")
    assert problem.samples_seen == 5 * 8
    size = 2 * problem.partition.sizes()["top"]
    assert problem.batches(0) == -(-size // 8)


def test_the_loss_has_a_graph_and_leaves_the_gradients_alone(convnet, make_problem):
    problem = make_problem(convnet)
    theta, mask = problem.f.theta0(), torch.ones(252, dtype=torch.bool)
    loss = problem.loss(theta, mask, next(problem.draw([(0, problem.stream(0, "test"), 1)])))
    assert all(leaf.grad is None for leaf in theta.leaves())
    assert problem.samples_seen == 8
    loss.backward()
    assert bool(theta.weights_N.grad.any())


def test_streams_differ_by_ticket_purpose_seed_and_order(convnet, make_problem):
    def first(k=0, purpose=("a",), **options):
        return tuple(make_problem(convnet, **options).stream(k, *purpose)[0].tolist())

    found = [
        first(),
        first(k=1),
        first(purpose=("b",)),
        first(purpose=("a", 1)),
        first(seed=1),
        first(order="twin"),
    ]
    assert len(set(found)) == 6
    assert first() == found[0]


def test_inputs_are_prepared_but_not_augmented(images, convnet, make_problem):
    def explode(x, g):
        raise AssertionError("augmented")

    data = Data(images.train, images.validation, images.test, prepare=lambda x: 2 * x, augment=explode)
    problem = make_problem(convnet, data=data)
    found = list(problem.inputs(1, 3, "statistics"))
    stream = problem.stream(1, "statistics")
    assert len(found) == 3
    assert all(torch.equal(x, 2 * images.train.x[stream[i]]) for i, x in enumerate(found))


def test_augmentation_is_a_function_of_the_batch_alone(images, convnet, make_problem):
    seen = []

    def augment(x, g):
        seen.append(float(torch.rand((), generator=g)))
        return x

    data = Data(images.train, images.validation, images.test, augment=augment)
    for _ in range(2):
        problem = make_problem(convnet, data=data)
        problem.train(problem.f.theta0(), torch.ones(252, dtype=torch.bool), 0, 3, "test")
    assert seen[:3] == seen[3:]
    assert len(set(seen)) == 3


def test_finite_lets_numbers_through_and_names_the_ticket_of_others():
    assert finite(0.5, "cat") == 0.5
    with pytest.raises(DataError, match="loss of ticket 'cat' became nan"):
        finite(float("nan"), "cat")


def test_a_single_linear_layer_has_no_classifier_and_all_is_owned(make_problem, images, by_class):
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    problem = make_problem(net, objective=Classification())
    assert problem.trainable == [None] * 3
    assert problem.f.scope.names == ("1.weight",)
