"""Algorithm 1 in a training loop of the user's own."""

import pytest
import torch
from torch import nn

import tombola as tb
from tombola._utils.errors import UsageError
from tombola.methods.table import METHODS
from tombola.objectives.metrics import METRICS
from tombola.training.loop import identity, run
from tombola.training.pruning_context import TicketContext
from tombola.training.ticket import Training

NAMES = ("top", "middle", "bottom")
QUICK = {"T": 4, "steps": 2, "rewind": 1, "parallel": "no", "schedule": "fraction:0.4"}


def plain_loop(net, optimizer, batches, ticket):
    """As Tombola's own."""
    total = torch.zeros(())
    for x, y in batches:
        optimizer.zero_grad()
        loss = net.loss(x, y)
        loss.backward()
        total += loss.detach()
        optimizer.step()
    return total / len(batches)


def rich_loop(net, optimizer, batches, ticket):
    """A loss of one's own, autocast, accumulation, clipping, a schedule and an average."""
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(batches) // 2)
    average = torch.optim.swa_utils.AveragedModel(net, use_buffers=True)
    k, total = NAMES.index(ticket) if ticket in NAMES else 0, 0.0
    for i, (x, y) in enumerate(batches, 1):
        x = x + 0.01 * torch.randn_like(x)
        with torch.autocast("cpu", torch.bfloat16):
            outputs = net(x)[:, k]
        loss = nn.functional.binary_cross_entropy_with_logits(outputs.float(), y.float()) / 2
        loss.backward()
        total += 2 * float(loss.detach())
        if i % 2 == 0:
            nn.utils.clip_grad_norm_(net.parameters(), 0.5)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            average.update_parameters(net)
    return total / len(batches)


@pytest.fixture
def given(make_convnet, images, by_class):
    return make_convnet(), tb.objectives.OneVsRest(), images, by_class


def states(outcome):
    return [model.state_dict() for model in outcome.models]


def same(first, second):
    pairs = zip(states(first), states(second), strict=True)
    return all(torch.equal(a[name], b[name]) for a, b in pairs for name in a)


CAN = [name for name, m in METHODS.items() if m.search and m.changes.get("T", 1)]


@pytest.mark.parametrize("name", sorted({*CAN} - {"imp_context"}))
def test_a_loop_that_does_what_tombolas_does_has_its_bits(given, name):
    own, ours = (tb.find(name, *given, sparsity=0.5, train_loop=loop, **QUICK) for loop in (None, plain_loop))
    assert same(own[0], ours[0])


def test_what_a_ticket_does_not_own_keeps_its_bits(make_problem, make_convnet, random_masks):
    problem = make_problem(make_convnet(), private=["5.weight"])
    theta0, masks = problem.f.theta0().clone(3), random_masks(problem.f.scope).masks_KN
    theta = theta0.masked(masks[1])
    context = TicketContext(problem, theta0, theta, masks[1], 1)
    before = theta.clone()
    loss = run(rich_loop, problem, Training(context), 4, ("extract", 0))
    assert loss > 0
    assert problem.samples_seen == 32
    weights_N, shared_R = theta.weights_N.detach(), theta.shared_R.detach()
    assert not weights_N[~masks[1]].any()
    assert not torch.equal(weights_N, before.weights_N)
    owned = problem.trainable[1]  # its row of the output layer
    assert torch.equal(shared_R[~owned], before.shared_R[~owned])
    assert not torch.equal(shared_R[owned], before.shared_R[owned])
    for k in (0, 2):
        assert torch.equal(theta.private[k], before.private[k])
    assert not torch.equal(theta.private[1], before.private[1])


@pytest.mark.parametrize("parallel", ["no", "workers"])
def test_the_same_seed_has_the_same_bits_and_the_global_generator_stays(given, parallel):
    options = {**QUICK, "parallel": parallel, "sparsity": 0.5, "train_loop": rich_loop}
    state = torch.get_rng_state()
    first = tb.find("rtl", *given, **options)[0]
    assert torch.equal(state, torch.get_rng_state())
    torch.rand(3)
    assert same(first, tb.find("rtl", *given, **options)[0])
    assert not same(first, tb.find("rtl", *given, **{**options, "train_loop": None})[0])


def test_a_run_that_was_stopped_ends_as_one_that_was_not(given, tmp_path, monkeypatch):
    calls, alive = [], [4]

    class Loop:  # the same source before and after
        def __call__(self, net, optimizer, batches, ticket):
            if len(calls) == alive[0]:
                raise KeyboardInterrupt
            calls.append(ticket)
            return rich_loop(net, optimizer, batches, ticket)

    monkeypatch.setattr(
        "tombola.runs.directory.Run.__init__.__defaults__", (None, 0.0, None, "auto", None, "cpu")
    )
    options = {**QUICK, "sparsity": 0.7, "train_loop": Loop()}
    with pytest.raises(KeyboardInterrupt):
        tb.find("rtl", *given, out=tmp_path / "a", **options)
    alive[0] = -1
    tb.find("rtl", *given, out=tmp_path / "a", **options)
    stopped = len(calls)
    tb.find("rtl", *given, out=tmp_path / "b", **options)
    assert stopped - 4 < len(calls) - stopped  # the rounds that were done are not done again
    for file in ("records.jsonl", "tickets/rtl-0.7.tickets"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_run_goes_on_with_its_own_loop_only(given, tmp_path):
    tb.find("rtl", *given, sparsity=0.5, out=tmp_path, train_loop=plain_loop, **QUICK)
    tb.find("rtl", *given, sparsity=0.5, out=tmp_path, train_loop=plain_loop, **QUICK)
    for other in (rich_loop, None):
        with pytest.raises(tb.errors.RunError, match="another train_loop"):
            tb.find("rtl", *given, sparsity=0.5, out=tmp_path, train_loop=other, **QUICK)


def test_a_loop_is_known_by_its_name_and_source(tmp_path):
    assert identity(plain_loop) == identity(plain_loop) != identity(rich_loop)
    names = {}
    exec("def loop(net, optimizer, batches, ticket): ...", names)
    with pytest.raises(UsageError, match=r"source of train_loop .*loop cannot be read"):
        identity(names["loop"])


def never(*_):
    raise AssertionError("nothing is to be trained")


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        ("rtl", {"train_loop": lambda net: None}, r"loop\(net, optimizer, batches, ticket\)"),
        ("rtl", {"train_loop": 3}, r"loop\(net, optimizer, batches, ticket\)"),
        ("rtl", {"parallel": "batched"}, "parallel=workers or no"),
        ("rtl", {"search": tb.TrainConfig(lr_schedule="cosine")}, "leave search.lr_schedule at constant"),
        ("rtl", {"search": tb.TrainConfig(warmup=0.1)}, "search.warmup at 0"),
        ("rtl", {"search": tb.TrainConfig(precision="bfloat16")}, "leave search.precision at float32"),
        ("dense", {}, "dense trains no ticket in a search"),
        ("snip", {}, "snip trains no ticket in a search"),
        ("rtl", {"T": 0}, "rtl trains no ticket in a search"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_computed(given, monkeypatch, method, options, words):
    monkeypatch.setattr("tombola.methods.setup.check_fit", never)
    with pytest.raises(UsageError, match=words):
        tb.find(method, *given, sparsity=0.5, **{"train_loop": never, **QUICK, **options})


def test_a_loop_that_steps_by_itself_or_tells_no_loss_is_named(given):
    def outside(net, optimizer, batches, ticket):
        for x, y in batches:
            net.loss(x, y).backward()
            optimizer.step()
        with torch.no_grad():
            net.weights_N += 1
        return 0.0

    def still(net, optimizer, batches, ticket):
        return 0.0

    def silent(net, optimizer, batches, ticket):
        list(batches)

    wrong = (outside, "ticket 'top' does not own"), (still, "made no step"), (silent, "return the mean loss")
    for loop, words in wrong:
        with pytest.raises(UsageError, match=words):
            tb.find("rtl", *given, sparsity=0.7, train_loop=loop, **QUICK)


@pytest.mark.parametrize("shares", ["equal", "size"])
def test_no_steps_leave_tickets_at_the_rewind_point(given, shares):
    options = {**QUICK, "rewind": 0, "steps": 0, "shares": shares}
    tickets = tb.rtl(*given, sparsity=0.5, train_loop=rich_loop, **options)
    for name, p in given[0].named_parameters():
        assert torch.equal(tickets.backbone.get_parameter(name), p)
    assert set(tickets.masks.counts.values()) == {126}


def test_a_loss_that_calls_other_methods_of_the_network_has_the_bits_of_our_loop(given):
    def loss(net, batch, ticket):
        assert type(net) is type(given[0]), "the network itself, with all its methods"
        x, y = batch
        return nn.functional.cross_entropy(net.forward(x), y)

    task = tb.objectives.Custom(loss, lambda *_: {"any": 1.0}, better={"any": "higher"})
    net, _, images, by_class = given
    found = [
        tb.find("rtl", net, task, images, by_class, sparsity=0.5, train_loop=loop, **QUICK)[0]
        for loop in (None, plain_loop)
    ]
    METRICS.pop("any")
    assert same(*found)
