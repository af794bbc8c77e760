"""Schedules: every target is hit exactly, and nothing is removed that was not asked for."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tombola._utils.errors import UsageError
from tombola.pruning.schedules import (
    cubic,
    explicit,
    fixed_count,
    fraction,
    geometric,
    kept,
    one_shot,
    targets,
)


@st.composite
def plans(draw):
    size = draw(st.integers(1, 3000))
    return size, draw(st.lists(st.integers(1, size), min_size=1, max_size=5))


schedules = st.one_of(
    st.just(one_shot()),
    st.builds(fraction, st.floats(0.01, 0.99)),
    st.builds(fixed_count, st.integers(1, 4000)),
    st.builds(cubic, st.integers(1, 40)),
    st.builds(geometric, st.integers(1, 40)),
    st.lists(st.floats(0, 0.999), min_size=1, max_size=5).map(lambda s: explicit(*s)),
)


@settings(max_examples=150, deadline=None)
@given(plans(), schedules)
def test_every_target_is_hit_and_counts_fall_strictly_to_the_last(plan, schedule):
    size, wanted = plan
    counts = schedule(size, wanted)
    assert set(wanted) <= set(counts)
    assert all(a > b for a, b in itertools.pairwise(counts))
    assert counts[-1] == min(wanted)
    assert counts[0] <= size
    assert all(type(count) is int for count in counts)


@settings(max_examples=100, deadline=None)
@given(plans(), st.floats(0.01, 0.99))
def test_fraction_removes_its_share_of_what_is_left_or_lands_on_a_target(plan, p):
    size, wanted = plan
    left = size
    for count in fraction(p)(size, wanted):
        asked = left - max(1, round(p * left))
        crossed = [t for t in wanted if asked < t < left]
        assert count == max(crossed, default=asked) or (count == left == size and size in wanted)
        left = count


@settings(max_examples=100, deadline=None)
@given(plans(), st.integers(1, 4000))
def test_fixed_count_removes_its_number_or_lands_on_a_target(plan, n):
    size, wanted = plan
    left = size
    for count in fixed_count(n)(size, wanted):
        crossed = [t for t in wanted if left - n < t < left]
        assert count == max(crossed, default=left - n) or (count == left == size and size in wanted)
        left = count


def test_the_first_removal_is_as_asked():
    assert fraction(0.2)(1000, [100])[0] == 800
    assert fixed_count(4096)(125_832, [31_458])[0] == 125_832 - 4096
    assert explicit(0.1, 0.4)(1000, [100])[0] == 900


def test_a_fraction_of_few_weights_still_removes_one():
    assert fraction(0.1)(4, [1]) == (3, 2, 1)


@pytest.mark.parametrize(
    "schedule", [one_shot(), fraction(0.5), fixed_count(30), cubic(4), geometric(4), explicit(0.2)]
)
def test_the_dense_target_is_hit_alone_and_among_others(schedule):
    assert schedule(100, [100])[0] == 100
    assert {100, 50} <= set(schedule(100, [100, 50]))


def test_cubic_is_the_curve_of_zhu_and_gupta_in_counts():
    sparsities = [0.8 + (0 - 0.8) * (1 - t / 10) ** 3 for t in range(1, 11)]
    assert cubic(10)(10_000, [2000]) == tuple(round(10_000 * (1 - s)) for s in sparsities)


def test_geometric_keeps_the_same_share_in_every_round():
    counts = geometric(7)(10**6, [10_000])
    assert len(counts) == 7
    before = (10**6, *counts)
    assert all(abs(b / a - 0.01 ** (1 / 7)) < 1e-3 for a, b in itertools.pairwise(before))


@pytest.mark.parametrize("course", [cubic, geometric])
def test_one_round_of_a_course_is_one_shot(course):
    assert course(1)(1000, [300]) == (300,)


@pytest.mark.parametrize("course", [cubic, geometric])
def test_a_target_on_the_way_adds_a_round_and_moves_none(course):
    assert set(course(5)(1000, [777, 100])) == {777, *course(5)(1000, [100])}


@pytest.mark.parametrize("course", [cubic, geometric])
def test_more_rounds_than_weights_drop_those_that_would_remove_nothing(course):
    assert set(course(50)(4, [2])) <= {3, 2}


@pytest.mark.parametrize("course", [cubic, geometric])
def test_a_course_needs_a_round(course):
    with pytest.raises(UsageError, match="at least 1: got 0"):
        course(0)


def test_explicit_adds_the_targets_and_stops_at_the_last():
    assert explicit(0.1, 0.5, 0.9)(100, [70, 30]) == (90, 70, 50, 30)


def test_order_and_repeats_of_targets_do_not_matter():
    assert targets(100, [25, 75, 25, 50]) == (75, 50, 25)
    assert fixed_count(30)(100, [25, 50, 25]) == fixed_count(30)(100, [50, 25])


@pytest.mark.parametrize("schedule", [one_shot(), fraction(0.5), fixed_count(3), cubic(3), explicit(0.5)])
@pytest.mark.parametrize("wanted", [[], [0], [11], [-1], [5, 0], [5, 11]])
def test_targets_outside_the_weights_are_refused(schedule, wanted):
    with pytest.raises(UsageError, match="between 1 and 10"):
        schedule(10, wanted)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 10**7), st.floats(0, 1, exclude_max=True))
def test_kept_rounds_the_removed_weights(size, sparsity):
    removed = size - kept(size, sparsity)
    assert abs(removed - sparsity * size) <= 0.5
    assert 0 <= removed <= size


def test_kept_of_round_numbers_is_exact():
    assert [kept(125_832, s) for s in (0, 0.25, 0.5, 0.75)] == [125_832, 94_374, 62_916, 31_458]


@pytest.mark.parametrize("sparsity", [-0.1, 1, 1.5, 25, float("nan")])
def test_a_sparsity_outside_its_range_is_refused_before_anything_runs(sparsity):
    with pytest.raises(UsageError, match=r"\[0, 1\)"):
        kept(100, sparsity)
    with pytest.raises(UsageError, match=r"\[0, 1\)"):
        explicit(0.5, sparsity)


@pytest.mark.parametrize("p", [0, 1, -0.1, 20, float("nan")])
def test_a_fraction_outside_its_range_is_refused(p):
    with pytest.raises(UsageError, match=r"\(0, 1\)"):
        fraction(p)


@pytest.mark.parametrize("n", [0, -1])
def test_a_count_below_one_is_refused(n):
    with pytest.raises(UsageError, match="at least 1"):
        fixed_count(n)


def test_a_sparsity_in_percent_is_told_as_a_share():
    with pytest.raises(UsageError, match=r"in \[0, 1\): got 75; 75% is 0\.75"):
        kept(100, 75)
