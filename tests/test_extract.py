"""Algorithm 1 against a plain torch loop, and what must hold of every search."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tombola._utils.checkpoint import Checkpoint
from tombola._utils.errors import DataError, LayerCollapse, PruningError, RunError
from tombola.data import partition as partitions
from tombola.data.dataset import Data
from tombola.masks.layout import Layout
from tombola.masks.maskset import MaskSet
from tombola.objectives import Classification
from tombola.pruning import keep_top
from tombola.pruning.scores import parse
from tombola.settings import TrainConfig
from tombola.training.model import FunctionalModel
from tombola.training.pruning_context import Pruner
from tombola.training.search import find_tickets
from tombola.training.trainer import Problem


def linear_problem(config, seed=0):
    """One linear layer 6 → 3, two subsets by a column that need other weights."""
    g = torch.Generator().manual_seed(1)
    x, site = torch.randn(80, 6, generator=g), torch.arange(80) % 2
    y = torch.where(site == 0, x[:, :3].argmax(1), x[:, 3:].argmax(1))
    data = Data.of(x, y, {"site": site.numpy()}, validation=0.2)
    net = nn.Linear(6, 3)
    with torch.no_grad():
        net.weight.copy_(torch.randn(3, 6, generator=g))
        net.bias.zero_()
    f = FunctionalModel(net, Layout(("weight",), ((3, 6),)))
    return Problem(f, data, partitions.by_column(data, "site", ["a", "b"]), Classification(), config, seed)


@pytest.mark.parametrize(
    "config",
    [
        TrainConfig("SGD", 0.3, 8),
        TrainConfig("SGD", 0.1, 8, options={"momentum": 0.9}),
        TrainConfig("Adam", 0.05, 8),
        TrainConfig("Adam", 0.3, 8, lr_schedule="cosine"),
    ],
)
def test_masks_are_those_of_a_plain_loop_of_training_pruning_and_rewinding(config):
    problem, T, schedule = linear_problem(config), 5, [12, 8, 5]
    theta0 = problem.f.theta0()
    found = find_tickets(problem, theta0, MaskSet.dense(problem.f.scope, ["a", "b"]), schedule, T)

    train = problem.data.train
    for k, name in enumerate("ab"):
        mask = torch.ones(18, dtype=torch.bool)
        for r, keep in enumerate(schedule):
            weight = (theta0.weights_N.detach() * mask).view(3, 6).requires_grad_()
            bias = torch.zeros(3, requires_grad=True)
            optimizer = getattr(torch.optim, config.optimizer)([weight, bias], lr=config.lr, **config.options)
            stream = problem.stream(k, "extract", r)
            for t in range(T):
                optimizer.param_groups[0]["lr"] = config.rate(t, T)
                optimizer.zero_grad()
                F.cross_entropy(F.linear(train.x[stream[t]], weight, bias), train.y[stream[t]]).backward()
                weight.grad.mul_(mask.view(3, 6))
                optimizer.step()
            assert not weight.detach().flatten()[~mask].any()
            mask = keep_top(weight.detach().flatten().abs(), keep, mask)
        assert torch.equal(found[name], mask)
    assert not torch.equal(found["a"], found["b"])


def test_batches_come_from_the_tickets_own_subset():
    problem = linear_problem(TrainConfig(batch_size=8))
    for k in range(2):
        index = torch.cat([problem.stream(k, "extract", 0)[t] for t in range(9)])
        assert bool(problem.partition.members["train"][index, k].all())


@pytest.fixture
def problem(convnet, make_problem):
    return make_problem(convnet)


def search(problem, schedule, T=2, **options):
    dense = MaskSet.dense(problem.f.scope, problem.partition.names)
    return find_tickets(problem, problem.f.theta0(), options.pop("masks", dense), schedule, T, **options)


def test_masks_are_nested_and_counts_are_exact(problem):
    before = MaskSet.dense(problem.f.scope, problem.partition.names)
    for r, keep in enumerate((200, 137, 60)):
        after = search(problem, [keep], masks=before, first_round=r)
        assert set(after.counts.values()) == {keep}
        assert after <= before
        before = after
    assert before == search(problem, [200, 137, 60])  # in one go or round by round


@pytest.mark.parametrize("selection", ["global", "layer"])
def test_counts_are_exact_under_both_selections(problem, selection):
    found = search(problem, [101], pruner=Pruner(selection=selection))
    assert set(found.counts.values()) == {101}
    if selection == "layer":
        assert found.counts_KL().tolist() == [[14, 87]] * 3  # 101 of 36 + 216 in proportion


def test_two_searches_are_equal_and_another_seed_differs(convnet, make_problem):
    first, again, other = (search(make_problem(convnet, seed=s), [150, 90], T=4) for s in (0, 0, 1))
    assert first == again
    assert first != other


def test_neither_theta0_nor_the_first_masks_change(problem):
    theta0, dense = problem.f.theta0(), MaskSet.dense(problem.f.scope, problem.partition.names)
    before = {n: t.clone() for n, t in theta0.tensors().items()}
    find_tickets(problem, theta0, dense, [100], 2)
    assert all(torch.equal(t, before[n]) for n, t in theta0.tensors().items())
    assert bool(dense.masks_KN.all())


def test_without_training_steps_the_scores_are_those_of_theta0(problem):
    found = search(problem, [100], T=0)
    expected = keep_top(problem.f.theta0().weights_N.abs(), 100)
    assert all(torch.equal(found[name], expected) for name in found)
    assert problem.samples_seen == 0


def test_another_score_may_be_given(problem):
    found = search(problem, [100], T=0, pruner=Pruner(lambda context: -context.weights_N.abs()))
    assert torch.equal(found["top"], keep_top(-problem.f.theta0().weights_N.abs(), 100))


@pytest.mark.parametrize("name", ["magnitude", "random", "snip:2", "grasp:2", "synflow", "taylor:2", "wanda"])
def test_every_score_prunes_at_initialisation_in_one_round_or_several(problem, name):
    once = search(problem, [100], T=0, pruner=Pruner(parse(name), "layer"))
    masks = search(problem, [200, 150, 100], T=0, pruner=Pruner(parse(name), "layer"))
    assert set(once.counts.values()) == set(masks.counts.values()) == {100}
    iterated = search(problem, [200, 150], T=0, pruner=Pruner(parse(name), "layer"))
    assert masks <= iterated
    if name == "synflow":  # no data: the same for all
        assert torch.equal(once["top"], once["bottom"])
        assert once != masks  # each round scores what the round before left
    if name == "magnitude":  # the same scores in every round
        assert search(problem, [100], T=0) == search(problem, [200, 150, 100], T=0)


def test_snip_at_initialisation_is_that_of_a_plain_gradient():
    problem = linear_problem(TrainConfig(batch_size=8))
    train, theta0 = problem.data.train, problem.f.theta0()
    dense = MaskSet.dense(problem.f.scope, ["a", "b"])
    found = find_tickets(problem, theta0, dense, [7], 0, pruner=Pruner(parse("snip:3")))
    for k, name in enumerate("ab"):
        weight, stream = (
            theta0.weights_N.detach().view(3, 6).clone().requires_grad_(),
            problem.stream(k, "score", 0),
        )
        index = torch.cat([stream[i] for i in range(3)])  # the mean over batches is that over all of them
        F.cross_entropy(F.linear(train.x[index], weight), train.y[index]).backward()
        assert torch.equal(found[name], keep_top((weight * weight.grad).detach().abs().flatten(), 7))
    assert found["a"].tolist() != found["b"].tolist()
    assert problem.samples_seen == 2 * 3 * 8


@pytest.mark.parametrize("name", ["movement", "taylor", "snip", "wanda"])
@pytest.mark.parametrize("alive", [0, 1])
def test_a_search_by_another_score_goes_on_to_the_same_masks(convnet, make_problem, interrupted, name, alive):
    whole = make_problem(convnet)
    expected, checkpoint = search(whole, [180, 120], pruner=Pruner(parse(name))), interrupted(alive)
    with pytest.raises(KeyboardInterrupt):
        search(make_problem(convnet), [180, 120], pruner=Pruner(parse(name)), checkpoint=checkpoint)
    checkpoint.alive, again = -1, make_problem(convnet)
    assert search(again, [180, 120], pruner=Pruner(parse(name)), checkpoint=checkpoint) == expected
    assert again.samples_seen == whole.samples_seen
    assert expected != search(make_problem(convnet), [180, 120])


def test_movement_without_training_names_round_ticket_and_layer(problem):
    with pytest.raises(
        PruningError, match=r"round 0, ticket 'top': movement scores of 0\.weight are all zero"
    ):
        search(problem, [100], T=0, pruner=Pruner(parse("movement")))


def test_an_empty_schedule_gives_the_masks_back(problem):
    assert search(problem, []) == MaskSet.dense(problem.f.scope, problem.partition.names)


def test_every_round_is_recorded(problem):
    checkpoint = Checkpoint()
    search(problem, [200, 90], checkpoint=checkpoint, first_round=3)
    pruned = [row for row in checkpoint.rows if row["event"] == "prune"]
    assert [(r["round"], r["ticket"], r["kept"]) for r in pruned] == [
        (r, name, keep) for r, keep in ((3, 200), (4, 90)) for name in ("top", "middle", "bottom")
    ]
    assert problem.samples_seen == 2 * 3 * 2 * 8


def test_similarity_is_recorded_after_every_round(problem):
    checkpoint = Checkpoint()
    masks = search(problem, [200, 90], checkpoint=checkpoint)
    rows = [row for row in checkpoint.rows if row["event"] == "similarity"]
    assert [row["round"] for row in rows if (row["kind"], row["depth"]) == ("jaccard", "all")] == [0, 1]
    last = {row["kind"]: row for row in rows if row["round"] == 1 and row["depth"] == "all"}
    assert last["jaccard"]["density"] == 90 / problem.f.scope.size
    assert torch.tensor(last["jaccard"]["matrix"]).allclose(masks.jaccard().float(), atol=1e-4)
    alone, checkpoint = (
        replace(problem, partition=problem.partition.whole(), objective=Classification()),
        Checkpoint(),
    )
    single = MaskSet.dense(problem.f.scope, alone.partition.names)
    find_tickets(alone, problem.f.theta0(), single, [200], 1, checkpoint=checkpoint)
    assert [row["event"] for row in checkpoint.rows] == ["prune"]  # one ticket has nobody to be like


def test_collapse_names_round_ticket_and_layer(problem):
    with pytest.raises(LayerCollapse, match=r"round 5, ticket 'top': pruning empties .*\.weight"):
        search(problem, [200, 1], first_round=4)


@pytest.mark.parametrize(
    "config", [TrainConfig("Adam", 0.01, 8), TrainConfig("SGD", 0.01, 8, options={"momentum": 0.9})]
)
@pytest.mark.parametrize("alive", [0, 1])
def test_an_interrupted_search_goes_on_to_the_same_masks(convnet, make_problem, interrupted, config, alive):
    whole = make_problem(convnet, config=config)
    expected, checkpoint = search(whole, [180, 120]), interrupted(alive)
    with pytest.raises(KeyboardInterrupt):
        search(make_problem(convnet, config=config), [180, 120], checkpoint=checkpoint)
    checkpoint.alive, again = -1, make_problem(convnet, config=config)
    assert search(again, [180, 120], checkpoint=checkpoint) == expected
    assert again.samples_seen == whole.samples_seen
    # The round that was not saved is done again.
    assert sum(row["event"] == "prune" for row in checkpoint.rows) == 6 + 3


def test_a_loss_that_is_not_finite_names_the_ticket(convnet, make_problem):
    problem = make_problem(convnet, config=TrainConfig("SGD", 1e30, 8))
    with pytest.raises(DataError, match=r"loss of ticket 'top' became (nan|inf): lower the learning rate"):
        search(problem, [100], T=5)


def test_a_state_that_an_older_version_saved_is_one_clear_error(problem, interrupted):
    checkpoint = interrupted(-1)
    checkpoint.saved = {}, {"done": 2, "seen": 16}  # counted tickets instead of rounds
    with pytest.raises(RunError, match=r"under an older version.*finish it with that version"):
        search(problem, [100], checkpoint=checkpoint)


def test_tickets_may_be_run_by_a_function_of_ones_own(problem):
    class Backwards:
        def __init__(self, train_ticket):
            self.train_ticket, self.closed = train_ticket, False
            made.append(self)

        def __call__(self, jobs):
            return iter([self.train_ticket(job) for job in reversed(jobs)][::-1])

        def close(self):
            self.closed = True

    made = []
    assert search(problem, [200, 100], map_tickets=Backwards) == search(problem, [200, 100])
    assert made[0].closed
