"""Counting bits selects what quickselect does: the same masks, the same errors."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tombola._utils import native
from tombola._utils.errors import PruningError
from tombola._utils.native import threads
from tombola.pruning import keep_top, radix

pytestmark = pytest.mark.skipif(native.load() is None, reason="no C compiler here")
BOTH = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
TINY = 5e-324  # the smallest float64; zero as a float32
any_score = st.one_of(
    st.sampled_from([-math.inf, -1.0, -TINY, -0.0, 0.0, TINY, 1e-45, 1.0, math.inf]),
    st.floats(allow_nan=False),
)


@pytest.fixture(autouse=True, scope="module")
def _three_threads_from_one_score_on():
    before = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        from_scores(patch, 1)
        patch.setattr(radix, "_PER_THREAD", 2)
        torch.set_num_threads(3)
        yield
    torch.set_num_threads(before)


def from_scores(patch, smallest):
    for name in ("SMALLEST", "SMALLEST_MASKED"):
        patch.setattr(radix, name, smallest)


def agree(scores, keep, eligible=None):
    """A sample, counts of digits and quickselect give the same mask, or raise in the same words."""
    found = []
    for side in ("sample", "digits", "quickselect"):
        with pytest.MonkeyPatch.context() as patch:
            from_scores(patch, 1 << 60 if side == "quickselect" else 1)
            if side == "digits":
                patch.setattr(radix.Keys, "_between", lambda keys, rank: None)
            assert (radix.Keys.of(scores, eligible, keep) is None) == (side == "quickselect")
            try:
                found.append(keep_top(scores, keep, eligible).tolist())
            except PruningError as error:
                found.append(str(error))
    assert found[0] == found[1] == found[2]


def test_the_threshold_is_found_in_a_sample_or_else_by_digits(monkeypatch):
    kinds = []
    digits = radix.Keys._by_digits
    monkeypatch.setattr(radix.Keys, "_by_digits", lambda *a: kinds.append("digits") or digits(*a))
    scores = torch.rand(50_000, generator=torch.Generator().manual_seed(0))
    keep_top(scores, 20_000)
    assert kinds == []
    keep_top(scores.round(), 20_000)  # half of them are zeros: too many for a sample
    assert kinds == ["digits"]
    monkeypatch.setattr(radix.Keys, "_bracket", lambda *a: (0, 1))  # a sample that was out of luck
    agree(scores, 20_000)
    assert kinds.count("digits") > 1


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(any_score, st.booleans()), min_size=1, max_size=40), st.data())
def test_the_masks_are_those_of_quickselect(pairs, data):
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]))
    scores = torch.tensor([score for score, _ in pairs], dtype=torch.float64).to(dtype)
    eligible = torch.tensor([ok for _, ok in pairs]) if data.draw(st.booleans()) else None
    agree(scores, data.draw(st.integers(0, len(pairs) + 1)), eligible)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_any_bits_that_are_no_nan_are_ordered(data):
    words = data.draw(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=30))
    scores = torch.tensor(words, dtype=torch.int32).view(torch.float32)
    agree(scores, data.draw(st.integers(0, len(words))))  # where there is a NaN, both say so


@BOTH
@pytest.mark.parametrize("kind", ["continuous", "few values", "half zero", "all equal", "close together"])
@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
@pytest.mark.parametrize("masked", [False, True])
def test_blocks_parts_and_ties(kind, dtype, share, masked):
    random, N = torch.Generator().manual_seed(0), 20_011  # neither whole blocks nor equal parts
    scores = torch.randn(N, generator=random, dtype=dtype)
    some = torch.rand(N, generator=random) < 0.5
    scores = {
        "continuous": scores,
        "few values": scores.mul(2).round(),
        "half zero": scores.abs() * some,
        "all equal": torch.full_like(scores, 0.1),
        "close together": 1 + scores.mul(9).round() * torch.finfo(dtype).eps,
    }[kind]
    eligible = torch.rand(N, generator=random) < 0.7 if masked else None
    agree(scores, int(share * (N if eligible is None else int(eligible.sum()))), eligible)


@BOTH
def test_nan_counts_among_the_eligible_only(dtype):
    scores, eligible = torch.arange(9.0, dtype=dtype), torch.arange(9) % 2 == 0
    scores[1], scores[3] = math.nan, -math.nan
    agree(scores, 3, eligible)
    agree(scores, 3)
    agree(scores, 6, eligible)  # one too many


def test_in_parts_of_memory_only_the_scores_given_are_read():
    scores = torch.rand(4000)
    agree(scores[7:3001], 1000, (scores < 0.5)[7:3001])
    assert radix.Keys.of(scores[::2], None, 1) is None


def test_parts_cover_the_range_once():
    spans = {}
    threads.in_parts(1000, 1, lambda part, start, end: spans.update({part: (start, end)}))
    assert sorted(spans) == [0, 1, 2]
    assert [i for part in range(3) for i in range(*spans[part])] == list(range(1000))
