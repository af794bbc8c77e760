"""What every method must prove: counts, nesting, bits, the start of training, resuming, being another one."""

from functools import cache

import pytest
import torch
from test_methods import (
    NAMES,
    SPARSITIES,
    blobs,
    masks_of,
    metric,
    network,
    same_state,
    seen_by,
    weights_of,
)

import tombola as tb
from tombola.methods.pipeline import Pipeline
from tombola.methods.result import is_done, run_method, sparsities_of
from tombola.methods.table import METHODS, TOOLBOX, method
from tombola.pruning.schedules import kept
from tombola.runs.cache import StageCache
from tombola.runs.directory import Run
from tombola.runs.log import read_records

every_method = pytest.mark.parametrize("name", METHODS)
every_tool = pytest.mark.parametrize("name", TOOLBOX)


def new_pipeline(cache=None, **changes):
    """A task with a rewind point, and a learning rate that falls, so that no two kinds of rewinding agree."""
    config = tb.TrainConfig(lr=0.01, batch_size=8, lr_schedule="cosine")
    chosen = {"sparsity": SPARSITIES, "schedule": "fraction:0.3", "T": 4, "steps": 4, "statistics": 2}
    settings = tb.Settings(**{**chosen, "rewind": 4, "search": config, "train": config, **changes})
    partition = tb.partition.by_label(blobs(), NAMES)
    objective = tb.objectives.Classification()
    return Pipeline(network(), objective, blobs(), partition, settings, 0, cache or StageCache())


@cache
def everything():
    """Every method at every sparsity, in one journal, as one run has it."""
    p = new_pipeline()
    return p, {name: {s: run_method(p, name, s) for s in sparsities_of(p, name)} for name in METHODS}


def settings_of(name):
    return method(name).variant(everything()[0], name).settings


def variant(p, name):
    return method(name).variant(p, name)


# -- every method ----------------------------------------------------------------------------------------


@every_method
def test_the_count_is_exact_or_short_of_it_by_less_than_a_group(name):
    p, found = everything()
    for sparsity, outcome in found[name].items():
        wanted = kept(seen_by(p, name).f.scope.size, sparsity)
        if name.startswith("union_size"):
            wanted = int(found["rtl"][sparsity].models[0].masks.union().sum())
        largest = 16 if settings_of(name).granularity == "channel" else 1
        assert all(wanted - largest < int(mask.sum()) <= wanted for mask in masks_of(outcome).values())


# What is drawn once from the same scores at every sparsity is nested as well as what is searched in rounds.
SAME_SCORES = {"one_shot", "snip", "grasp", "random_pruning", "wanda", "early_bird", "early_bird_channels"}


@pytest.mark.parametrize("name", [n for n, m in METHODS.items() if m.search])
def test_masks_are_nested_across_sparsities_where_the_search_is(name):
    if (not settings_of(name).nested and name not in SAME_SCORES) or name == "random_mask":
        pytest.skip("a search of its own for every sparsity")
    low, high = (masks_of(everything()[1][name][s]) for s in SPARSITIES)
    assert all(not (high[ticket] & ~low[ticket]).any() for ticket in low)


@every_method
def test_weights_outside_the_masks_are_those_of_the_rewind_point_bit_for_bit(name):
    p, found = everything()
    p, chosen = variant(p, name), method(name)
    start = chosen.start(p) if chosen.start else p.rewind_point(chosen.task)
    for outcome in found[name].values():
        for model in outcome.models:
            outside = ~model.masks.union()
            assert torch.equal(weights_of(p, model)[outside], start.weights_N.detach()[outside])
            stays = torch.equal(weights_of(p, model)[~outside], start.weights_N.detach()[~outside])
            assert stays == settings_of(name).frozen


@every_method
def test_training_starts_where_the_kind_of_rewinding_says(name):
    p, _ = everything()
    p, chosen, kind = variant(p, name), method(name), settings_of(name).rewinding
    if chosen.start:
        return
    rewound = p.rewind_point(chosen.task)
    start = p.start(chosen.search, chosen.task, SPARSITIES[-1], None)
    same = all(torch.equal(t, rewound.tensors()[n]) for n, t in start.tensors().items())
    assert same == (kind == "weights")
    if kind != "weights":
        masks, ended = p.search(chosen.search, SPARSITIES[-1])
        for k, name in enumerate(masks.names):  # weights of several tickets begin at their mean
            own = masks[name] & (masks.masks_KN.sum(0) == 1)
            assert torch.equal(start.weights_N[own], ended[k].weights_N[own])
        if len(masks) == 1:
            assert torch.equal(start.shared_R, ended[0].shared_R)


@every_tool
def test_every_tool_is_as_far_from_its_initialisation_as_imp_and_searches_as_long_as_it_says(name):
    _, found = everything()
    outcomes, imp = found[name], found["imp"]
    rewind, once = 4 * 3 * 8, 4 * 3 * 8  # steps per ticket, tickets, batch
    late = rewind if name in ("reinit", "snip", "grasp", "synflow", "random_pruning") else 0
    assert metric(outcomes[0.6], "samples_train") == metric(imp[0.6], "samples_train") + late
    scored = {"snip": 5 * 8, "grasp": 2 * 5 * 8, "wanda": 5 * 8}
    spent = {
        "synflow": 0,
        "random_pruning": 0,
        "snip": scored["snip"],
        "grasp": scored["grasp"],
        "wanda": rewind + once + scored["wanda"],
        "one_shot": rewind + once,
        "set": rewind + once,
        "learned": metric(imp[0.6], "samples_search"),  # one round, as long as all of imp's
        "supermask": metric(imp[0.6], "samples_search"),
        "rtl_learned": metric(imp[0.6], "samples_search"),
        "rigl": rewind + once + 8,  # one move, which reads a batch
        "reinit": metric(imp[0.6], "samples_search"),
        "lr_rewinding": metric(imp[0.6], "samples_search"),
        "fine_tuning": metric(imp[0.6], "samples_search"),
        "movement": metric(imp[0.6], "samples_search"),
    }
    if name.startswith("early_bird"):
        assert rewind + 6 * 8 <= metric(outcomes[0.6], "samples_search") <= rewind + once
    if name in spent:
        assert metric(outcomes[0.6], "samples_search") == spent[name]


def test_no_two_methods_have_the_same_masks_but_those_that_should():
    _, found = everything()
    pruned = [name for name in METHODS if 0.6 in found[name] and not method(name).conditioned]
    masks = {name: masks_of(found[name][0.6]) for name in pruned}
    same = {("imp", "reinit"), ("rtl", "imp_per_subset")}
    for a in masks:
        for b in masks:
            both = masks[a].keys() & masks[b].keys()
            equal = bool(both) and all(torch.equal(masks[a][k], masks[b][k]) for k in both)
            assert equal == (a == b or (a, b) in same or (b, a) in same), (a, b)


def test_no_two_methods_end_with_the_same_weights():
    _, found = everything()
    models = {name: list(outcomes.values())[-1].models[0] for name, outcomes in found.items()}
    conditioned = [name for name in models if method(name).conditioned]
    models = {name: model for name, model in models.items() if "adapters" not in method(name).changes}
    for a in models:
        for b in models:
            if a != b and (a in conditioned) == (b in conditioned) and a != "imp_per_subset" != b:
                p = seen_by(everything()[0], a)
                assert not torch.equal(weights_of(p, models[a]), weights_of(p, models[b])), (a, b)


def test_tools_leave_the_search_of_imp_alone():
    p, found = everything()
    alone = run_method(new_pipeline(), "imp", SPARSITIES[-1])
    assert same_state(alone.models[0], found["imp"][SPARSITIES[-1]].models[0])
    assert {n for n in p.cache.results if n.startswith("rewind")} == {
        "rewind-own",
        "rewind-twin",
        "rewind-single",
        "rewind-told-single",
        # of networks with adapters
        *(f"rewind-low_rank_{rank}-{view}" for rank in (1, 4) for view in ("own", "single")),
    }


def test_reinit_redraws_every_layer_and_nothing_else():
    p, _ = everything()
    redrawn = TOOLBOX["reinit"].start(p)
    for new, old in zip(*(t.weights_N.split(p.f.scope.sizes) for t in (redrawn, p.theta0)), strict=True):
        assert not torch.equal(new, old)
        assert torch.equal(new.sort().values, old.sort().values)
    assert torch.equal(redrawn.shared_R, p.theta0.shared_R)


def test_a_run_of_every_method_interrupted_in_every_stage_ends_with_the_same_bytes(tmp_path):
    def go(path, progress=None):
        p = new_pipeline(sparsity=(0.6,))
        with Run(path, {"seed": 0, "settings": p.settings.plain()}, progress, save_seconds=0.0) as run:
            p.cache = run
            for name in METHODS:
                for sparsity in sparsities_of(p, name):
                    if not is_done(p, name, sparsity):
                        run_method(p, name, sparsity)

    stopped = set()

    def stop(stage, done, total):
        if stage not in stopped and 2 * done >= total:
            stopped.add(stage)
            raise KeyboardInterrupt

    go(tmp_path / "whole")
    for _ in range(500):
        try:
            go(tmp_path / "run", stop)
            break
        except KeyboardInterrupt:
            continue
    files = {f.relative_to(tmp_path / "whole") for f in (tmp_path / "whole").rglob("*.safetensors")}
    assert {f"stages/{s}.safetensors" for s in stopped} <= {str(f) for f in files}
    assert len(stopped) > 1.5 * len(METHODS)
    for file in [*files, "records.jsonl"]:
        assert (tmp_path / "run" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), file
    events = {row["event"] for row in read_records(tmp_path / "whole")}
    looked = {"early_bird", "moved", "learned"}
    assert events == {"rewind", "prune", "watch", "similarity", "retrain", "metric", *looked}


# -- settings under many tickets -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rtl", "imp_per_subset", "imp", "imp_context", "twin", "random_mask"])
@pytest.mark.parametrize("kind", ["learning_rate", "fine_tune"])
def test_kept_weights_are_those_of_the_tickets_that_keep_them(name, kind):
    p = new_pipeline(rewinding=kind, normalization="per_ticket")
    outcome, chosen = run_method(p, name, 0.6), method(name)
    p = seen_by(p, name)
    rewound = p.rewind_point(chosen.task).weights_N.detach()
    assert {int(m.sum()) for m in masks_of(outcome).values()} == {kept(p.f.scope.size, 0.6)}
    masks, trained = p.search(chosen.search, 0.6)
    for ticket in range(len(masks)) if name == "imp_per_subset" else [None]:
        start = p.start(chosen.search, chosen.task, 0.6, ticket)
        together = range(len(masks)) if ticket is None else [ticket]
        for i in range(p.f.scope.size):
            values = [float(trained[k].weights_N.detach()[i]) for k in together if masks.masks_KN[k, i]]
            expected = sum(values) / len(values) if values else float(rewound[i])
            assert float(start.weights_N.detach()[i]) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("callback", ["set:0.5:2", "rigl:0.5:2"])
def test_masks_move_for_every_ticket_under_rtl(callback):
    p = new_pipeline(callback=callback, first="random", nested=False, schedule="one_shot", selection="erk")
    outcome, still = (
        run_method(p, "rtl", 0.6),
        new_pipeline(first="random", nested=False, schedule="one_shot", selection="erk"),
    )
    assert {int(m.sum()) for m in masks_of(outcome).values()} == {kept(p.f.scope.size, 0.6)}
    before, after = still.masks("own", 0.6), p.masks("own", 0.6)
    assert torch.equal(before.counts_KL(), after.counts_KL())  # of every layer
    assert all(not torch.equal(before[name], after[name]) for name in NAMES)


@pytest.mark.parametrize("name", ["rtl", "imp"])
@pytest.mark.parametrize("granularity", ["weight", "channel"])
def test_an_early_bird_ends_the_search_and_saves_what_it_says(name, granularity):
    score = "gamma" if granularity == "channel" else "magnitude"
    changes = {"schedule": "one_shot", "score": score, "granularity": granularity, "floor": 1, "T": 40}
    p = new_pipeline(**changes, callback="early_bird:1.0:2:3", nested=False)
    spent = metric(run_method(p, name, 0.6), "samples_search")
    rows = [row for row in p.cache.rows if row["event"] == "early_bird"]
    assert {row["steps"] for row in rows} == {9}  # masks after 3, 6, 9 steps: two distances
    assert all(len(row["distances"]) == 2 and max(row["distances"]) < 1 for row in rows)
    assert {row["saved"] for row in rows} == {1 - 9 / (40 if name == "rtl" else 120)}
    assert spent == 4 * 3 * 8 + 9 * 8 * len(rows)


def test_a_hybrid_goes_on_from_the_first_mask():
    p = new_pipeline(first="snip:3", schedule="geometric:3")
    masks, score = p.masks("own", 0.6), tb.Settings(score="snip:3", schedule="geometric:3").schedule
    first = [n for n in p.cache.results if n.startswith("first-")]
    assert first == ["first-own"]
    packed = p.cache.results["first-own"][0]["masks"]
    at_init = tb.MaskSet.unpack(p.f.scope, NAMES, packed)
    assert masks <= at_init
    count = tb.schedules.parse(score)(p.f.scope.size, p.targets("own"))[0]
    assert set(at_init.counts.values()) == {count}
    assert masks != new_pipeline(schedule="geometric:3").masks("own", 0.6)
