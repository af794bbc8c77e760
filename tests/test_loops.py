"""Tickets trained in a loop of one's own: masks are held, what they exclude keeps its bits."""

import copy
import pickle
import threading
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import SGD, Adadelta, Adagrad, Adam, AdamW, RMSprop
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import tombola as tb
from tombola._utils.errors import OptimizerError, UnknownTicket
from tombola.tickets.model import TicketModel

KINDS = [
    (Adam, {}),
    (AdamW, {"weight_decay": 0.1}),
    (SGD, {"momentum": 0.9, "weight_decay": 0.1}),
    (RMSprop, {"momentum": 0.5}),
    (Adagrad, {}),
    (Adadelta, {}),
]
every_kind = pytest.mark.parametrize(("kind", "options"), KINDS, ids=lambda v: getattr(v, "__name__", ""))


@pytest.fixture
def tickets():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 16), nn.Linear(16, 3)
        )
    scope, g = tb.scope(net), torch.Generator().manual_seed(1)
    masks = {name: torch.rand(scope.size, generator=g) < 0.5 for name in ("cat", "dog")}
    own = ("1.weight", "1.running_mean", "1.running_var", "4.bias")
    private = {name: {n: net.state_dict()[n].clone() for n in own} for name in masks}
    return TicketModel(net, tb.MaskSet(scope, masks), private)


def batches(count=4):
    g = torch.Generator().manual_seed(2)
    return [(torch.randn(8, 6, generator=g), torch.randint(0, 3, (8,), generator=g)) for _ in range(count)]


def outside(tickets, name):
    """All that is not this ticket's: weights off its mask, and what others keep for themselves."""
    k = tickets.index(name)
    weights_N = tickets.state(name)[0]
    others = [i for i in range(len(tickets.names)) if i != k]
    return [weights_N[~tickets.masks_KN[k]], tickets.private_KP[others], tickets.statistics_KS[others]]


def moments(optimizer, tickets, name):
    """The state of the optimiser off the mask."""
    masks = tickets.scope.unflatten(tickets.masks_KN[tickets.index(name)])
    found = []
    for n, mask in masks.items():
        for value in optimizer.state.get(tickets.backbone.get_parameter(n), {}).values():
            if isinstance(value, torch.Tensor) and value.shape == mask.shape:
                found.append(value[~mask].clone())
    return found


def copies(tensors):
    return [t.detach().clone() for t in tensors]


@every_kind
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_loop_with_clipping_accumulation_schedule_and_average_keeps_what_is_not_the_tickets(
    tickets, kind, options, precision
):
    optimizer = tb.masked(kind(tickets.parameters(), lr=0.01, **options), tickets)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 8)
    average = AveragedModel(tickets, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    start = copies(p for p in tickets.parameters())
    for name in ("cat", "dog", "cat"):
        before, kept = copies(outside(tickets, name)), moments(optimizer, tickets, name)
        with tickets.use(name):
            for i, (x, y) in enumerate(batches()):
                with torch.autocast("cpu", precision, enabled=precision != torch.float32):
                    loss = F.cross_entropy(tickets(x).float(), y)
                (loss / 2).backward()
                if i % 2:
                    nn.utils.clip_grad_norm_(tickets.parameters(), 1.0)
                    optimizer.step()
                    optimizer.zero_grad()
                    average.update_parameters(tickets)
        schedule.step()
        for old, new in zip(before, outside(tickets, name), strict=True):
            assert torch.equal(old, new)
        if kept:  # moments that this ticket does not own are those that were there
            for old, new in zip(kept, moments(optimizer, tickets, name), strict=True):
                assert torch.equal(old, new)
    assert not all(torch.equal(a, b) for a, b in zip(start, tickets.parameters(), strict=True))
    with torch.no_grad():
        assert average(batches(1)[0][0], ticket="cat").shape == (8, 3)


@pytest.mark.parametrize("options", [{}, {"multi_avg_fn": get_ema_multi_avg_fn(0.9)}], ids=["mean", "ema"])
def test_an_average_over_buffers_too_keeps_the_masks(tickets, options):
    average = AveragedModel(tickets, use_buffers=True, **options)
    for _ in range(3):
        average.update_parameters(tickets)
    assert average.module.masks.digest() == tickets.masks.digest()
    assert average.module.masks_KN.dtype == torch.bool


@every_kind
def test_a_step_is_that_of_the_masks_given_by_hand(tickets, kind, options):
    other = copy.deepcopy(tickets)
    optimizer = tb.masked(kind(tickets.parameters(), lr=0.01, **options), tickets)
    by_hand = tb.masked(kind(other.parameters(), lr=0.01, **options))
    parameters = dict(other.named_parameters())
    for name in ("cat", "dog", "cat"):
        masks = {f"backbone.{n}": mask for n, mask in other.masks.layers(name).items()}
        row = torch.zeros_like(other.private_KP, dtype=torch.bool)
        row[other.index(name)] = True
        masks["private_KP"] = row
        for x, y in batches(2):
            with tickets.use(name):
                F.cross_entropy(tickets(x), y).backward()
                optimizer.step()
            F.cross_entropy(other(x, ticket=name), y).backward()
            by_hand.step([masks.get(n) for n in parameters])
            optimizer.zero_grad()
            by_hand.zero_grad()
    for a, b in zip(tickets.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@every_kind
def test_a_closure_gives_the_loss_and_the_same_step(tickets, kind, options):
    other = copy.deepcopy(tickets)
    for model, with_closure in ((tickets, True), (other, False)):
        optimizer = tb.masked(kind(model.parameters(), lr=0.01, **options), model)
        for x, y in batches(3):

            def closure(model=model, optimizer=optimizer, x=x, y=y):
                optimizer.zero_grad()
                loss = F.cross_entropy(model(x), y)
                loss.backward()
                return loss

            with model.use("dog"):
                if with_closure:
                    assert float(optimizer.step(closure)) > 0
                    assert torch.is_grad_enabled()
                else:
                    closure()
                    assert optimizer.step() is None
    for a, b in zip(tickets.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@every_kind
def test_a_step_without_masks_is_refused_and_moves_nothing(tickets, kind, options):
    optimizer = tb.masked(kind(tickets.parameters(), lr=0.1, **options), tickets)
    x, y = batches(1)[0]
    F.cross_entropy(tickets(x, ticket="cat"), y).backward()
    before = copies(tickets.parameters())
    with pytest.raises(OptimizerError, match=r"with tickets.use\(NAME\)"):
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, tickets.parameters(), strict=True))


def test_masks_may_be_held_without_tickets():
    w = torch.ones(3, requires_grad=True)
    optimizer = tb.masked(SGD([w], lr=0.5))
    optimizer.masks = [torch.tensor([True, False, True])]
    w.sum().backward()
    optimizer.step()
    assert w.tolist() == [0.5, 1.0, 0.5]


def test_the_ticket_in_use_goes_before_masks_that_are_held(tickets):
    optimizer = tb.masked(SGD(tickets.parameters(), lr=0.1), tickets)
    with tickets.use("cat"):
        optimizer.masks = tickets.masks_of(list(tickets.parameters()))
    before, only = copies(outside(tickets, "dog")), tickets["dog"] & ~tickets["cat"]
    own = tickets.state("dog")[0][only].detach().clone()
    with tickets.use("dog"):
        x, y = batches(1)[0]
        F.cross_entropy(tickets(x), y).backward()
        optimizer.step()
    assert not torch.equal(tickets.state("dog")[0][only], own)
    assert all(torch.equal(a, b) for a, b in zip(before, outside(tickets, "dog"), strict=True))


def test_the_ticket_in_use_answers_and_the_one_before_comes_back(tickets):
    x = batches(1)[0][0]
    tickets.eval()
    with torch.no_grad(), tickets.use("cat"):
        cat = tickets(x)
        with tickets.use("dog"):
            assert torch.equal(tickets(x), tickets(x, ticket="dog"))
        assert torch.equal(tickets(x), cat)
        assert torch.equal(tickets(x, ticket="dog"), tickets.bake("dog").eval()(x))  # a name goes first
    with pytest.raises(UnknownTicket), tickets.use("cow"):
        pass
    with pytest.raises(tb.errors.TombolaError, match="which ticket"):
        tickets(x)


def test_a_plain_optimiser_is_noticed_once(tickets):
    x, y = batches(1)[0]
    optimizer = AdamW(tickets.parameters())
    F.cross_entropy(tickets(x, ticket="cat"), y).backward()
    with pytest.warns(UserWarning, match=r"AdamW steps the weights of a TicketModel.*tombola.masked"):
        optimizer.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step()
        for kind, options in KINDS:
            made = tb.masked(kind(tickets.parameters(), **options), tickets)
            with tickets.use("cat"):
                made.step()
        SGD(nn.Linear(2, 1).parameters(), lr=0.1).step()


def test_a_ticket_is_in_use_in_its_own_thread_alone(tickets):
    tickets.eval()
    x, used = batches(1)[0][0], {}
    started, other = threading.Event(), threading.Event()

    def one():
        with tickets.use("cat"), torch.no_grad():
            started.set()
            other.wait(10)
            used["cat"] = tickets(x)

    thread = threading.Thread(target=one)
    thread.start()
    started.wait(10)
    with tickets.use("dog"), torch.no_grad():
        other.set()
        thread.join()
        assert torch.equal(tickets(x), tickets(x, ticket="dog"))
        copied = copy.deepcopy(tickets)
    assert torch.equal(used["cat"], tickets(x, ticket="cat"))
    for model in (tickets, copied):
        with pytest.raises(tb.errors.TombolaError, match="which ticket"):
            model(x)


def test_parameters_that_are_added_later_are_stepped_inside_the_masks(tickets):
    first, *others = tickets.parameters()
    optimizer = tb.masked(AdamW([first], lr=0.1), tickets)
    optimizer.add_param_group({"params": others})
    before = copies(outside(tickets, "cat"))
    with tickets.use("cat"):
        x, y = batches(1)[0]
        F.cross_entropy(tickets(x), y).backward()
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, outside(tickets, "cat"), strict=True))


@every_kind
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda both: pickle.loads(pickle.dumps(both))])
def test_a_copy_of_tickets_and_optimiser_goes_on_as_the_originals_do(tickets, kind, options, copied):
    optimizer = tb.masked(kind(tickets.parameters(), lr=0.01, **options), tickets)
    x, y = batches(1)[0]

    def step(model, stepper):
        with model.use("cat"):
            F.cross_entropy(model(x), y).backward()
            stepper.step()
            stepper.zero_grad()

    step(tickets, optimizer)
    other, again = copied((tickets, optimizer))
    step(tickets, optimizer)
    before = copies(outside(other, "cat"))
    step(other, again)
    for a, b in zip(tickets.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert all(torch.equal(a, b) for a, b in zip(before, outside(other, "cat"), strict=True))


def test_the_state_of_a_plain_adam_is_refused():
    plain = AdamW(nn.Linear(2, 1).parameters())
    plain.param_groups[0]["params"][0].grad = torch.ones(1, 2)
    plain.step()
    made = tb.masked(AdamW(nn.Linear(2, 1).parameters()))
    with pytest.raises(OptimizerError, match="the state of a plain Adam"):
        made.load_state_dict(plain.state_dict())


def test_an_optimiser_of_other_parameters_is_refused(tickets):
    net = nn.Linear(2, 2)
    with pytest.raises(OptimizerError, match=r"make it of tickets\.parameters\(\)"):
        tb.masked(SGD(net.parameters(), lr=0.1), tickets)
    with pytest.raises(OptimizerError, match=r"make it of tickets\.parameters\(\)"):
        tb.masked(SGD([*tickets.parameters(), *net.parameters()], lr=0.1), tickets)
    with pytest.raises(OptimizerError, match="tickets are a TicketModel: got"):
        tb.masked(SGD(net.parameters(), lr=0.1), 3)
    tb.masked(SGD([p for n, p in tickets.named_parameters() if "bias" not in n], lr=0.1), tickets)
