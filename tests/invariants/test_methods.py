"""What must hold for every method, whichever optimiser trains it."""

import dataclasses
from functools import cache

import pytest
import torch
from torch import nn

import tombola as tb
from tombola._utils.errors import PartitionError, UsageError
from tombola.data.dataset import with_context
from tombola.lab.report.inspect import describe
from tombola.methods import pipeline as training
from tombola.methods.pipeline import Network, Pipeline
from tombola.methods.result import run_method, sparsities_of
from tombola.methods.table import STANDARD as METHODS
from tombola.methods.table import method
from tombola.pruning import keep_top
from tombola.pruning.schedules import kept
from tombola.runs.cache import StageCache
from tombola.runs.stages import Stage
from tombola.training.model import Params
from tombola.training.trainer import Problem

SPARSITIES = (0.3, 0.6)
NAMES = ("red", "green", "blue")
OPTIMIZERS = {
    "Adam": {"lr": 0.01},
    "AdamW": {"lr": 0.01, "options": {"weight_decay": 0.1}},
    "SGD": {"lr": 0.1, "options": {"momentum": 0.9, "weight_decay": 0.01}},
    "RMSprop": {"lr": 0.01, "options": {"momentum": 0.5}},
    "Adagrad": {"lr": 0.05, "options": {"weight_decay": 0.01}},
    "Adadelta": {"lr": 5.0, "options": {"rho": 0.8}},
}
every_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS)
every_method = pytest.mark.parametrize("name", METHODS)
# Every method with two optimisers, and with the others those that search and train in ways of their own.
PAIRS = [
    (name, optimizer)
    for optimizer in OPTIMIZERS
    for name in METHODS
    if optimizer in ("Adam", "SGD") or name in ("rtl", "imp", "imp_per_subset", "imp_context")
]
every_pair = pytest.mark.parametrize(("name", "optimizer"), PAIRS)


@cache
def blobs():
    g = torch.Generator().manual_seed(5)
    y = torch.arange(180) % 3
    x = torch.randn(180, 6, generator=g) + 2 * torch.eye(3, 6)[y]
    return tb.Data.of(x, y, validation=0.2, test=0.3)


def network(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        hidden = [nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 12), nn.BatchNorm1d(12)]
        return nn.Sequential(*hidden, nn.ReLU(), nn.Linear(12, 3))


def new_pipeline(optimizer="SGD", seed=0, one_vs_rest=False, **changes):
    objective = tb.objectives.OneVsRest() if one_vs_rest else tb.objectives.Classification()
    config = tb.TrainConfig(optimizer=optimizer, batch_size=8, **OPTIMIZERS[optimizer])
    chosen = {"sparsity": SPARSITIES, "schedule": "fraction:0.3", "T": 2, "steps": 4, "statistics": 2}
    settings = tb.Settings(**{**chosen, "search": config, "train": config, **changes})
    partition = tb.partition.by_label(blobs(), NAMES)
    return Pipeline(network(), objective, blobs(), partition, settings, seed, StageCache())


def answers(name, optimizer):
    """Whether a method is tested where the subset is the answer: these readings take longest to judge, so
    one optimiser is enough, and a method that is told the subset cannot be tested there."""
    return optimizer == "Adam" and not method(name).conditioned


@cache
def whole_pipeline(optimizer, seed, one_vs_rest):
    return new_pipeline(optimizer, seed, one_vs_rest)


def seen_by(p, name):
    """The pipeline that a method really runs on."""
    return p.with_context if method(name).conditioned else p


def pipeline(optimizer="Adam", seed=0, name="rtl"):
    """What a method runs on, one for all methods of an optimiser and task."""
    return seen_by(whole_pipeline(optimizer, seed, answers(name, optimizer)), name)


@cache
def outcomes(name, optimizer="Adam", seed=0):
    """Every sparsity of a method; computed once for all tests."""
    p = whole_pipeline(optimizer, seed, answers(name, optimizer))
    return {sparsity: run_method(p, name, sparsity) for sparsity in sparsities_of(p, name)}


def masks_of(outcome):
    """Every ticket's mask, ``{name: [N]}``."""
    return {name: model[name] for model in outcome.models for name in model.names}


def weights_of(p, model):
    return p.f.scope.flatten(dict(model.backbone.named_parameters())).detach()


def metric(outcome, name):
    return next(m.value for m in outcome.metrics if m.name == name and not m.ticket)


def same_state(a, b):
    first, second = a.state_dict(), b.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


def searches(name):
    """Whether the masks are the result of a nested search."""
    return name not in ("dense", "dense_context", "theta0_magnitude", "random_mask")


# -- every method -----------------------------------------------------------------------------------------


@every_pair
def test_every_ticket_keeps_the_exact_count(name, optimizer):
    p = pipeline(optimizer, name=name)
    assert p.f.scope.size == (6 + 16 * method(name).conditioned) * 16 + 16 * 12
    for sparsity, outcome in outcomes(name, optimizer).items():
        wanted = kept(p.f.scope.size, sparsity)
        if name.startswith("union_size"):
            wanted = int(outcomes("rtl", optimizer)[sparsity].models[0].masks.union().sum())
        assert {int(mask.sum()) for mask in masks_of(outcome).values()} == {wanted}


@pytest.mark.parametrize(("name", "optimizer"), [pair for pair in PAIRS if searches(pair[0])])
def test_masks_of_a_search_are_nested_across_sparsities(name, optimizer):
    low, high = (masks_of(outcomes(name, optimizer)[s]) for s in SPARSITIES)
    for ticket in low:
        assert not bool((high[ticket] & ~low[ticket]).any())


@every_pair
def test_weights_outside_the_union_keep_the_bits_of_theta0(name, optimizer):
    p = pipeline(optimizer, name=name)
    for outcome in outcomes(name, optimizer).values():
        for model in outcome.models:
            weights, union = weights_of(p, model), model.masks.union()
            assert torch.equal(weights[~union], p.theta0.weights_N.detach()[~union])
            moved = weights[union] != p.theta0.weights_N.detach()[union]
            assert float(moved.float().mean()) > 0.9


@every_pair
def test_one_seed_gives_one_result(name, optimizer):
    sparsity, first = list(outcomes(name, optimizer).items())[-1]
    second = run_method(new_pipeline(optimizer, 0, answers(name, optimizer)), name, sparsity)
    assert first.metrics == second.metrics
    assert all(same_state(a, b) for a, b in zip(first.models, second.models, strict=True))


@every_pair
def test_another_seed_gives_another_result(name, optimizer):
    sparsity, first = list(outcomes(name, optimizer).items())[-1]
    p = pipeline(optimizer, 1, name)
    masks = method(name).mask_set(p, sparsity)
    second, _ = p.train(Network(Stage("train", name, sparsity=sparsity), method(name).task, masks))
    assert not same_state(first.models[0], second)


@every_optimizer
def test_every_method_is_trained_on_equally_many_samples(optimizer):
    seen = {metric(o, "samples_train") for name in METHODS for o in outcomes(name, optimizer).values()}
    assert seen == {4 * 8 * len(NAMES)}


@every_optimizer
@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_every_search_of_equally_many_rounds_costs_equally_many_samples(optimizer, sparsity):
    for name in ("rtl", "imp", "imp_per_subset", "imp_context", "twin", "random_mask", "shuffled_partition"):
        p = pipeline(optimizer, name=name)
        count, size = kept(p.f.scope.size, sparsity), p.f.scope.size
        rounds = sum(n >= count for n in tb.schedules.parse(p.settings.schedule)(size, p.targets("own")))
        assert metric(outcomes(name, optimizer)[sparsity], "samples_search") == rounds * 2 * 8 * len(NAMES)


@pytest.mark.parametrize("name", METHODS)
def test_a_search_begins_at_the_rewind_point_under_its_mask_with_its_buffers(name, monkeypatch):
    starts, plain = [], Problem.train

    def spy(problem, theta, mask_N, k, *shared, **options):
        starts.append(({n: t.clone() for n, t in theta.tensors().items()}, mask_N.clone()))
        return plain(problem, theta, mask_N, k, *shared, **options)

    monkeypatch.setattr(Problem, "train", spy)
    p = new_pipeline(schedule="fraction:0.4")
    theta0 = {n: t.clone() for n, t in seen_by(p, name).theta0.tensors().items()}
    run_method(p, name, sparsities_of(p, name)[-1])
    assert bool(starts) == (method(name).search is not None)
    for tensors, mask_N in starts:
        assert torch.equal(tensors.pop("weights"), torch.where(mask_N, theta0["weights"], 0.0))
        assert all(torch.equal(t, theta0[n]) for n, t in tensors.items())
    assert all(torch.equal(t, theta0[n]) for n, t in seen_by(p, name).theta0.tensors().items())


@pytest.mark.parametrize("task", ["own", "single"])
@pytest.mark.parametrize("name", METHODS)
def test_late_rewinding_starts_search_and_training_from_the_same_early_weights(name, task):
    p = new_pipeline(rewind=4, rewind_task=task)
    outcome = run_method(p, name, sparsities_of(p, name)[-1])
    p = seen_by(p, name)
    early = p.rewind_point(method(name).task)
    assert not torch.equal(early.weights_N, p.theta0.weights_N)
    for model in outcome.models:
        outside = ~model.masks.union()
        assert torch.equal(weights_of(p, model)[outside], early.weights_N.detach()[outside])


@pytest.mark.parametrize("ticket", [None, 1], ids=["together", "alone"])
def test_training_starts_with_every_tickets_own_private_state_of_the_rewind_point(ticket, monkeypatch):
    p, starts, plain = new_pipeline(rewind=4, normalization="per_ticket"), [], Problem.gradient
    masks, early = p.masks("own", 0.3), p.rewind_point("own")
    assert not any(torch.equal(early.private[0], part) for part in early.private[1:])

    def spy(problem, theta, *shared):
        starts.append({n: t.clone() for n, t in theta.tensors().items()})
        return plain(problem, theta, *shared)

    monkeypatch.setattr(Problem, "gradient", spy)
    p.train(Network(Stage("train", "spied", sparsity=0.5), "own", masks, ticket))
    assert starts[0].keys() == early.tensors().keys()
    assert all(torch.equal(starts[0][n], t) for n, t in early.tensors().items())
    assert not torch.equal(starts[-1]["private.1"], early.private[1])


@pytest.mark.parametrize("name", ["rtl", "imp_context"])
@pytest.mark.parametrize("normalization", ["shared", "per_ticket_statistics", "per_ticket"])
def test_inspect_counts_the_dense_remainder_as_compare_does(normalization, name, tmp_path):
    outcome = run_method(new_pipeline(normalization=normalization), name, 0.3)
    outcome.models[0].save(tmp_path / "x.tickets")
    assert describe(tmp_path / "x.tickets")["dense_rest"] == metric(outcome, "dense_rest")


def test_a_collapse_names_remedies_that_a_caller_of_a_method_has():
    backbone, settings = network(), tb.Settings((0.9,), "one_shot", T=0, steps=1)
    nn.init.constant_(backbone[0].weight, 1e-6)
    partition = tb.partition.by_label(blobs(), NAMES)
    with pytest.raises(tb.TombolaError, match=r"empties 0\.weight") as caught:
        tb.rtl(backbone, tb.objectives.Classification(), blobs(), partition, sparsity=0.9, settings=settings)
    for remedy in ("lower sparsity", 'selection="layer"', "exclude the layer", "tombola.Settings"):
        assert remedy in str(caught.value)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("normalization", ["shared", "per_ticket_statistics", "per_ticket"])
def test_every_method_runs_under_every_norm_policy(name, normalization):
    p = new_pipeline(normalization=normalization)
    outcome = run_method(p, name, sparsities_of(p, name)[-1])
    norms = {"shared": 0, "per_ticket_statistics": 56, "per_ticket": 112}  # two layers, 16 and 12 wide
    assert {m.private.size + m.statistics.size for m in outcome.models} == {norms[normalization]}
    assert torch.isfinite(torch.tensor([m.value for m in outcome.metrics])).all()


@pytest.mark.parametrize("schedule", ["one_shot", "fraction:0.3", "fixed_count:50", "explicit:0.2,0.4"])
def test_every_schedule_lands_on_every_sparsity_even_on_none(schedule):
    p = new_pipeline(schedule=schedule, sparsity=(0.0, 0.3, 0.6))
    for name in ("rtl", "imp", "union_size_imp"):
        for sparsity in sparsities_of(p, name):
            counts = set(method(name).mask_set(p, sparsity).counts.values())
            union = int(p.masks("own", sparsity).union().sum())
            assert counts == {union if name == "union_size_imp" else kept(p.f.scope.size, sparsity)}


def test_metrics_are_numbers_even_where_no_mask_can_be_told_from_another():
    p = new_pipeline(sparsity=(0.0,))
    for name in ("rtl", "twin"):
        assert torch.isfinite(torch.tensor([m.value for m in run_method(p, name, 0.0).metrics])).all()


# -- what each method says of itself ----------------------------------------------------------------------


@every_optimizer
@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_twins_have_other_masks_of_the_same_counts_on_the_same_partition(optimizer, sparsity):
    p = pipeline(optimizer)
    own, replicate = (outcomes(name, optimizer)[sparsity].models[0].masks for name in ("rtl", "twin"))
    assert own.counts == replicate.counts
    assert all(not torch.equal(own[name], replicate[name]) for name in NAMES)
    first, second = (p.problem(source, p.settings.search) for source in ("own", "twin"))
    assert first.partition is second.partition is p.partition
    assert not torch.equal(first.stream(0, "extract", 0)[0], second.stream(0, "extract", 0)[0])
    assert 0 < metric(outcomes("twin", optimizer)[sparsity], "kappa_twin") <= 1


@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_theta0_magnitude_keeps_the_largest_initial_weights_and_searches_nothing(sparsity):
    p, outcome = pipeline(), outcomes("theta0_magnitude")[sparsity]
    expected = keep_top(p.theta0.weights_N.abs(), kept(p.f.scope.size, sparsity))
    assert all(torch.equal(mask, expected) for mask in masks_of(outcome).values())
    assert metric(outcome, "samples_search") == 0


@every_optimizer
@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_same_mask_is_that_of_imp_for_every_ticket_trained_as_those_of_rtl(optimizer, sparsity):
    found, p = outcomes("same_mask", optimizer)[sparsity], pipeline(optimizer)
    (single,) = masks_of(outcomes("imp", optimizer)[sparsity]).values()
    assert set(masks_of(found)) == set(NAMES)
    assert all(torch.equal(mask, single) for mask in masks_of(found).values())
    assert metric(found, "jaccard") == 1
    again, _ = p.train(
        Network(Stage("train", "again", sparsity=sparsity), method("rtl").task, found.tickets.masks)
    )
    assert same_state(found.tickets, again)


def test_same_mask_goes_on_with_the_weights_of_the_one_search_where_they_are_kept():
    p = new_pipeline("Adam", rewinding="learning_rate")
    start, (single, searched) = p.start("single", "own", 0.3, None), p.search("single", 0.3)
    kept_N = single["all"]
    torch.testing.assert_close(start.weights_N[kept_N], searched[0].weights_N[kept_N])
    torch.testing.assert_close(start.shared_R, searched[0].shared_R)
    assert len(run_method(p, "same_mask", 0.3).tickets.names) == len(NAMES)


@every_optimizer
@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_random_masks_have_the_layer_counts_of_rtl_and_nothing_else_of_it(optimizer, sparsity):
    own = outcomes("rtl", optimizer)[sparsity].models[0].masks
    drawn = outcomes("random_mask", optimizer)[sparsity].models[0].masks
    assert torch.equal(own.counts_KL(), drawn.counts_KL())
    assert all(not torch.equal(own[name], drawn[name]) for name in NAMES)
    assert not torch.equal(drawn["red"], drawn["green"])


def test_random_masks_of_one_layout_still_depend_on_the_seed():
    same = [new_pipeline("Adam", seed) for seed in (0, 1)]
    for p in same:
        p.cache = pipeline().cache  # the same search, so the same layer counts
    first, second = (method("random_mask").mask_set(p, 0.6) for p in same)
    assert torch.equal(first.counts_KL(), second.counts_KL())
    assert not torch.equal(first.masks_KN, second.masks_KN)


def test_shuffled_partition_searches_shuffled_and_trains_and_judges_true(monkeypatch):
    used = {}
    for stage in ("find_tickets", "train_jointly"):
        plain = getattr(training, stage)

        def spy(problem, *shared, stage_name=stage, plain=plain, **options):
            used[stage_name] = problem.partition
            return plain(problem, *shared, **options)

        monkeypatch.setattr(training, stage, spy)
    judge = tb.objectives.Classification.evaluate

    def judge_spy(self, predict, data, partition):
        used["evaluate"] = partition
        return judge(self, predict, data, partition)

    monkeypatch.setattr(tb.objectives.Classification, "evaluate", judge_spy)
    p = new_pipeline()
    run_method(p, "shuffled_partition", 0.3)
    assert used["train_jointly"] is used["evaluate"] is p.partition
    shuffled, true = used["find_tickets"], p.partition
    assert shuffled.sizes() == true.sizes()
    inside = (shuffled.members["train"] & true.members["train"]).sum(0)
    assert all(count < 0.7 * size for count, size in zip(inside.tolist(), true.sizes().values(), strict=True))
    for split in ("validation", "test"):
        assert torch.equal(shuffled.members[split], true.members[split])


@every_optimizer
@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_union_size_imp_has_the_size_of_the_union_of_rtl(optimizer, sparsity):
    own, one = (outcomes(name, optimizer)[sparsity] for name in ("rtl", "union_size_imp"))
    assert metric(one, "union") == metric(one, "per_ticket") == metric(own, "union")
    assert one.models[0].names == ("all",)


@every_optimizer
@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_union_size_same_mask_is_that_of_union_size_imp_trained_as_rtl_is(optimizer, sparsity):
    found, one = (outcomes(n, optimizer)[sparsity] for n in ("union_size_same_mask", "union_size_imp"))
    (single,) = masks_of(one).values()
    assert set(masks_of(found)) == set(NAMES)
    assert all(torch.equal(mask, single) for mask in masks_of(found).values())
    stage = Stage("train", "at the union", sparsity=sparsity)
    again, _ = pipeline(optimizer).train(Network(stage, method("rtl").task, found.tickets.masks))
    assert same_state(found.tickets, again)


@every_optimizer
@pytest.mark.parametrize("name", ["dense", "dense_context"])
def test_dense_prunes_nothing(name, optimizer):
    (outcome,) = outcomes(name, optimizer).values()
    assert outcome.sparsity == 0
    assert bool(outcome.models[0].masks.masks_KN.all())


@every_optimizer
@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_imp_per_subset_has_the_masks_of_rtl_over_weights_of_its_own(optimizer, sparsity):
    p = pipeline(optimizer)
    own = outcomes("rtl", optimizer)[sparsity].models[0]
    alone = outcomes("imp_per_subset", optimizer)[sparsity]
    assert [model.names for model in alone.models] == [(name,) for name in NAMES]
    assert all(torch.equal(mask, own[name]) for name, mask in masks_of(alone).items())
    weights = [weights_of(p, model) for model in [*alone.models, own]]
    for i, first in enumerate(weights):
        assert not any(torch.equal(first, second) for second in weights[:i])


def test_metrics_count_what_the_models_hold():
    for name in METHODS:
        for outcome in outcomes(name).values():
            masks = masks_of(outcome)
            assert metric(outcome, "per_ticket") == sum(int(m.sum()) for m in masks.values()) / len(masks)
            unions = [int(model.masks.union().sum()) for model in outcome.models]
            assert metric(outcome, "union") == sum(unions)
            private = sum(p.numel() for m in outcome.models for p in (m.private_KP, m.statistics_KS))
            assert metric(outcome, "private") == private
            assert metric(outcome, "dense_rest") == len(outcome.models) * pipeline(name=name).f.shared.size


def test_file_bytes_are_the_same_in_memory_and_on_disk(tmp_path):
    p = pipeline()
    for name in ("rtl", "imp_per_subset", "imp_context"):
        sizes = [model.save(tmp_path / f"{i}.tickets") for i, model in enumerate(outcomes(name)[0.6].models)]
        assert metric(outcomes(name)[0.6], "file_bytes") == sum(sizes)
    assert p.cache.file("x") is None


def test_one_search_serves_all_methods_that_read_it():
    done = pipeline().cache.results
    for name in METHODS:
        outcomes(name)
    assert {n for n in done if n.startswith("search-own")} == {f"search-own-{s}" for s in SPARSITIES}


def test_controls_are_the_methods_that_are_there_to_be_compared_with():
    controls = {
        "twin",
        "theta0_magnitude",
        "same_mask",
        "random_mask",
        "shuffled_partition",
        "union_size_imp",
        "union_size_same_mask",
    }
    assert {name for name in METHODS if method(name).control} == controls


def test_unknown_methods_and_sparsities_are_named():
    with pytest.raises(tb.TombolaError, match="did you mean 'imp'"):
        method("imq")
    with pytest.raises(tb.TombolaError, match=r"0\.9"):
        pipeline().masks("own", 0.9)


def test_masking_theta_leaves_theta_alone():
    theta0 = pipeline().theta0
    before = {n: t.clone() for n, t in theta0.tensors().items()}
    masked = theta0.masked(torch.zeros(pipeline().f.scope.size, dtype=torch.bool))
    for b in masked.buffers.values():
        b.add_(1)
    masked.shared_R.data.add_(1)
    assert isinstance(masked, Params)
    assert not bool(masked.weights_N.any())
    assert all(torch.equal(t, before[n]) for n, t in theta0.tensors().items())


def test_a_late_rewind_point_is_shared_counted_and_where_training_starts():
    p = new_pipeline(rewind=3)
    found = {
        name: run_method(p, name, sparsities_of(p, name)[0])
        for name in ("rtl", "shuffled_partition", "imp", "dense")
    }
    stages = {stage for stage in p.cache.results if stage.startswith("rewind")}
    assert stages == {"rewind-own", "rewind-single"}
    assert not torch.equal(p.rewind_point("own").weights_N, p.theta0.weights_N)
    assert torch.equal(p.rewind_point("shuffled").weights_N, p.rewind_point("own").weights_N)
    rewound = 3 * 3 * 8  # steps per ticket × tickets × batch
    searched = metric(found["rtl"], "samples_search")
    assert searched > rewound
    assert metric(found["imp"], "samples_search") == searched
    assert metric(found["shuffled_partition"], "samples_search") == searched
    assert metric(found["dense"], "samples_search") == rewound
    assert len({metric(outcome, "samples_train") for outcome in found.values()}) == 1
    rtl = found["rtl"].models[0]
    outside = ~rtl.masks.union()
    assert torch.equal(weights_of(p, rtl)[outside], p.rewind_point("own").weights_N.detach()[outside])


@pytest.mark.parametrize("normalization", ["shared", "per_ticket_statistics", "per_ticket"])
def test_all_may_start_from_the_same_dense_network(normalization):
    p = new_pipeline(rewind=3, rewind_task="single", normalization=normalization)
    found = {name: run_method(p, name, 0.3) for name in ("rtl", "shuffled_partition", "imp")}
    assert {stage for stage in p.cache.results if stage.startswith("rewind")} == {"rewind-single"}
    for name, outcome in found.items():
        assert outcome["samples_search"] == found["imp"]["samples_search"], name
        outside = ~outcome.tickets.masks.union()
        early = p.rewind_point("single").weights_N.detach()
        assert torch.equal(weights_of(p, outcome.tickets)[outside], early[outside]), name
    single = new_pipeline(rewind=3, normalization=normalization)
    assert torch.equal(single.rewind_point("single").weights_N, early)


# -- networks that are told the context -------------------------------------------------------------------

TOLD = [name for name in METHODS if method(name).conditioned]


@pytest.mark.parametrize("seed", [0, 1])
def test_a_told_network_begins_with_the_same_bits_under_the_same_names(seed):
    p = new_pipeline(seed=seed)
    plain, conditioned = (dict(q.f.write(q.theta0).state_dict()) for q in (p, p.with_context))
    assert conditioned.keys() - plain.keys() == {"0.context"}
    assert plain.keys() <= conditioned.keys()
    assert torch.equal(conditioned["0.weight"][:, :6], plain["0.weight"])
    assert all(torch.equal(conditioned[name], t) for name, t in plain.items() if name != "0.weight")


def test_what_a_told_network_has_more_depends_on_the_seed_alone():
    theta0 = [new_pipeline(seed=seed).with_context.theta0 for seed in (0, 0, 1)]
    assert torch.equal(theta0[0].weights_N, theta0[1].weights_N)
    assert torch.equal(theta0[0].shared_R, theta0[1].shared_R)
    assert not torch.equal(theta0[0].weights_N, theta0[2].weights_N)
    assert not torch.equal(theta0[0].shared_R, theta0[2].shared_R)


@pytest.mark.parametrize("name", TOLD)
def test_the_embedding_of_the_context_is_trained_and_never_pruned(name):
    p = pipeline("SGD", name=name)
    assert "0.context" in p.f.shared.names
    assert p.f.scope.names == pipeline("SGD").f.scope.names == ("0.weight", "3.weight")
    before = p.backbone.get_parameter("0.context")
    assert before.shape == (len(NAMES), 16)
    for outcome in outcomes(name, "SGD").values():
        after = outcome.models[0].backbone.get_parameter("0.context")
        assert bool((after != before).all())


@pytest.mark.parametrize("name", TOLD)
def test_the_outputs_depend_on_the_context_that_is_told(name):
    x = blobs().test.x
    for outcome in outcomes(name, "SGD").values():
        (model,) = outcome.models
        answers = [model(with_context(x, torch.full((len(x),), k))) for k in range(len(NAMES))]
        for i, first in enumerate(answers):
            assert not any(torch.allclose(first, second, atol=1e-3) for second in answers[:i])


def test_every_sample_is_told_its_own_subset_in_every_split():
    p = pipeline("SGD", name="imp_context")
    for split in ("train", "validation", "test"):
        index = torch.arange(len(blobs().split(split))).flip(0)
        x = p.data.inputs(split, index)
        assert torch.equal(x[:, :-1], blobs().split(split).x[index])
        assert torch.equal(x[:, -1], blobs().split(split).y[index].float())  # one subset per class


def test_both_networks_of_one_journal_keep_their_stages_apart():
    p = new_pipeline(rewind=2)
    both = {
        name: run_method(p, name, sparsities_of(p, name)[0])
        for name in ("imp_context", "imp", "dense_context")
    }
    stages = {name for name in p.cache.results if not name.startswith(("train", "judge"))}
    assert stages == {"rewind-single", "rewind-told-single", "search-single-0.3", "search-told-single-0.3"}
    alone = run_method(new_pipeline(rewind=2), "imp", 0.3)
    assert alone.metrics == both["imp"].metrics
    assert same_state(alone.models[0], both["imp"].models[0])
    counts = {name: metric(outcome, "union") for name, outcome in both.items()}
    assert counts == {"imp": kept(288, 0.3), "imp_context": kept(544, 0.3), "dense_context": 544}
    searched = {name: metric(outcome, "samples_search") for name, outcome in both.items()}
    assert searched["imp"] == searched["imp_context"] > searched["dense_context"] == 2 * 3 * 8


def test_a_told_pipeline_keeps_its_stages_in_the_journal_that_is_opened_after_it():
    p = new_pipeline()
    assert p.with_context.cache is p.cache
    p.cache = StageCache()
    assert p.with_context.cache is p.cache
    run_method(p, "imp_context", 0.3)
    assert "search-told-single-0.3" in p.cache.results


@pytest.mark.parametrize("name", TOLD)
def test_telling_what_is_asked_for_is_refused(name):
    p = new_pipeline(one_vs_rest=True)
    with pytest.raises(UsageError, match=r"^OneVsRest asks for the subset.*leave out the methods that tell"):
        run_method(p, name, sparsities_of(p, name)[0])
    assert not p.cache.results


def test_telling_the_context_of_overlapping_subsets_is_refused():
    partition = tb.partition.by_rule(blobs(), lambda s: {"low": s.y < 2, "high": s.y > 0})
    p = dataclasses.replace(new_pipeline(), partition=partition)
    with pytest.raises(PartitionError, match=r"^subsets overlap, .*leave out the methods that tell it$"):
        run_method(p, "imp_context", 0.3)


@pytest.mark.parametrize("before", [nn.Dropout(0.5), nn.ConstantPad1d((0, 1), 0.0), nn.Softmax(1)])
def test_a_context_that_is_changed_before_the_first_layer_is_refused(before):
    wide = 7 if isinstance(before, nn.ConstantPad1d) else 6
    backbone = nn.Sequential(before, nn.Linear(wide, 16), nn.ReLU(), nn.Linear(16, 3))
    p = dataclasses.replace(new_pipeline(), backbone=backbone)
    with pytest.raises(UsageError, match=r"does not reach the first layer \(1\).*leave out the methods"):
        run_method(p, "dense_context", 0.0)


# -- every score, selection and granularity, under one mask and under many ---------------------------------


@pytest.mark.parametrize("name", ["rtl", "imp", "imp_context", "random_mask"])
@pytest.mark.parametrize("score", tb.scoring.CRITERIA)
def test_every_score_gives_exact_nested_masks_before_and_after_training(name, score):
    for T in (2, 0) if score != "movement" else (2,):
        p = new_pipeline(score=score, T=T, schedule="fraction:0.5", floor=1)  # gamma takes whole channels
        first, second = (run_method(p, name, sparsity) for sparsity in SPARSITIES)
        for outcome, sparsity in ((first, 0.3), (second, 0.6)):
            wanted = kept((p.with_context if method(name).conditioned else p).f.scope.size, sparsity)
            assert {int(mask.sum()) for mask in masks_of(outcome).values()} == {wanted}
        if name != "random_mask":
            larger = masks_of(first)
            assert all(not (mask & ~larger[ticket]).any() for ticket, mask in masks_of(second).items())


def test_scores_choose_different_masks():
    masks = {}
    for name, criterion in tb.scoring.CRITERIA.items():
        score = f"{name}:3" if criterion.batches else name  # from one batch, snip and taylor rank alike
        p = new_pipeline(score=score, schedule="one_shot", sparsity=(0.6,))
        masks[score] = masks_of(run_method(p, "imp", 0.6))["all"]
    for a in masks:
        for b in masks:
            assert a == b or not torch.equal(masks[a], masks[b]), (a, b)


@pytest.mark.parametrize("selection", tb.pruning.SELECTIONS)
@pytest.mark.parametrize("name", ["rtl", "imp", "theta0_magnitude", "random_mask", "union_size_imp"])
def test_every_selection_counts_exactly(name, selection):
    p = new_pipeline(selection=selection)
    for sparsity in SPARSITIES:
        outcome, wanted = run_method(p, name, sparsity), kept(p.f.scope.size, sparsity)
        if name == "union_size_imp":
            wanted = int(p.masks("own", sparsity).union().sum())
        assert {int(mask.sum()) for mask in masks_of(outcome).values()} == {wanted}


@pytest.mark.parametrize("name", ["rtl", "imp", "theta0_magnitude", "random_mask"])
def test_channels_stay_or_go_as_a_whole_and_never_exceed_the_count(name):
    p = new_pipeline(granularity="channel", floor=1)
    for sparsity in SPARSITIES:
        for mask in masks_of(run_method(p, name, sparsity)).values():
            wanted = kept(p.f.scope.size, sparsity)
            assert wanted - 16 < int(mask.sum()) <= wanted  # a channel has at most 16 weights here
            for part in p.f.scope.unflatten(mask).values():
                assert torch.equal(part.any(1), part.all(1))


def test_patterns_keep_two_of_four():
    p = new_pipeline(granularity="2:4/output", sparsity=(0.5,), schedule="one_shot")
    for name in ("rtl", "imp", "theta0_magnitude", "random_mask"):
        for mask in masks_of(run_method(p, name, 0.5)).values():
            for part in p.f.scope.unflatten(mask).values():
                assert (part.unflatten(0, (-1, 4)).sum(1) == 2).all()
