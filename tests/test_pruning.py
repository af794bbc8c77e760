"""Pruning: exact counts, deterministic ties, global or per layer."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tombola._utils.errors import LayerCollapse, PruningError
from tombola.masks.layout import Layout
from tombola.pruning import check_collapse, keep_top, prune, shares

INF = math.inf
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
few = st.sampled_from([-INF, -1.0, -0.0, 0.0, 1.0, 2.0, INF])  # heavy ties
any_score = st.one_of(few, st.floats(allow_nan=False, width=16))


def oracle(scores, keep, eligible=None):
    """The documented rule in plain Python: a stable sort, and the first of the order are pruned."""
    candidates = [i for i in range(len(scores)) if eligible is None or eligible[i]]
    order = sorted(candidates, key=lambda i: scores[i])
    kept = set(order[len(order) - keep :])
    return [i in kept for i in range(len(scores))]


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.lists(few, max_size=30), st.lists(any_score, max_size=30)), st.data())
def test_keep_top_keeps_what_a_stable_sort_keeps(values, data):
    scores = torch.tensor(values, dtype=data.draw(st.sampled_from(DTYPES)))
    keep = data.draw(st.integers(0, len(values)))
    assert keep_top(scores, keep).tolist() == oracle(scores.tolist(), keep)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(few, st.booleans()), max_size=30), st.data())
def test_keep_top_among_the_eligible_is_exact_and_a_subset(pairs, data):
    scores = torch.tensor([score for score, _ in pairs])
    eligible_N = torch.tensor([ok for _, ok in pairs], dtype=torch.bool)
    keep = data.draw(st.integers(0, int(eligible_N.sum())))
    mask_N = keep_top(scores, keep, eligible_N)
    assert mask_N.sum() == keep
    assert not (mask_N & ~eligible_N).any()
    assert mask_N.tolist() == oracle(scores.tolist(), keep, eligible_N.tolist())


@settings(max_examples=60, deadline=None)
@given(st.lists(few, min_size=1, max_size=30))
def test_keeping_fewer_keeps_a_subset(values):
    scores = torch.tensor(values)
    masks = [keep_top(scores, keep) for keep in range(len(values) + 1)]
    assert all(not (small & ~large).any() for small, large in itertools.pairwise(masks))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [0.0, -0.0, 1.5, INF, -INF])
@pytest.mark.parametrize("keep", [0, 1, 7, 8])
def test_of_equal_scores_the_last_are_kept(dtype, value, keep):
    mask_N = keep_top(torch.full((8,), value, dtype=dtype), keep)
    assert mask_N.tolist() == [False] * (8 - keep) + [True] * keep


def test_positive_and_negative_zero_are_equal():
    assert keep_top(torch.tensor([0.0, -0.0, 0.0, -0.0]), 2).tolist() == [False, False, True, True]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("keep", [0, 1, 4999, 5000, 9999, 10_000])
def test_counts_are_exact_on_many_scores_with_ties(dtype, keep):
    scores = torch.randn(10_000, generator=torch.Generator().manual_seed(keep)).to(dtype).mul(8).round()
    mask_N = keep_top(scores, keep)
    assert mask_N.sum() == keep
    if 0 < keep < 10_000:
        assert scores[mask_N].min() >= scores[~mask_N].max()


def test_the_ineligible_are_not_kept_however_high_they_score():
    scores = torch.tensor([9.0, 1.0, INF, 2.0])
    assert keep_top(scores, 1, torch.tensor([False, True, False, True])).tolist() == [
        False,
        False,
        False,
        True,
    ]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("keep", [0, 1, 3])
def test_nan_among_the_eligible_is_an_error(dtype, keep):
    with pytest.raises(PruningError, match="NaN"):
        keep_top(torch.tensor([1.0, math.nan, 2.0], dtype=dtype), keep)


def test_nan_among_the_ineligible_does_not_matter():
    mask_N = keep_top(torch.tensor([1.0, math.nan, 2.0]), 1, torch.tensor([True, False, True]))
    assert mask_N.tolist() == [False, False, True]


@pytest.mark.parametrize("keep", [-1, 4])
def test_a_count_that_is_not_there_is_an_error(keep):
    with pytest.raises(PruningError, match=f"cannot keep {keep} of 3"):
        keep_top(torch.ones(3), keep)


def test_a_count_above_the_eligible_is_an_error():
    with pytest.raises(PruningError, match="cannot keep 3 of 2"):
        keep_top(torch.ones(3), 3, torch.tensor([True, True, False]))


@pytest.mark.parametrize(
    "eligible_N",
    [torch.tensor([0, 1, 1]), torch.tensor([0, 1, 1], dtype=torch.uint8), torch.ones(2, dtype=torch.bool)],
)
def test_a_mask_that_does_not_fit_the_scores_is_an_error(eligible_N):
    with pytest.raises(PruningError, match="boolean and of that shape"):
        keep_top(torch.ones(3), 1, eligible_N)


def test_keep_top_changes_neither_scores_nor_mask():
    scores, eligible_N = torch.tensor([3.0, 1.0, 2.0, 0.0]), torch.tensor([True, True, True, False])
    for keep in range(4):
        keep_top(scores, keep, eligible_N).logical_not_()
        keep_top(scores, keep).logical_not_()
    assert scores.tolist() == [3, 1, 2, 0]
    assert eligible_N.tolist() == [True, True, True, False]


def test_scores_may_require_gradients_and_be_strided():
    scores = torch.arange(8.0, requires_grad=True)
    assert keep_top(scores, 1).tolist() == [False] * 7 + [True]
    assert keep_top(scores[::2], 1).tolist() == [False, False, False, True]


def stable_sort(scores, keep, eligible):
    """The same rule for many scores: the eligible in a stable order, of which the last are kept."""
    order = scores.double().argsort(stable=True)  # -0 is 0 here too
    order = order[eligible[order]]
    mask_N = torch.zeros_like(eligible)
    mask_N[order[len(order) - keep :]] = True
    return mask_N


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=30), st.data())
def test_any_bits_that_are_no_nan_are_ordered(words, data):
    scores = torch.tensor(words, dtype=torch.int32).view(torch.float32)
    eligible = ~scores.isnan()
    keep = data.draw(st.integers(0, int(eligible.sum())))
    assert torch.equal(keep_top(scores, keep, eligible), stable_sort(scores, keep, eligible))
    if not eligible.all():
        with pytest.raises(PruningError, match="NaN"):
            keep_top(scores, keep)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["continuous", "few values", "half zero", "all equal", "close together"])
@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
@pytest.mark.parametrize("masked", [False, True])
def test_many_scores_with_and_without_ties(kind, dtype, share, masked):
    random, N = torch.Generator().manual_seed(0), 20_011
    scores = torch.randn(N, generator=random, dtype=dtype)
    some = torch.rand(N, generator=random) < 0.5
    scores = {
        "continuous": scores,
        "few values": scores.mul(2).round(),
        "half zero": scores.abs() * some,
        "all equal": torch.full_like(scores, 0.1),
        "close together": 1 + scores.mul(9).round() * torch.finfo(dtype).eps,
    }[kind]
    eligible = torch.rand(N, generator=random) < 0.7 if masked else torch.ones(N, dtype=torch.bool)
    keep = int(share * int(eligible.sum()))
    expected = stable_sort(scores, keep, eligible)
    assert torch.equal(keep_top(scores, keep, eligible), expected)
    assert masked or torch.equal(keep_top(scores, keep), expected)


def test_in_parts_of_memory_only_the_scores_given_are_read():
    scores = torch.rand(4000)
    eligible = (scores < 0.5)[7:3001]
    assert torch.equal(keep_top(scores[7:3001], 1000, eligible), stable_sort(scores[7:3001], 1000, eligible))


# -- prune -------------------------------------------------------------------------------------------

LAYOUT = Layout(("low", "high"), ((2, 2), (8,)))
SCORES = torch.arange(12.0)


def test_global_selection_compares_layers():
    mask_N = prune(torch.ones(12, dtype=torch.bool), SCORES, 9, LAYOUT)
    assert mask_N.tolist() == [False] * 3 + [True] * 9


def test_layer_selection_keeps_the_same_share_of_each_layer():
    mask_N = prune(torch.ones(12, dtype=torch.bool), SCORES, 6, LAYOUT, "layer")
    assert mask_N.tolist() == [False] * 2 + [True] * 2 + [False] * 4 + [True] * 4


def test_layer_selection_shares_what_is_left_not_what_there_was():
    before_N = torch.tensor([True] * 4 + [False] * 4 + [True] * 4)
    mask_N = prune(before_N, SCORES, 4, LAYOUT, "layer")
    assert [int(part.sum()) for part in mask_N.split(LAYOUT.sizes)] == [2, 2]


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(few, st.booleans()), min_size=12, max_size=12), st.data())
@pytest.mark.parametrize("selection", ["global", "layer"])
def test_prune_is_exact_and_a_subset(selection, pairs, data):
    scores, mask_N = torch.tensor([s for s, _ in pairs]), torch.tensor([m for _, m in pairs])
    before_N = mask_N.clone()
    keep = data.draw(st.integers(0, int(mask_N.sum())))
    pruned_N = prune(mask_N, scores, keep, LAYOUT, selection, allow_collapse=True)
    assert pruned_N.sum() == keep
    assert not (pruned_N & ~mask_N).any()
    assert torch.equal(mask_N, before_N)


def test_a_collapse_names_the_emptied_layer_and_only_that():
    with pytest.raises(LayerCollapse, match="empties low:") as caught:
        prune(torch.ones(12, dtype=torch.bool), SCORES, 8, LAYOUT)
    assert isinstance(caught.value, PruningError)


def test_the_last_weight_of_a_layer_is_no_collapse():
    assert prune(torch.ones(12, dtype=torch.bool), SCORES, 9, LAYOUT).sum() == 9


def test_a_collapse_of_all_layers_names_all():
    with pytest.raises(LayerCollapse, match="empties low, high:"):
        check_collapse(torch.zeros(12, dtype=torch.bool), LAYOUT)


@pytest.mark.parametrize(("selection", "keep"), [("global", 8), ("global", 0), ("layer", 1)])
def test_a_collapse_may_be_allowed(selection, keep):
    ones_N = torch.ones(12, dtype=torch.bool)
    with pytest.raises(LayerCollapse):
        prune(ones_N, SCORES, keep, LAYOUT, selection)
    assert prune(ones_N, SCORES, keep, LAYOUT, selection, allow_collapse=True).sum() == keep


def test_an_empty_tensor_is_no_collapsed_layer():
    check_collapse(torch.ones(2, dtype=torch.bool), Layout(("none", "w"), ((0, 3), (2,))))


def test_an_unknown_selection_is_an_error():
    with pytest.raises(PruningError, match="global, layer, uniform, erk, row: got 'column'"):
        prune(torch.ones(12, dtype=torch.bool), SCORES, 9, LAYOUT, "column")


# -- shares ------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(st.integers(0, 20), st.integers(0, 10**12)), max_size=8), st.data())
def test_shares_are_exact_in_sum_and_within_one_of_proportion(sizes, data):
    total = data.draw(st.integers(0, sum(sizes)))
    parts = shares(sizes, total)
    assert sum(parts) == total
    assert all(0 <= part <= size for part, size in zip(parts, sizes, strict=True))
    whole = sum(sizes)
    assert all(
        abs(part * whole - size * total) < max(whole, 1) for part, size in zip(parts, sizes, strict=True)
    )


def test_the_largest_remainders_get_the_rest():
    assert shares([10, 10, 20], 21) == [5, 5, 11]
    assert shares([3, 3, 3], 4) == [1, 1, 2]  # of equal remainders, the last
    assert shares([1, 9, 5], 7) == [1, 4, 2]


def test_shares_of_nothing_are_nothing():
    assert shares([0, 0], 0) == [0, 0]
    assert shares([], 0) == []


@pytest.mark.parametrize("total", [-1, 11])
def test_shares_refuse_what_is_not_there(total):
    with pytest.raises(PruningError, match=f"cannot keep {total} of 10"):
        shares([4, 6], total)
