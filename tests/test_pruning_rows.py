"""Selection within output rows: exact counts, the best of each row, in every kind of layer."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tombola._utils.errors import PruningError
from tombola.masks.layout import Layout
from tombola.masks.prunable import scope
from tombola.pruning import keep_top, prune, transposed
from tombola.pruning.granularity import Channel, members

LAYOUT = Layout(("conv", "up", "linear"), ((4, 2, 3), (2, 4, 1), (6, 4)))  # 24, 8 and 24 weights
TURNED = {"up": 1}
ROWS = members(Channel(), LAYOUT, TURNED)
few = st.sampled_from([-1.0, 0.0, 1.0, 2.0, math.inf, -math.inf])  # heavy ties
scores_of = st.lists(few, min_size=56, max_size=56).map(torch.tensor)
masks_of = st.lists(st.booleans(), min_size=56, max_size=56).map(torch.tensor)


def cut(mask_N, scores, keep, **options):
    return prune(mask_N, scores, keep, LAYOUT, "row", allow_collapse=True, transposed=TURNED, **options)


@settings(max_examples=60, deadline=None)
@given(scores_of, masks_of, st.data())
def test_rows_are_exact_nested_deterministic_and_keep_their_best(scores, mask_N, data):
    for keep in sorted(data.draw(st.lists(st.integers(0, int(mask_N.sum())), max_size=3)), reverse=True):
        pruned_N = cut(mask_N, scores, keep)
        assert pruned_N.sum() == keep
        assert not (pruned_N & ~mask_N).any()
        assert torch.equal(pruned_N, cut(mask_N.clone(), scores.clone(), keep))
        parts = zip(*(t.split(LAYOUT.sizes) for t in (pruned_N, mask_N, scores)), ROWS, strict=True)
        for after, before, score, at_RC in parts:
            for at in at_RC:
                assert torch.equal(after[at], keep_top(score[at], int(after[at].sum()), before[at]))
            # No row has two more than another, unless the other has nothing more to give.
            kept, left = after[at_RC].sum(1), before[at_RC].sum(1)
            assert all(kept[i] == left[i] for i in range(len(kept)) if kept[i] < kept.max() - 1)
        mask_N = pruned_N


def test_every_row_of_a_dense_layer_keeps_the_same_share():
    scores = torch.rand(56, generator=torch.Generator().manual_seed(0))
    pruned_N = cut(torch.ones(56, dtype=torch.bool), scores, 28)
    for part, at_RC in zip(pruned_N.split(LAYOUT.sizes), ROWS, strict=True):
        assert set((2 * part[at_RC].sum(1)).tolist()) == {at_RC.shape[1]}


def test_a_row_is_what_makes_one_output_in_a_transposed_layer_too():
    model = nn.Sequential(nn.ConvTranspose1d(4, 6, 2, groups=2, bias=False))
    layout, axes = scope(model, include=["0.weight"]), transposed(model)
    scores = torch.rand(layout.size, generator=torch.Generator().manual_seed(1))
    mask_N = prune(torch.ones(layout.size, dtype=torch.bool), scores, 12, layout, "row", transposed=axes)
    weight = layout.unflatten(mask_N)["0.weight"]  # [in 4, out / groups 3, kernel 2]
    counts = weight.view(2, 2, 3, 2).sum((1, 3)).flatten()  # of each of the six outputs
    assert counts.tolist() == [2] * 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"transposed": None}, r"selection row needs transposed="),
        ({"transposed": {}, "granularity": "channel"}, "compares single weights: got granularity channel"),
    ],
)
def test_rows_need_to_be_known_and_hold_single_weights(options, message):
    with pytest.raises(PruningError, match=message):
        prune(torch.ones(56, dtype=torch.bool), torch.rand(56), 20, LAYOUT, "row", **options)


def test_nan_in_what_is_left_is_an_error():
    scores = torch.rand(56)
    scores[3] = math.nan
    with pytest.raises(PruningError, match="scores contain NaN"):
        cut(torch.ones(56, dtype=torch.bool), scores, 20)
    before_N = torch.ones(56, dtype=torch.bool)
    before_N[3] = False
    assert cut(before_N, scores, 20).sum() == 20
