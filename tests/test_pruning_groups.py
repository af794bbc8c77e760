"""Granularity: channels and blocks, in every kind of layer."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call

from tombola._utils.errors import LayerCollapse, PruningError
from tombola.lab.models.speech_unet import SpeechUNet
from tombola.masks.layout import Layout
from tombola.masks.prunable import scope
from tombola.pruning import SELECTIONS, keep_whole, prune, transposed
from tombola.pruning.granularity import Block, Channel, members, parse

OF_LAYERS = [selection for selection in SELECTIONS if selection != "row"]  # rows are of single weights
few = st.sampled_from([-1.0, 0.0, 1.0, 2.0])  # heavy ties
PAIR = Layout(("wide", "narrow"), ((3, 8), (4, 2)))  # channels of 8 and of 2 weights
LAYERS = [
    (nn.Linear(6, 4), (6,)),
    (nn.Conv2d(4, 6, 3, groups=2), (4, 5, 5)),
    (nn.Conv1d(4, 4, 3, groups=4), (4, 7)),
    (nn.ConvTranspose2d(4, 6, 3), (4, 3, 3)),
    (nn.ConvTranspose2d(4, 6, 3, groups=2), (4, 3, 3)),
    (nn.ConvTranspose1d(6, 6, 2, groups=3), (6, 4)),
]


def ones(layout):
    return torch.ones(layout.size, dtype=torch.bool)


def counts(mask_N, layout):
    return [int(part.sum()) for part in mask_N.split(layout.sizes)]


def draws(size, seed=0):
    return torch.rand(size, generator=torch.Generator().manual_seed(seed))


# -- channels ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=str)
def test_a_pruned_channel_is_an_output_that_is_always_zero(layer, shape):
    model = nn.Sequential(layer)
    layout = scope(model, include=["0.weight"])
    channels = layer.bias.numel()
    keep = layout.size // channels * 2
    axes = transposed(model)
    mask_N = prune(ones(layout), draws(layout.size), keep, layout, granularity="channel", transposed=axes)
    weight = layout.unflatten((draws(layout.size, 1) + 0.5) * mask_N)
    y = functional_call(model, {**weight, "0.bias": torch.zeros(channels)}, draws((1, *shape), 2) + 0.5)
    active = y.reshape(channels, -1).abs().sum(1) > 0
    assert mask_N.sum() == keep
    assert active.sum() == 2


def test_the_channels_with_the_largest_sums_stay():
    layout, scores = Layout(("w",), ((3, 2),)), torch.tensor([9.0, 0, 4, 4, 5, 5])
    mask_N = prune(ones(layout), scores, 4, layout, granularity="channel", transposed={})
    assert mask_N.tolist() == [True, True, False, False, True, True]
    mask_N = prune(ones(layout), scores, 4, layout, granularity="channel", transposed={"w": 1})
    assert counts(mask_N, layout) == [3]  # stored [in, out]: two channels of three, four weights hold one
    assert mask_N.tolist() == [True, False] * 3


def test_across_layers_groups_are_compared_by_the_mean():
    scores = torch.cat([torch.full((24,), 1.0), torch.full((8,), 3.0)])  # sums 8 and 6, means 1 and 3
    mask_N = prune(ones(PAIR), scores, 16, PAIR, granularity="channel", transposed={})
    assert counts(mask_N, PAIR) == [8, 8]


def test_of_equal_channels_the_first_are_pruned():
    layout = Layout(("w",), ((4, 3),))
    mask_N = prune(ones(layout), torch.ones(12), 6, layout, granularity="channel", transposed={})
    assert mask_N.tolist() == [False] * 6 + [True] * 6


def test_weights_pruned_before_count_neither_in_score_nor_in_number():
    layout = Layout(("w",), ((3, 2),))
    before_N = torch.tensor([True, False, True, True, False, False])
    scores = torch.tensor([3.0, 99, 2, 2, math.nan, 99])
    mask_N = prune(before_N, scores, 2, layout, granularity="channel", transposed={})
    assert mask_N.tolist() == [True, False, False, False, False, False]  # mean 3 first; the pair does not fit
    mask_N = prune(before_N, scores, 3, layout, granularity="channel", transposed={})
    assert torch.equal(mask_N, before_N)


# -- counts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("granularity", ["channel", "block:1x2", "block:2x1"])
@pytest.mark.parametrize("selection", OF_LAYERS)
@settings(max_examples=20, deadline=None)
@given(st.data())
def test_groups_stay_whole_and_the_count_falls_short_by_less_than_a_group(selection, granularity, data):
    layout = Layout(("conv", "up", "linear"), ((4, 2, 3), (2, 4, 1), (6, 4)))
    scores = torch.tensor(data.draw(st.lists(few, min_size=layout.size, max_size=layout.size)))
    at, largest = members(parse(granularity), layout, {"up": 1}), 6 if granularity == "channel" else 2
    mask_N, floor = ones(layout), data.draw(st.integers(0, 1))
    for keep in sorted(data.draw(st.lists(st.integers(3 * largest, layout.size), max_size=3)), reverse=True):
        options = {"granularity": granularity, "transposed": {"up": 1}, "floor": floor}
        pruned_N = prune(mask_N, scores, keep, layout, selection, True, **options)
        assert min(keep, mask_N.sum()) - largest < pruned_N.sum() <= keep
        assert not (pruned_N & ~mask_N).any()
        assert torch.equal(prune(mask_N, scores, keep, layout, selection, True, **options), pruned_N)
        for part, at_Us in zip(pruned_N.split(layout.sizes), at, strict=True):
            assert part[at_Us].all(1).logical_or(~part[at_Us].any(1)).all()
            assert not floor or part.any()
        mask_N = pruned_N


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(few, st.integers(0, 5)), max_size=20), st.integers(0, 60))
def test_keep_whole_takes_from_the_best_down_until_one_does_not_fit(groups, budget):
    scores, sizes = (
        torch.tensor([s for s, _ in groups]),
        torch.tensor([n for _, n in groups], dtype=torch.int64),
    )
    left, kept = budget, set()
    for i in sorted(range(len(groups)), key=lambda i: (-groups[i][0], -i)):
        if not groups[i][1]:
            continue
        if groups[i][1] > left:
            break
        left -= groups[i][1]
        kept.add(i)
    assert keep_whole(scores, sizes, budget).tolist() == [i in kept for i in range(len(groups))]


def test_in_groups_what_fills_none_goes_to_the_layer_that_misses_most_of_one():
    # The shares of 20 of 32 are 15 and 5: one channel of 8 and 7/8 of one, two channels of 2 and 1/2 of one.
    # The 7 + 1 weights that fill no channel make one more of 8.
    mask_N = prune(ones(PAIR), draws(32), 20, PAIR, "layer", granularity="channel", transposed={})
    assert counts(mask_N, PAIR) == [16, 4]


def test_channels_of_the_unet_are_counted_over_both_kinds_of_layer():
    model = SpeechUNet()
    layout = scope(model)
    axes = transposed(model)
    assert axes
    for selection in OF_LAYERS:
        options = {"granularity": "channel", "transposed": axes, "floor": 1}
        mask_N = prune(ones(layout), draws(layout.size), layout.size // 2, layout, selection, **options)
        for name, part in layout.unflatten(mask_N).items():
            rows = part.transpose(0, 1) if name in axes else part
            assert torch.equal(rows.flatten(1).any(1), rows.flatten(1).all(1))
            assert part.any()


def test_a_round_that_asks_for_more_than_whole_groups_have_left_prunes_nothing():
    layout = Layout(("w",), ((3, 8),))
    options = {"granularity": "channel", "transposed": {}}
    mask_N = prune(ones(layout), draws(24), 23, layout, **options)
    assert mask_N.sum() == 16
    assert torch.equal(prune(mask_N, draws(24), 22, layout, **options), mask_N)
    with pytest.raises(PruningError, match="cannot keep 25 of 16"):
        prune(mask_N, draws(24), 25, layout, **options)


def test_an_emptied_layer_is_a_collapse_and_a_floor_keeps_a_channel():
    scores = torch.cat([torch.zeros(24), torch.ones(8)])
    with pytest.raises(LayerCollapse, match="empties wide"):
        prune(ones(PAIR), scores, 8, PAIR, granularity="channel", transposed={})
    mask_N = prune(ones(PAIR), scores, 12, PAIR, granularity="channel", transposed={}, floor=1)
    assert counts(mask_N, PAIR) == [8, 4]


# -- where groups lie ---------------------------------------------------------------------------------


def test_blocks_are_tiles_of_the_matrix_row_by_row():
    at = members(Block(2, 3), Layout(("w",), ((4, 2, 3),)), {})[0]
    assert at.tolist() == [
        [0, 1, 2, 6, 7, 8],
        [3, 4, 5, 9, 10, 11],
        [12, 13, 14, 18, 19, 20],
        [15, 16, 17, 21, 22, 23],
    ]


def test_channels_of_a_grouped_transposed_convolution_are_those_of_its_outputs():
    at = members(Channel(), Layout(("up",), ((4, 2),)), {"up": 2})[0]  # [in 4, out 2 a group]
    assert at.tolist() == [[0, 2], [1, 3], [4, 6], [5, 7]]


# -- errors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "keep", "message"),
    [
        ({"granularity": "2:4"}, 16, r"narrow: its 2 weights along the row axis are no multiple of 4"),
        ({"granularity": "2:4/output"}, 16, r"wide: its 3 weights along the output axis"),
        (
            {"granularity": "1:2"},
            20,
            r"1:2 keeps 16 of 32 .*got 20; ask for sparsity 0\.5 and schedule one_shot",
        ),
        ({"granularity": "block:2x2"}, 16, r"wide: its matrix is 3x8, which 2x2 does not divide; exclude it"),
        (
            {"granularity": "channel", "transposed": None},
            16,
            r"transposed=tombola\.pruning\.transposed\(model\)",
        ),
    ],
)
def test_what_does_not_fit_is_named(options, keep, message):
    with pytest.raises(PruningError, match=message):
        prune(ones(PAIR), draws(32), keep, PAIR, **{"transposed": {}, **options})


@pytest.mark.parametrize("granularity", ["channel", "2:4"])
def test_nan_is_an_error_in_groups_too(granularity):
    scores = torch.tensor([1.0, math.nan, 2, 3, 4, 5, 6, 7])
    with pytest.raises(PruningError, match="NaN"):
        prune(
            torch.ones(8, dtype=torch.bool),
            scores,
            4,
            Layout(("w",), ((2, 4),)),
            granularity=granularity,
            transposed={},
        )


def test_biases_and_empty_layers_in_scope_are_channels_of_one_weight_or_none():
    layout = Layout(("bias", "none", "w"), ((3,), (0, 2), (2, 2)))
    mask_N = prune(ones(layout), torch.arange(7.0), 5, layout, granularity="channel", transposed={})
    assert mask_N.tolist() == [False, False, True, True, True, True, True]
