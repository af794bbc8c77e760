"""How many weights each layer keeps: exact sums, Erdős–Rényi densities, equal densities, the floor."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tombola._utils.errors import LayerCollapse, PruningError
from tombola.lab.models.speech_unet import SpeechUNet
from tombola.masks.layout import Layout
from tombola.masks.prunable import scope
from tombola.pruning import SELECTIONS, apportion, keep_top, prune, shares
from tombola.pruning.shares import erk

SMALL = Layout(("conv", "linear", "tiny"), ((4, 2, 3, 3), (6, 4), (2, 1)))  # 72 + 24 + 2 weights
few = st.sampled_from([-1.0, 0.0, 1.0, 2.0, math.inf])  # heavy ties
scores_of_small = st.lists(few, min_size=98, max_size=98).map(torch.tensor)
masks_of_small = st.lists(st.booleans(), min_size=98, max_size=98).map(torch.tensor)
OF_LAYERS = [selection for selection in SELECTIONS if selection != "row"]  # tests/test_pruning_rows.py
layered = pytest.mark.parametrize("selection", OF_LAYERS)


def ones(layout):
    return torch.ones(layout.size, dtype=torch.bool)


def counts(mask_N, layout):
    return [int(part.sum()) for part in mask_N.split(layout.sizes)]


# -- apportion ---------------------------------------------------------------------------------------


@st.composite
def bounded_shares(draw):
    high = draw(st.lists(st.integers(0, 50), min_size=1, max_size=6))
    low = [draw(st.integers(0, bound)) for bound in high]
    weights = [draw(st.integers(1, 1000)) if bound else 0 for bound in high]
    return weights, low, high, draw(st.integers(sum(low), sum(high)))


@settings(max_examples=150, deadline=None)
@given(bounded_shares())
def test_apportion_is_exact_within_bounds_and_proportional_between_them(case):
    weights, low, high, total = case
    parts = apportion(weights, low, high, total)
    assert sum(parts) == total
    assert all(lo <= part <= hi for lo, part, hi in zip(low, parts, high, strict=True))
    # One level e: above its lower bound a part has (part − 1) / w < e, below its upper (part + 1) / w > e.
    layers = list(zip(weights, low, parts, high, strict=True))
    at_least = [(part - 1) / w for w, lo, part, _ in layers if part > lo]
    at_most = [(part + 1) / w for w, _, part, hi in layers if part < hi]
    assert max(at_least, default=-1) < min(at_most, default=math.inf)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=6), st.data())
def test_by_what_is_left_whole_parts_come_first_and_then_the_largest_remainders(left, data):
    total, whole = data.draw(st.integers(0, sum(left))), max(sum(left), 1)
    parts, rests = zip(*(divmod(size * total, whole) for size in left), strict=True)
    order = sorted(range(len(left)), key=lambda i: (-rests[i], -i))[: total - sum(parts)]
    expected = [part + (i in order) for i, part in enumerate(parts)]
    assert apportion(left, [0] * len(left), left, total) == shares(left, total) == expected


def test_a_part_at_its_bound_stays_there_and_the_rest_is_rescaled():
    assert apportion([1, 1, 2], [0, 0, 0], [2, 9, 9], 13) == [2, 4, 7]
    assert apportion([1, 1, 8], [3, 0, 0], [9, 9, 90], 12) == [3, 1, 8]
    assert apportion([1, 1], [0, 0], [9, 9], 5) == [2, 3]  # of equal remainders, the last


@pytest.mark.parametrize("total", [1, 12])
def test_a_total_outside_the_bounds_is_refused(total):
    with pytest.raises(PruningError, match=f"cannot keep {total} weights: the layers take 2 to 11"):
        apportion([1, 1], [1, 1], [5, 6], total)


# -- Erdős–Rényi-Kernel ------------------------------------------------------------------------------

ERK = Layout(("conv", "linear", "tiny"), ((8, 4, 3, 3), (10, 8), (2, 2)))  # dimensions sum to 18, 18, 4


@pytest.mark.parametrize(
    ("keep", "expected"),
    [(30, [13, 14, 3]), (40, [18, 18, 4]), (60, [28, 28, 4]), (200, [116, 80, 4]), (372, [288, 80, 4])],
)
def test_erk_by_hand(keep, expected):
    mask_N = prune(ones(ERK), torch.arange(372.0), keep, ERK, "erk")
    assert counts(mask_N, ERK) == expected


def densities_of_the_paper(shapes, density):
    """Evci et al.: a factor for all layers; those that would exceed 1 are made dense, and it is redone."""
    sizes, raw, dense = [math.prod(s) for s in shapes], [sum(s) / math.prod(s) for s in shapes], set()
    while True:
        sparse = [i for i in range(len(shapes)) if i not in dense]
        budget = density * sum(sizes) - sum(sizes[i] for i in dense)
        factor = budget / sum(raw[i] * sizes[i] for i in sparse)
        over = {i for i in sparse if factor * raw[i] > 1}
        if not over:
            return [1.0 if i in dense else factor * raw[i] for i in range(len(shapes))]
        dense.add(max(over, key=lambda i: raw[i]))


@pytest.mark.parametrize("density", [0.05, 0.1, 0.3, 0.5, 0.8])
def test_erk_has_the_densities_of_the_paper_on_the_unet(density):
    layout = scope(SpeechUNet())
    keep = round(density * layout.size)
    parts = apportion(erk(layout), [0] * len(layout.sizes), layout.sizes, keep)
    wanted = densities_of_the_paper(layout.shapes, keep / layout.size)
    assert sum(parts) == keep
    for part, share, size in zip(parts, wanted, layout.sizes, strict=True):
        assert abs(part - share * size) < 1 + 1e-6


# -- selections --------------------------------------------------------------------------------------


@layered
@settings(max_examples=30, deadline=None)
@given(scores_of_small, masks_of_small, st.data())
def test_every_selection_is_exact_nested_and_deterministic(selection, scores, mask_N, data):
    floor = data.draw(st.integers(0, 2))
    least = sum(min(floor, n) for n in counts(mask_N, SMALL))
    rounds = sorted(data.draw(st.lists(st.integers(least, int(mask_N.sum())), max_size=3)), reverse=True)
    for keep in rounds:
        pruned_N = prune(mask_N, scores, keep, SMALL, selection, allow_collapse=True, floor=floor)
        again_N = prune(mask_N.clone(), scores.clone(), keep, SMALL, selection, True, floor=floor)
        assert pruned_N.sum() == keep
        assert not (pruned_N & ~mask_N).any()
        assert torch.equal(pruned_N, again_N)
        assert all(
            n >= min(floor, before)
            for n, before in zip(counts(pruned_N, SMALL), counts(mask_N, SMALL), strict=True)
        )
        for layer, before, score in zip(
            *(t.split(SMALL.sizes) for t in (pruned_N, mask_N, scores)), strict=True
        ):
            assert torch.equal(layer, keep_top(score, int(layer.sum()), before))  # the best of each layer
        mask_N = pruned_N


def test_uniform_makes_layers_equal_again_and_layer_does_not():
    layout, scores = Layout(("a", "b"), ((10, 2), (10, 2))), torch.arange(40.0)
    before_N = prune(ones(layout), scores, 24, layout)  # the lowest 16 are all in a
    assert counts(before_N, layout) == [4, 20]
    assert counts(prune(before_N, scores, 12, layout, "layer"), layout) == [2, 10]
    assert counts(prune(before_N, scores, 12, layout, "uniform"), layout) == [4, 8]  # a has no more left
    assert counts(prune(before_N, scores, 6, layout, "uniform"), layout) == [3, 3]


def test_from_a_dense_mask_uniform_is_layer():
    scores = torch.randn(98, generator=torch.Generator().manual_seed(0))
    for keep in range(10, 98, 11):
        a, b = (prune(ones(SMALL), scores, keep, SMALL, s, True) for s in ("layer", "uniform"))
        assert torch.equal(a, b)


def test_erk_gives_no_layer_more_than_an_earlier_round_has_left():
    scores = torch.cat([torch.ones(288), torch.zeros(84)])  # globally linear and tiny go first
    before_N = prune(ones(ERK), scores, 298, ERK, floor=1)
    assert counts(before_N, ERK) == [288, 6, 4]
    assert counts(prune(before_N, scores, 60, ERK, "erk"), ERK) == [50, 6, 4]


# -- the floor ---------------------------------------------------------------------------------------


def test_a_floor_keeps_the_best_of_a_layer_and_takes_the_rest_from_the_others():
    layout, scores = Layout(("low", "high"), ((3,), (5,))), torch.tensor([0.1, 0.3, 0.2, 5, 4, 3, 2, 1])
    with pytest.raises(LayerCollapse, match="empties low:"):
        prune(ones(layout), scores, 4, layout)
    one_N = prune(ones(layout), scores, 4, layout, floor=1)
    assert one_N.tolist() == [False, True, False, True, True, True, False, False]
    two_N = prune(ones(layout), scores, 4, layout, floor=2)
    assert two_N.tolist() == [False, True, True, True, True, False, False, False]


def test_a_floor_that_is_kept_anyway_changes_nothing():
    scores = torch.randn(98, generator=torch.Generator().manual_seed(1))
    for selection in OF_LAYERS:
        plain_N = prune(ones(SMALL), scores, 70, SMALL, selection)
        assert torch.equal(prune(ones(SMALL), scores, 70, SMALL, selection, floor=1), plain_N)


def test_the_collapse_names_the_floor_as_a_remedy():
    with pytest.raises(LayerCollapse, match="floor=1"):
        prune(ones(SMALL), torch.arange(98.0), 2, SMALL)


@pytest.mark.parametrize(
    ("floor", "message"), [(3, "a floor of 3 takes 8 weights, only 7"), (-1, "at least 0")]
)
def test_a_floor_that_cannot_be_is_refused(floor, message):
    with pytest.raises(PruningError, match=message):
        prune(ones(SMALL), torch.arange(98.0), 7, SMALL, floor=floor)
