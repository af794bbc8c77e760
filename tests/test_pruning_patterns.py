"""N:M patterns: of every M consecutive weights the best N, along every axis, in every kind of layer."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tombola._utils.errors import PruningError
from tombola.masks.layout import Layout
from tombola.masks.prunable import scope
from tombola.pruning import prune, transposed

few = st.sampled_from([-1.0, 0.0, 1.0, 2.0])  # heavy ties


def ones(layout):
    return torch.ones(layout.size, dtype=torch.bool)


def draws(size):
    return torch.rand(size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("text", ["1:2", "2:4", "1:4", "3:4", "4:8"])
@settings(max_examples=20, deadline=None)
@given(st.data())
def test_a_pattern_keeps_the_best_of_every_window(text, data):
    n, m = map(int, text.split(":"))
    layout = Layout(("a", "b"), ((2, m), (3, 2, m)))
    scores = torch.tensor(data.draw(st.lists(few, min_size=layout.size, max_size=layout.size)))
    keep = layout.size * n // m
    mask_N = prune(ones(layout), scores, keep, layout, granularity=text, transposed={})
    assert mask_N.sum() == keep
    for window, values in zip(mask_N.view(-1, m).tolist(), scores.view(-1, m).tolist(), strict=True):
        best = sorted(range(m), key=lambda i: (values[i], i))[m - n :]  # of equal ones the later
        assert [i for i in range(m) if window[i]] == sorted(best)
    assert torch.equal(prune(mask_N, scores, keep, layout, granularity=text, transposed={}), mask_N)


@pytest.mark.parametrize(("along", "axis"), [("row", None), ("input", 1), ("output", 0)])
@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
def test_a_pattern_runs_along_the_axis_that_is_asked_for(kind, along, axis):
    model = nn.Sequential(kind(8, 4, 3))
    layout = scope(model)
    options = {"granularity": f"2:4/{along}", "transposed": transposed(model)}
    mask = prune(ones(layout), draws(layout.size), layout.size // 2, layout, **options).view(layout.shapes[0])
    mask = mask if kind is nn.Conv2d else mask.transpose(0, 1)
    lines = mask.flatten(1) if axis is None else mask.movedim(axis, -1)
    assert (lines.reshape(-1, 4).sum(1) == 2).all()


def test_patterns_nest_from_looser_to_tighter():
    layout, scores = Layout(("w",), ((4, 8),)), draws(32)
    loose_N = prune(ones(layout), scores, 24, layout, granularity="3:4", transposed={})
    tight_N = prune(loose_N, -scores, 16, layout, granularity="2:4", transposed={})
    assert tight_N.sum() == 16
    assert not (tight_N & ~loose_N).any()
    assert torch.equal(
        prune(ones(layout), scores, 32, layout, granularity="2:4", transposed={}), ones(layout)
    )


def test_a_pattern_needs_enough_weights_left_in_every_window():
    layout, before_N = Layout(("w",), ((2, 4),)), torch.tensor([True] * 5 + [False] * 3)
    with pytest.raises(PruningError, match="w: earlier rounds left fewer than 2:4 in places"):
        prune(before_N, draws(8), 4, layout, granularity="2:4", transposed={})
