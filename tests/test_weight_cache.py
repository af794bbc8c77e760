"""Kept weights answer as new ones do, whatever was done to the model, and stay within their bound."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tombola._utils.errors import TombolaError, UsageError
from tombola.masks.layout import Layout
from tombola.masks.maskset import MaskSet
from tombola.masks.prunable import scope
from tombola.optim import masked
from tombola.tickets.cache import WeightCache
from tombola.tickets.model import TicketModel
from tombola.training.norm import statistics_names

NAMES = ("top", "middle", "bottom")
ONE = 252 * 4  # bytes of a ticket's weights


@pytest.fixture
def tickets(convnet, random_masks):
    state = convnet.state_dict()
    own = [*statistics_names(convnet), "1.weight"]
    private = {name: {n: state[n] + k for n in own} for k, name in enumerate(NAMES)}
    return TicketModel(convnet, random_masks(scope(convnet)), private).eval()


@pytest.fixture
def x():
    return torch.randn(5, 1, 6, 6, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def agrees(tickets, x):
    """Every ticket answers with the cache as without it, to the bit."""
    plain = copy.deepcopy(tickets)
    plain.cache = None
    return all(torch.equal(tickets(x, ticket=n), plain(x, ticket=n)) for n in NAMES)


@torch.no_grad()
def test_a_ticket_asked_again_is_not_made_again(tickets, x):
    tickets.cache = WeightCache(3 * ONE)
    assert agrees(tickets, x)
    assert agrees(tickets, x)
    assert (tickets.cache.made, tickets.cache.hits, tickets.cache.bytes) == (3, 3, 3 * ONE)
    first = tickets.weights("top")
    assert all(a is b for a, b in zip(first.values(), tickets.weights("top").values(), strict=True))


def test_the_ticket_not_asked_for_longest_goes_first(tickets, x):
    tickets.cache = WeightCache(3 * ONE - 1)
    with torch.no_grad():
        for name in ("top", "middle", "top", "bottom"):
            tickets(x, ticket=name)
    assert tickets.cache.tickets == ["top", "bottom"]
    assert tickets.cache.bytes == 2 * ONE
    assert repr(tickets.cache) == (
        "WeightCache(max_bytes=3023): 2 tickets in 2,016 bytes, 1 asked for again, 3 made"
    )


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 5), max_size=30), st.integers(1, 6))
def test_it_holds_what_was_asked_last_and_never_more_than_its_bound(asked, room):
    cache, source = WeightCache(room * 12), torch.ones(3)
    for k in asked:
        made = cache.get(str(k), [source], lambda k=k: {"w": source * k})
        assert made.named["w"].tolist() == [k] * 3
        assert cache.bytes <= cache.max_bytes
    recent = list(dict.fromkeys(str(k) for k in reversed(asked)))[:room]
    assert cache.tickets == recent[::-1]


def adam(tickets):
    optimizer = torch.optim.Adam(tickets.backbone.parameters(), lr=0.1)
    for p in tickets.backbone.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()


def replaced(tickets):
    tickets.backbone[0].weight = nn.Parameter(tickets.backbone[0].weight.detach() * 2)


def data_replaced(tickets):
    tickets.backbone[0].weight.data = tickets.backbone[0].weight.data * 2


def layer_replaced(tickets):
    tickets.backbone[4] = nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False)


@torch.no_grad()
def scaled(tickets):
    tickets.backbone[4].weight[0] *= 3


@torch.no_grad()
def mask_flipped(tickets):
    tickets["top"] = ~tickets["top"]


@torch.no_grad()
def private_changed(tickets):
    tickets.private_KP += 1


def trained(tickets):
    with torch.no_grad():
        tickets.train()(torch.ones(4, 1, 6, 6), ticket="top")  # moves the running statistics of this one
    tickets.eval()


def loaded(tickets):
    state = {n: t * 0.5 if t.is_floating_point() else t for n, t in tickets.state_dict().items()}
    tickets.load_state_dict(state)


def assigned(tickets):
    state = {n: t * 0.5 if t.is_floating_point() else t.clone() for n, t in tickets.state_dict().items()}
    tickets.load_state_dict(state, assign=True)


def double_and_back(tickets):
    tickets.backbone.double()
    tickets.backbone[0].weight.data *= 2
    tickets.backbone.float()


CHANGES = (
    *(adam, replaced, data_replaced, layer_replaced, scaled, mask_flipped, private_changed, trained),
    *(loaded, assigned, double_and_back),
)


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_the_model_gives_no_stale_answer(tickets, x, change):
    tickets.cache = WeightCache(10 * ONE)
    assert agrees(tickets, x)
    with torch.no_grad():
        before = tickets(x, ticket="top")
    change(tickets)
    assert agrees(tickets, x)
    with torch.no_grad():
        assert not torch.equal(tickets(x, ticket="top"), before)


def test_a_step_of_the_compiled_kernel_is_noticed(monkeypatch):
    monkeypatch.setattr("tombola.optim.adam.SMALLEST", 1)
    net = nn.Linear(8, 8, bias=False)
    model = TicketModel(net, MaskSet.dense(Layout(("weight",), ((8, 8),)), ["a"])).eval()
    model.cache, x = WeightCache(1000), torch.ones(1, 8)
    with torch.no_grad():
        before = model(x)
        optimizer = masked(torch.optim.Adam([net.weight], lr=0.1))
        net.weight.grad = torch.ones(8, 8)
        optimizer.step([None])
        assert torch.equal(model(x), net(x))
        assert not torch.equal(model(x), before)


def test_what_a_network_writes_to_its_weights_is_not_kept(random_masks):
    class Writes(nn.Linear):
        def forward(self, x):
            self.weight.mul_(2)
            return super().forward(x)

    net, x = Writes(4, 3), torch.rand(2, 4)
    model = TicketModel(net, random_masks(Layout(("weight",), ((3, 4),)), ("a", "b"))).eval()
    model.cache = WeightCache(1000)
    with torch.no_grad():
        assert torch.equal(model(x, ticket="a"), model(x, ticket="a"))


def test_clear_forgets_what_was_written_behind_its_back(tickets, x):
    tickets.cache = WeightCache(10 * ONE)
    assert agrees(tickets, x)
    tickets.backbone[0].weight.data.mul_(2)
    tickets.cache.clear()
    assert tickets.cache.bytes == 0
    assert agrees(tickets, x)


def test_what_is_made_in_inference_mode_serves_outside_of_it(tickets, x):
    tickets.cache = WeightCache(10 * ONE)
    with torch.inference_mode():
        inside = tickets(x, ticket="top")
    with torch.no_grad():
        assert torch.equal(tickets(x, ticket="top"), inside)
    assert tickets.cache.hits == 1


def test_parameters_without_version_counters_are_not_kept(tickets, x):
    with torch.inference_mode():
        made = copy.deepcopy(tickets)
    made.cache = WeightCache(10 * ONE)
    with torch.inference_mode():
        before = made(x, ticket="top")
        made.backbone[0].weight.mul_(2)
        assert not torch.equal(made(x, ticket="top"), before)
    assert made.cache.bytes == 0


def test_gradients_reach_the_weights_as_without_a_cache(tickets, x):
    replicate = copy.deepcopy(tickets)
    tickets.cache = WeightCache(10 * ONE)
    assert agrees(tickets, x)
    for model in (tickets, replicate):
        model(x, ticket="middle").square().sum().backward()
    for a, b in zip(tickets.parameters(), replicate.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None)
        assert a.grad is None or torch.equal(a.grad, b.grad)


def test_mixed_batches_and_predict_use_it(tickets, x):
    tickets.cache = WeightCache(10 * ONE)
    names = ["top", "middle", "top", "middle", "middle"]
    with torch.no_grad():
        each = torch.stack([tickets(x, ticket=name)[i] for i, name in enumerate(names)])
        torch.testing.assert_close(tickets(x, ticket=names), each)
    torch.testing.assert_close(tickets.predict(x, names).outputs, each)
    assert tickets.cache.made == 2


def test_copies_and_pickles_are_empty_caches_of_the_same_bound(tickets, x):
    tickets.cache = WeightCache(10 * ONE)
    assert agrees(tickets, x)
    for replicate in (copy.deepcopy(tickets), pickle.loads(pickle.dumps(tickets))):
        assert (replicate.cache.max_bytes, replicate.cache.bytes) == (10 * ONE, 0)
        assert agrees(replicate, x)


def test_threads_may_share_it(tickets, x):
    tickets.cache = WeightCache(2 * ONE)
    with torch.no_grad():
        expected = {name: copy.deepcopy(tickets)(x, ticket=name) for name in NAMES}

    def ask(i):
        with torch.no_grad():
            return torch.equal(tickets.weights(NAMES[i % 3])["0.weight"], plain[NAMES[i % 3]])

    plain = {name: tickets.bake(name)[0].weight for name in NAMES}
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(ask, range(60)))
    assert tickets.cache.bytes <= 2 * ONE
    with torch.no_grad():
        assert all(torch.equal(tickets(x, ticket=name), expected[name]) for name in NAMES)


def test_a_bound_too_small_for_one_ticket_is_an_error(tickets, x):
    tickets.cache = WeightCache(ONE - 1)
    with (
        torch.no_grad(),
        pytest.raises(TombolaError, match=r"'top' take 1,008 bytes.*1,007: raise max_bytes"),
    ):
        tickets(x, ticket="top")


@pytest.mark.parametrize("bound", [0, -1, 1.5, "1 GB"])
def test_a_bound_that_is_no_number_of_bytes_is_an_error(bound):
    with pytest.raises(UsageError, match="positive whole number of bytes"):
        WeightCache(bound)
