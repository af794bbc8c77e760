"""Learned masks: gradients by hand, exact counts at every step, weights that stay, and resuming."""

import pytest
import torch
from torch import nn

import tombola as tb
from tombola._utils.errors import LayerCollapse, UsageError
from tombola._utils.rng import generator
from tombola.lab.experiments.digits import DIGITS
from tombola.masks.layout import Layout
from tombola.masks.maskset import MaskSet
from tombola.methods.pipeline import Pipeline
from tombola.methods.result import run_method
from tombola.pruning import keep_top
from tombola.runs.cache import StageCache
from tombola.settings import TrainConfig
from tombola.training.callbacks.learned import Learned, Scored
from tombola.training.model import FunctionalModel
from tombola.training.pruning_context import Pruner, TicketContext
from tombola.training.search import find_tickets

NAMES = ["top", "middle", "bottom"]


def begun(problem, rule, keep, pruner=None):
    """A ticket whose mask is about to be learned from all weights, as `TicketTrainer.begin` has it."""
    theta0 = problem.f.theta0()
    every = torch.ones(problem.f.scope.size, dtype=torch.bool)
    context = TicketContext(problem, theta0, theta0.masked(every), every, 0, 1)
    return context, rule.on_ticket(context, pruner or Pruner(), keep, 8)


@pytest.mark.parametrize("frozen", [False, True])
def test_scores_get_the_gradient_of_the_product_times_the_weight_everywhere(frozen):
    net = nn.Sequential(nn.Linear(2, 2, bias=False))
    f = FunctionalModel(net, Layout(("0.weight",), ((2, 2),)))
    theta, mask = f.theta0(), torch.tensor([True, False, False, True])
    with torch.no_grad():
        theta.weights_N.copy_(torch.tensor([1.0, -2.0, 3.0, 4.0]))
    scores = torch.zeros(4, requires_grad=True)
    scored = Scored(
        theta.weights_N, theta.shared_R, theta.private, theta.buffers, scores_N=scores, frozen=frozen
    )
    outputs = f(scored, mask, torch.tensor([[10.0, 20.0]]))
    assert outputs.tolist() == [[10.0, 80.0]]
    (outputs * torch.tensor([1.0, -1.0])).sum().backward()  # g = (10, 20; -10, -20)
    assert scores.grad.tolist() == [10.0, -40.0, -30.0, -80.0]
    if frozen:
        assert theta.weights_N.grad is None
    else:
        assert theta.weights_N.grad.tolist() == [10.0, 0.0, 0.0, -20.0]


@pytest.mark.parametrize("weights", ["free", "frozen"])
@pytest.mark.parametrize(
    ("pruner", "keep"),
    [
        (Pruner(), 60),
        (Pruner(selection="layer"), 61),
        (Pruner(selection="uniform", floor=2), 61),
        (Pruner(selection="erk"), 62),
        (Pruner(selection="row"), 63),
        (Pruner(granularity="channel"), 120),
        (Pruner(granularity="block:2x1"), 60),
        (Pruner(granularity="1:3"), 84),
    ],
    ids=["global", "layer", "floor", "erk", "row", "channel", "block", "pattern"],
)
@pytest.mark.parametrize(
    "config", [TrainConfig(lr=0.01, batch_size=8), TrainConfig("SGD", 0.1, 8)], ids=["Adam", "SGD"]
)
def test_the_count_is_exact_at_every_step_and_only_weights_in_the_mask_move(
    convnet, make_problem, pruner, keep, weights, config
):
    problem = make_problem(convnet, config=config)
    context, scores = begun(problem, Learned(1.0, weights), keep, pruner)
    start, short = context.theta0.weights_N.detach(), 54 if pruner.granularity == "channel" else 2
    seen, last = [context.mask_N.clone()], start.clone()

    def look(step, theta, optimizer):
        nonlocal last
        now, mask = theta.weights_N.detach().clone(), seen[-1]
        assert torch.equal(now[~mask], last[~mask])
        assert torch.equal(now, start) == (weights == "frozen")
        last = now
        scores(step, theta, optimizer)
        assert torch.equal(theta.weights_N.detach(), now)
        seen.append(context.mask_N.clone())
        return False

    look.metadata = scores.metadata
    rest = context.theta.shared_R.detach().clone()
    problem.train(context.theta, context.mask_N, 0, 8, "test", callbacks=[look])
    counts = [int(mask.sum()) for mask in seen]
    assert set(counts) == {keep} or (not pruner.granularity[0].isdigit() and min(counts) > keep - short)
    assert max(counts) <= keep
    assert not torch.equal(seen[0], seen[-1])
    assert scores.metadata() == {"event": "learned", "changed": int((seen[-1] & ~seen[0]).sum())}
    assert torch.equal(pruner(context, keep), seen[-1])  # nothing is cut a second time
    assert not torch.equal(context.theta.shared_R, rest)


def test_the_first_mask_is_that_of_the_largest_weights_and_scores_are_of_one_scale(convnet, make_problem):
    context, scores = begun(make_problem(convnet), Learned(0.1), 60)
    size = context.theta0.weights_N.detach().abs()
    assert torch.equal(context.mask_N, keep_top(size, 60))
    assert context.first_N.all()
    assert float(scores.scores_N.detach().mean()) == pytest.approx(1)


def test_the_rate_of_the_scores_falls_as_that_of_the_weights(convnet, make_problem):
    config = TrainConfig(lr=0.01, batch_size=8, lr_schedule="step:0.5")
    problem = make_problem(convnet, config=config)
    context, scores = begun(problem, Learned(0.5), 60)
    problem.train(context.theta, context.mask_N, 0, 8, "test", callbacks=[scores])
    assert scores.optimizer.param_groups[0]["lr"] == pytest.approx(0.05)


def search(problem, weights="free", counts=(150, 100, 60), checkpoint=None, **options):
    theta0 = problem.f.theta0()
    return find_tickets(
        problem,
        theta0,
        MaskSet.dense(problem.f.scope, NAMES),
        counts,
        6,
        callbacks=[Learned(0.2, weights)],
        checkpoint=checkpoint,
        **options,
    )


@pytest.mark.parametrize("weights", ["free", "frozen"])
def test_a_search_in_rounds_is_nested_and_goes_on_to_the_same_bits(
    convnet, make_problem, interrupted, weights
):
    whole, checkpoint = search(make_problem(convnet), weights), interrupted(1)
    assert set(whole.counts.values()) == {60}
    first = search(make_problem(convnet), weights, (150,))
    assert whole <= first
    with pytest.raises(KeyboardInterrupt):
        search(make_problem(convnet), weights, checkpoint=checkpoint)
    checkpoint.alive = -1
    assert search(make_problem(convnet), weights, checkpoint=checkpoint) == whole


def test_as_one_batch_tickets_are_trained_one_after_the_other(convnet, make_problem):
    assert search(make_problem(convnet), map_tickets="batched") == search(make_problem(convnet))


def test_a_mask_that_ends_without_a_layer_is_an_error_that_names_the_ticket(make_convnet, make_problem):
    net = make_convnet()
    with torch.no_grad():
        net[0].weight.mul_(1e-6)  # too small for their scores to catch up
    with pytest.raises(LayerCollapse, match=r"round 0, ticket 'top': pruning empties 0\.weight"):
        search(make_problem(net), counts=(60,))


def test_a_score_beside_those_that_are_learned_is_refused():
    with pytest.raises(UsageError, match="cuts masks by scores of its own: leave score at magnitude, got 's"):
        tb.Settings(callback="learned:0.1", score="snip")


# -- methods ---------------------------------------------------------------------------------------------


def pipeline(sparsity=0.9, **changes):
    """The experiment digits, preset quick."""
    settings = DIGITS.presets["quick"].settings
    settings = tb.Settings.from_plain({**settings.plain(), "sparsity": [sparsity], **changes})
    data, net = DIGITS.load(None, False), DIGITS.backbone(generator(0, "theta0"))
    return Pipeline(net, DIGITS.objective, data, DIGITS.partition(data), settings, 0, StageCache())


def test_a_learned_mask_beats_a_random_one():
    p = pipeline()
    learned, random = (run_method(p, name, 0.9)["accuracy"] for name in ("learned", "random_pruning"))
    assert learned > random + 0.02


def test_frozen_weights_are_those_of_theta0_under_every_mask_and_beat_chance_by_far():
    p = pipeline(0.8)
    outcome = run_method(p, "supermask", 0.8)
    named = dict(outcome.tickets.backbone.named_parameters())
    assert torch.equal(p.f.scope.flatten(named).detach(), p.theta0.weights_N.detach())
    assert not torch.equal(
        named["classifier.weight"], dict(p.backbone.named_parameters())["classifier.weight"]
    )
    assert outcome["accuracy"] > 0.8


@pytest.mark.parametrize("weights", ["free", "frozen"])
@pytest.mark.parametrize("rewinding", ["weights", "learning_rate"])
def test_under_rtl_every_ticket_learns_its_own(images, by_class, convnet, weights, rewinding):
    config = TrainConfig(lr=0.01, batch_size=8)
    how = {"callback": f"learned:0.2:{weights}", "rewinding": rewinding, "statistics": 2}
    settings = tb.Settings((0.5, 0.75), T=6, steps=4, search=config, train=config, **how)
    p = Pipeline(convnet, tb.objectives.OneVsRest(), images, by_class, settings, 0, StageCache())
    outcome = run_method(p, "rtl", 0.75)
    masks, kept = outcome.tickets.masks, p.f.scope.flatten(dict(outcome.tickets.backbone.named_parameters()))
    assert set(masks.counts.values()) == {63}
    assert len({tuple(masks[name].tolist()) for name in NAMES}) == 3
    same = kept.detach() == p.theta0.weights_N.detach()
    assert same[~masks.union()].all()
    assert bool(same[masks.union()].all()) == (weights == "frozen")
