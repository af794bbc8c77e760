"""Early-Bird: the distance by hand, and when a training ends."""

import itertools
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tombola.masks.layout import Layout
from tombola.training.callbacks.early_bird import StandStill, distance, units_of
from tombola.training.callbacks.rules import EarlyBird

LAYOUT = Layout(("w",), ((4, 2),))


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 40), st.data())
def test_the_distance_of_equally_large_masks_runs_from_0_to_1(size, data):
    keep = data.draw(st.integers(1, size - 1))
    order = st.permutations(range(size))
    a, b = (torch.tensor([i < keep for i in data.draw(order)]) for _ in range(2))
    assert distance(a, a) == 0
    assert distance(a, b) == distance(b, a) == distance(~a, ~b)
    assert 0 <= distance(a, b) <= 1
    assert distance(a, b) == int((a ^ b).sum()) / (2 * min(keep, size - keep))
    opposite = a.flip(0) if 2 * keep <= size and not (a & a.flip(0)).any() else None
    assert opposite is None or distance(a, opposite) == 1


def test_full_and_empty_masks_do_not_differ():
    assert distance(torch.ones(3, dtype=torch.bool), torch.ones(3, dtype=torch.bool)) == 0


def test_channels_count_as_one_however_much_is_left_of_them():
    mask_N = torch.tensor([True, False, False, False, True, True, False, False])
    assert units_of(mask_N, LAYOUT, "channel", {}).tolist() == [True, False, True, False]
    assert torch.equal(units_of(mask_N, LAYOUT, "weight", {}), mask_N)


def ends_after(masks, rule, T=400, epoch=5):
    """The step at which a training ends that draws these masks, then two in turn; and what it tells."""
    drawn = itertools.chain(masks, itertools.cycle([A, B]))
    problem = SimpleNamespace(batches=lambda k: epoch, f=SimpleNamespace(module=nn.Linear(1, 1)))
    context = SimpleNamespace(problem=problem, k=0, scope=LAYOUT)
    callback = StandStill(rule, context, lambda: next(drawn), "weight", T)
    for step in range(1, T + 1):
        if callback(step, None, None):
            return step, callback.metadata()
    return None, callback.metadata()


A, B, C = (torch.tensor([c == "1" for c in text]) for text in ("11110000", "00001111", "11101000"))


@pytest.mark.parametrize(
    ("masks", "patience", "end"),
    [
        ([A, A], 1, 10),
        ([A, A, A], 2, 15),
        ([A, B, B, B], 2, 20),
        ([A, C, A, A, A], 2, 25),  # 1 in 4 differs: 0.25 is not below 0.2
        ([A, A, B, B, A, A, B, B], 2, None),
    ],
)
def test_it_ends_when_as_many_distances_in_a_row_are_small(masks, patience, end):
    found, metadata = ends_after(masks, EarlyBird(0.2, patience))
    assert found == end
    assert metadata["steps"] == (end or 400)
    assert metadata["saved"] == pytest.approx(1 - metadata["steps"] / 400)
    assert len(metadata["distances"]) == metadata["steps"] // 5 - 1


@pytest.mark.parametrize(
    ("rule", "options", "end"),
    [
        (EarlyBird(0.2, 1, every=3), {}, 6),
        (EarlyBird(0.2, 1), {"T": 40}, 4),  # fewer than twenty epochs: after every twentieth of the steps
        (EarlyBird(0.2, 1), {"T": 10}, 2),
        (EarlyBird(0.2, 1), {"epoch": 7}, 14),
    ],
)
def test_masks_are_drawn_after_every_epoch_or_oftener(rule, options, end):
    assert ends_after([A, A], rule, **options)[0] == end
