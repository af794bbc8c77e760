"""What criteria read of a ticket: the right batches and losses, and not a bit of it changed."""

import pytest
import torch
from torch import nn

from tombola._utils.torch_state import in_mode
from tombola.data.dataset import Data
from tombola.objectives import Classification
from tombola.pruning.scores import CRITERIA
from tombola.pruning.scores.criterion import gradient
from tombola.training.pruning_context import TicketContext

every_criterion = pytest.mark.parametrize("name", CRITERIA)


@pytest.fixture
def make_evidence(make_convnet, make_problem, random_masks):
    """A ticket after two steps, in a network with batch norm and dropout."""

    def make(dtype=torch.float32, T=2, k=1, dropout=0.5, **options):
        data = options.pop("data", None)
        net = make_convnet(dropout=dropout).to(dtype)
        problem = make_problem(net, objective=Classification(), data=data, **options)
        theta0, mask = problem.f.theta0(), random_masks(problem.f.scope)["middle"]
        context = TicketContext(problem, theta0, theta0.masked(mask), mask, k, 3, trajectory=True)
        problem.train(context.theta, mask, k, T, "extract", 3, moved_N=context.moved_N)
        return context

    return make


def state(context):
    """All that scoring must leave alone."""
    thetas = [context.theta0, context.theta]
    module = context.problem.f.module
    tensors = [t for theta in thetas for t in theta.tensors().values()]
    tensors += [leaf.grad for theta in thetas for leaf in theta.leaves() if leaf.grad is not None]
    tensors += [context.mask_N, context.moved_N, *module.state_dict().values(), torch.get_rng_state()]
    flags = [m.training for m in module.modules()], [p.requires_grad for p in module.parameters()]
    hooks = [len(m._forward_hooks) for m in module.modules()]
    return [t.clone() for t in tensors], (*flags, hooks, [p.grad for p in module.parameters()])


@every_criterion
@pytest.mark.parametrize("mode", [True, False])
def test_scoring_changes_no_parameter_buffer_gradient_mode_or_random_state(name, mode, make_evidence):
    context = make_evidence()
    context.problem.f.module.train(mode)
    context.problem.f.module[3].train(not mode)  # modes may be mixed
    before = state(context)
    scores = CRITERIA[name](context)
    after = state(context)
    assert all(torch.equal(a, b) for a, b in zip(before[0], after[0], strict=True))
    assert before[1] == after[1]
    assert scores.shape == (252,)
    assert not scores.requires_grad


@every_criterion
def test_scores_are_a_function_of_the_ticket_and_its_data(name, make_evidence):
    first = CRITERIA[name](make_evidence())
    torch.rand(7)  # the global generator has moved on
    assert torch.equal(first, CRITERIA[name](make_evidence()))
    if name not in ("magnitude", "synflow", "movement", "gamma"):
        again = make_evidence()
        again.round = 4  # other batches
        assert not torch.equal(first, CRITERIA[name](again))


@every_criterion
def test_double_precision_stays_double(name, make_evidence, images):
    data = Data(images.train, images.validation, images.test, prepare=torch.Tensor.double)
    context = make_evidence(torch.float64, data=data)
    scores = CRITERIA[name](context)
    assert context.weights_N.dtype == context.moved_N.dtype == torch.float64
    assert scores.dtype == (torch.float32 if name == "random" else torch.float64)


@every_criterion
def test_samples_that_go_through_are_counted(name, make_evidence):
    context = make_evidence()
    before = context.problem.samples_seen
    CRITERIA[name](context)
    passes = {"snip": 1, "taylor": 1, "wanda": 1, "grasp": 2}  # grasp goes through its batch twice
    assert context.problem.samples_seen - before == 8 * passes.get(name, 0)


def test_weights_and_start_are_zero_outside_the_mask(make_evidence):
    context = make_evidence()
    assert not context.weights_N[~context.mask_N].any()
    assert not context.start_N[~context.mask_N].any()
    kept = context.mask_N
    assert torch.equal(context.start_N[kept], context.theta0.weights_N[kept])
    assert not torch.equal(context.start_N, context.weights_N)


def test_the_network_is_a_copy_that_holds_the_ticket(make_evidence):
    context = make_evidence()
    network = context.network()
    held = context.scope.flatten(dict(network.named_parameters()))
    assert torch.equal(held, context.weights_N)
    for buffer, value in network.named_buffers():
        assert torch.equal(value, context.theta.buffers[buffer])
    nn.init.zeros_(network[0].weight)
    assert bool(context.weights_N[:36].any())


def test_the_loss_is_that_of_a_training_step(make_evidence):
    """With its own gradient: the same as `Problem.gradient` on the same batch."""
    context = make_evidence()
    problem, theta = context.problem, context.theta.clone()
    with in_mode(problem.f.module, training=True):
        [batch] = problem.draw([(1, problem.stream(1, "score", 3), 2)])
        loss = problem.gradient(theta, context.mask_N, batch)
    assert torch.equal(context.loss(context.weights_N, 2), loss)
    assert torch.equal(gradient(context, 2), theta.weights_N.grad)


def test_batches_are_of_the_tickets_own_subset_and_not_augmented_as_inputs(make_evidence, images):
    data = Data(images.train, images.validation, images.test, augment=lambda x, g: x + 100)
    context = make_evidence(data=data)
    x = context.inputs(0)
    inside = images.train.x[context.problem.partition.members["train"][:, 1]]
    assert all(bool((inside == one).flatten(1).all(1).any()) for one in x)
    assert context.example().shape == (1, *x.shape[1:])


def test_movement_adds_up_minus_gradient_times_weight_of_every_step(make_evidence):
    context = make_evidence(T=3)
    problem, mask = context.problem, context.mask_N
    theta, moved_N = context.theta0.masked(mask), torch.zeros(252)
    optimizer, stream = problem.config.build(theta.leaves()), problem.stream(1, "extract", 3)
    for t in range(3):
        optimizer.zero_grad()
        problem.gradient(theta, mask, next(problem.draw([(1, stream, t)])))
        moved_N -= theta.weights_N.grad * theta.weights_N.detach()
        optimizer.step(problem.masks(theta, mask, 1))
    assert torch.equal(context.moved_N, moved_N)
    assert torch.equal(context.weights_N, theta.weights_N.detach())
    assert not moved_N[~mask].any()


def test_training_is_the_same_whether_movement_is_summed_or_not(make_evidence):
    context = make_evidence()
    theta = context.theta0.masked(context.mask_N)
    context.problem.train(theta, context.mask_N, 1, 2, "extract", 3)
    assert all(torch.equal(t, context.theta.tensors()[n]) for n, t in theta.tensors().items())
    plain = TicketContext(context.problem, context.theta0, theta, context.mask_N, 1)
    assert plain.moved_N is None
