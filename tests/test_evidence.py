"""What criteria read of a ticket: the right batches and losses, and not a bit of it changed."""

import pytest
import torch
from torch import nn

from tombola._utils.modes import in_mode
from tombola.data.dataset import Data
from tombola.objectives import Classification
from tombola.pruning.scores import CRITERIA
from tombola.pruning.scores.gradient import gradient
from tombola.training.pruning_context import TicketEvidence

every_criterion = pytest.mark.parametrize("name", CRITERIA)


@pytest.fixture
def make_evidence(make_convnet, make_problem, random_masks):
    """A ticket after two steps, in a network with batch norm and dropout."""

    def make(dtype=torch.float32, T=2, k=1, dropout=0.5, **options):
        data = options.pop("data", None)
        net = make_convnet(dropout=dropout).to(dtype)
        problem = make_problem(net, objective=Classification(), data=data, **options)
        theta0, mask = problem.f.theta0(), random_masks(problem.f.scope)["middle"]
        evidence = TicketEvidence(problem, theta0, theta0.masked(mask), mask, k, 3, trajectory=True)
        problem.train(evidence.theta, mask, k, T, "extract", 3, moved_N=evidence.moved_N)
        return evidence

    return make


def state(evidence):
    """All that scoring must leave alone."""
    thetas = [evidence.theta0, evidence.theta]
    module = evidence.problem.f.module
    tensors = [t for theta in thetas for t in theta.tensors().values()]
    tensors += [leaf.grad for theta in thetas for leaf in theta.leaves() if leaf.grad is not None]
    tensors += [evidence.mask_N, evidence.moved_N, *module.state_dict().values(), torch.get_rng_state()]
    flags = [m.training for m in module.modules()], [p.requires_grad for p in module.parameters()]
    hooks = [len(m._forward_hooks) for m in module.modules()]
    return [t.clone() for t in tensors], (*flags, hooks, [p.grad for p in module.parameters()])


@every_criterion
@pytest.mark.parametrize("mode", [True, False])
def test_scoring_changes_no_parameter_buffer_gradient_mode_or_random_state(name, mode, make_evidence):
    evidence = make_evidence()
    evidence.problem.f.module.train(mode)
    evidence.problem.f.module[3].train(not mode)  # modes may be mixed
    before = state(evidence)
    scores = CRITERIA[name](evidence)
    after = state(evidence)
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
    evidence = make_evidence(torch.float64, data=data)
    scores = CRITERIA[name](evidence)
    assert evidence.weights_N.dtype == evidence.moved_N.dtype == torch.float64
    assert scores.dtype == (torch.float32 if name == "random" else torch.float64)


@every_criterion
def test_samples_that_go_through_are_counted(name, make_evidence):
    evidence = make_evidence()
    before = evidence.problem.seen
    CRITERIA[name](evidence)
    passes = {"snip": 1, "taylor": 1, "wanda": 1, "grasp": 2}  # grasp goes through its batch twice
    assert evidence.problem.seen - before == 8 * passes.get(name, 0)


def test_weights_and_start_are_zero_outside_the_mask(make_evidence):
    evidence = make_evidence()
    assert not evidence.weights_N[~evidence.mask_N].any()
    assert not evidence.start_N[~evidence.mask_N].any()
    kept = evidence.mask_N
    assert torch.equal(evidence.start_N[kept], evidence.theta0.weights_N[kept])
    assert not torch.equal(evidence.start_N, evidence.weights_N)


def test_the_network_is_a_copy_that_holds_the_ticket(make_evidence):
    evidence = make_evidence()
    network = evidence.network()
    held = evidence.scope.flatten(dict(network.named_parameters()))
    assert torch.equal(held, evidence.weights_N)
    for buffer, value in network.named_buffers():
        assert torch.equal(value, evidence.theta.buffers[buffer])
    nn.init.zeros_(network[0].weight)
    assert bool(evidence.weights_N[:36].any())


def test_the_loss_is_that_of_a_training_step(make_evidence):
    """With its own gradient: the same as `Problem.gradient` on the same batch."""
    evidence = make_evidence()
    problem, theta = evidence.problem, evidence.theta.clone()
    with in_mode(problem.f.module, training=True):
        loss = problem.gradient(theta, evidence.mask_N, 1, problem.stream(1, "score", 3), 2)
    assert torch.equal(evidence.loss(evidence.weights_N, 2), loss)
    assert torch.equal(gradient(evidence, 2), theta.weights_N.grad)


def test_batches_are_of_the_tickets_own_subset_and_not_augmented_as_inputs(make_evidence, images):
    data = Data(images.train, images.validation, images.test, augment=lambda x, g: x + 100)
    evidence = make_evidence(data=data)
    x = evidence.inputs(0)
    inside = images.train.x[evidence.problem.partition.members["train"][:, 1]]
    assert all(bool((inside == one).flatten(1).all(1).any()) for one in x)
    assert evidence.example().shape == (1, *x.shape[1:])


def test_movement_adds_up_minus_gradient_times_weight_of_every_step(make_evidence):
    evidence = make_evidence(T=3)
    problem, mask = evidence.problem, evidence.mask_N
    theta, moved_N = evidence.theta0.masked(mask), torch.zeros(252)
    optimizer, stream = problem.recipe.build(theta.leaves()), problem.stream(1, "extract", 3)
    for t in range(3):
        optimizer.zero_grad()
        problem.gradient(theta, mask, 1, stream, t)
        moved_N -= theta.weights_N.grad * theta.weights_N.detach()
        optimizer.step(problem.masks(theta, mask, 1))
    assert torch.equal(evidence.moved_N, moved_N)
    assert torch.equal(evidence.weights_N, theta.weights_N.detach())
    assert not moved_N[~mask].any()


def test_training_is_the_same_whether_movement_is_summed_or_not(make_evidence):
    evidence = make_evidence()
    theta = evidence.theta0.masked(evidence.mask_N)
    evidence.problem.train(theta, evidence.mask_N, 1, 2, "extract", 3)
    assert all(torch.equal(t, evidence.theta.tensors()[n]) for n, t in theta.tensors().items())
    plain = TicketEvidence(evidence.problem, evidence.theta0, theta, evidence.mask_N, 1)
    assert plain.moved_N is None
