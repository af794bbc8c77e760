"""Recipes, and a step of one ticket."""

import math

import pytest
import torch
from torch import nn

from tombola._utils.errors import DataError, OptimizerError, UsageError
from tombola.data.dataset import Data
from tombola.objectives import Classification
from tombola.training.trainer import TrainConfig, finite


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 7}, "even and at least 2: got 7"),
        ({"batch_size": 0}, "even and at least 2: got 0"),
        ({"lr_schedule": "linear"}, "lr_schedule 'linear' is not understood"),
        ({"lr_schedule": "step:0.5,1"}, "between 0 and 1"),
        ({"warmup": 1.0}, "warmup is a share"),
        ({"warmup": -0.1}, "warmup is a share"),
        ({"lr": 0.0}, "must be positive"),
        ({"lr": float("nan")}, "must be positive"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_an_error(options, message):
    with pytest.raises(UsageError, match=message):
        TrainConfig(**options)


@pytest.mark.parametrize("name", ["Adma", "lr_scheduler"])
def test_an_unknown_optimiser_is_an_error_before_it_is_built(name):
    with pytest.raises(UsageError, match=f"no optimiser '{name}'"):
        TrainConfig(name)


def test_an_optimiser_that_cannot_be_masked_is_an_error():
    with pytest.raises(OptimizerError):
        TrainConfig("LBFGS").build([torch.zeros(2, requires_grad=True)])


def test_an_unknown_option_names_the_optimiser():
    with pytest.raises(OptimizerError, match=r"SGD: .*momentun"):
        TrainConfig("SGD", options={"momentun": 0.9}).build([torch.zeros(2, requires_grad=True)])


def test_the_learning_rate_is_constant_or_falls_as_a_cosine_to_zero():
    assert {TrainConfig(lr=0.3).rate(t, 10) for t in range(10)} == {0.3}
    cosine = TrainConfig(lr=0.3, lr_schedule="cosine")
    assert [cosine.rate(t, 10) for t in (0, 5, 10)] == pytest.approx([0.3, 0.15, 0.0])
    assert cosine.rate(2, 8) == pytest.approx(0.15 * (1 + math.cos(math.pi / 4)))


@pytest.mark.parametrize("lr_schedule", ["constant", "cosine", "step:0.3,0.5,0.9"])
@pytest.mark.parametrize("warmup", [0.0, 0.2])
@pytest.mark.parametrize("steps", [1, 2, 20, 57])
def test_every_course_is_that_of_torchs_schedulers(lr_schedule, warmup, steps):
    rising = round(warmup * steps)
    optimizer, shared = torch.optim.SGD([torch.zeros(1)], lr=0.3), steps - rising
    schedulers = torch.optim.lr_scheduler
    falls = [round(share * shared) for share in (0.3, 0.5, 0.9)]
    course = {
        "constant": lambda: schedulers.ConstantLR(optimizer, 1.0),
        "cosine": lambda: schedulers.CosineAnnealingLR(optimizer, shared),
        "step:0.3,0.5,0.9": lambda: schedulers.MultiStepLR(optimizer, falls, 0.1),
    }[lr_schedule]()
    if rising:
        optimizer.param_groups[0]["lr"] = 0.3
        course = {
            "constant": lambda: schedulers.ConstantLR(optimizer, 1.0),
            "cosine": lambda: schedulers.CosineAnnealingLR(optimizer, shared),
            "step:0.3,0.5,0.9": lambda: schedulers.MultiStepLR(optimizer, falls, 0.1),
        }[lr_schedule]()
        rise = schedulers.LinearLR(optimizer, 1 / (rising + 1), 1.0, rising)
        course = schedulers.SequentialLR(optimizer, [rise, course], [rising])
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        course.step()
    config = TrainConfig(lr=0.3, lr_schedule=lr_schedule, warmup=warmup)
    if falls[0] == 0 and lr_schedule.startswith("step"):
        return  # torch's MultiStepLR does not look at step 0
    assert [config.rate(t, steps) for t in range(steps)] == pytest.approx(rates, abs=1e-12)


def test_the_rate_reaches_the_optimiser(convnet, make_problem):
    """With a cosine the last of two steps has half the rate: plain SGD shows it."""
    problem = make_problem(convnet, config=TrainConfig("SGD", 0.1, 8, lr_schedule="cosine"))
    mask, thetas = torch.ones(problem.f.scope.size, dtype=torch.bool), []
    for lr in (0.1, 0.05):
        theta = problem.f.theta0() if not thetas else thetas[-1].clone()
        stream, t = problem.stream(0, "test"), len(thetas)
        problem.f.module.train()
        problem.gradient(theta, mask, 0, stream, t)
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
    loss = problem.loss(theta, mask, 0, problem.stream(0, "test"), 1)
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


@pytest.mark.parametrize("options", [{"betas": [2, 0.9]}, {"speed": 1}], ids=["impossible", "unknown"])
def test_an_option_that_the_optimiser_refuses_is_one_clear_error(options):
    with pytest.raises(OptimizerError, match="Adam: "):
        TrainConfig("Adam", options=options).build([torch.ones(2, requires_grad=True)])
