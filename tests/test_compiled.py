"""`torch.compile`: one graph for all tickets. The backends trace and run the graphs without a C compiler."""

import copy

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from tombola.masks.prunable import scope
from tombola.tickets.cache import WeightCache
from tombola.tickets.model import TicketModel
from tombola.training.norm import statistics_names

NAMES = tuple(f"ticket{k}" for k in range(10))


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def tickets(make_convnet, random_masks):
    """Ten tickets, each with statistics, an affine part and a bias of its own."""
    net = make_convnet()
    state = net.state_dict()
    own = [*statistics_names(net), "1.weight", "9.bias"]
    private = {name: {n: state[n] * (1 + 0.1 * k) for n in own} for k, name in enumerate(NAMES)}
    return TicketModel(net, random_masks(scope(net), NAMES), private).eval()


@pytest.fixture
def x():
    return torch.randn(6, 1, 6, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("cache", [None, 10**6])
def test_ten_tickets_are_one_graph(tickets, x, backend, gradients, cache):
    plain, counter = copy.deepcopy(tickets), CompileCounterWithBackend(backend)
    tickets.cache = cache and WeightCache(cache)
    compiled = torch.compile(tickets, backend=counter)
    with torch.set_grad_enabled(gradients):
        first = compiled(x, ticket=NAMES[0])
        assert counter.frame_count == 1
        with torch._dynamo.config.patch(error_on_recompile=True):
            outputs = [compiled(x, ticket=name) for name in NAMES * 2]
        expected = [plain(x, ticket=name) for name in NAMES]
    assert counter.frame_count == 1
    torch.testing.assert_close(outputs, expected * 2)
    torch.testing.assert_close(first, expected[0])
    assert len({tuple(y.flatten().tolist()) for y in expected}) == 10  # the tickets differ


def test_other_weights_and_masks_are_not_another_graph(tickets, x):
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(tickets, backend=counter)
    with torch.no_grad():
        before = compiled(x, ticket=NAMES[3])
        tickets.backbone[0].weight.mul_(2)
        tickets[NAMES[3]] = ~tickets[NAMES[3]]
        after = compiled(x, ticket=NAMES[3])
        assert torch.equal(after, tickets(x, ticket=NAMES[3]))
    assert not torch.equal(before, after)
    assert counter.frame_count == 1


def test_mixed_batches_of_any_tickets_are_two_graphs(tickets):
    """One for the first size of a group, one for all that differ from it."""
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(tickets, backend=counter)
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _ in range(4):
            x = torch.randn(40, 1, 6, 6, generator=g)
            names = [NAMES[k] for k in torch.randint(5, (20,), generator=g).tolist()] * 2  # no group of one
            torch.testing.assert_close(compiled(x, ticket=names), tickets(x, ticket=names))
    assert counter.frame_count == 2
