"""The label-free alarm: CUSUM, survivors, drift, and whether it was right."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tombola._utils.errors import UsageError
from tombola.lab.analysis.collapse import Alarm, drift, fewest_survivors, first_alarm, survivors
from tombola.lab.analysis.cusum import ControlChart, cusum
from tombola.lab.analysis.verdict import Trial, drop, evaluate, lowest_safe_density, stop_at
from tombola.masks.layout import Layout
from tombola.masks.maskset import MaskSet

NAN = math.nan
SCOPE = Layout(("a", "b", "c"), ((40,), (30,), (50,)))
series = st.lists(st.floats(-10, 10), min_size=1, max_size=12)


# -- CUSUM --------------------------------------------------------------------------------------------


def test_the_cusum_by_hand_and_across_gaps():
    assert cusum([1, NAN, 1, -5, 3], delta=0.5).tolist() == [0.5, 0.5, 1.0, 0.0, 2.5]
    assert cusum([[1, 1], [-1, 2]], delta=1).tolist() == [[0, 0], [0, 1]]


@settings(max_examples=50, deadline=None)
@given(series, st.floats(0, 3))
def test_the_cusum_is_never_negative_and_falls_with_delta(x, delta):
    g = cusum(x, delta)
    assert (g >= 0).all()
    assert (cusum(x, delta + 1) <= g + 1e-9).all()


# -- survivors, drift, alarm --------------------------------------------------------------------------


def pruned(names, seed, keeps=((40, 25, 50), (30, 12, 20), (9, 8, 3))):
    """Masks of three rounds, each within the one before, with other counts for every ticket."""
    g = torch.Generator().manual_seed(seed)
    scores = {name: torch.rand(SCOPE.size, generator=g) for name in names}
    rounds = []
    for r, keep in enumerate(keeps):
        rows = {}
        for k, (name, score) in enumerate(scores.items()):
            parts = zip(score.split(SCOPE.sizes), keep, strict=True)
            rows[name] = torch.cat([s.argsort().argsort() < max(1, n - r * k) for s, n in parts])
        rounds.append(MaskSet(SCOPE, rows))
    return rounds


def test_the_smallest_layer_is_named_with_its_ticket():
    masks = pruned(["w", "x", "y"], 0)[2]
    assert fewest_survivors(masks) == (1, "x", "c")  # 3 − 2 · 1; y has 1 too, as the least
    assert survivors([30, 10, 9], floor=10).fired == 2
    assert survivors([30, 10, 9], floor=10).last_good == 1


def test_drift_by_hand():
    quarter = torch.tensor([[0.0, math.log(3)]])  # probabilities 1/4 and 3/4
    expected = 0.5 * math.log(4 / 3)
    assert drift(torch.zeros(1, 2), quarter, "classes") == pytest.approx(expected)
    assert drift(torch.zeros(1), quarter[:, 1], "binary") == pytest.approx(expected)
    assert drift(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 4.0]), "values") == 2.5
    both = torch.cat([torch.zeros(1, 2), quarter]), torch.cat([quarter, quarter])
    assert drift(*both, "classes") == pytest.approx(expected / 2)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["classes", "binary", "values"]), st.floats(0.01, 100))
def test_drift_is_zero_for_equal_outputs_and_never_negative(seed, kind, scale):
    g = torch.Generator().manual_seed(seed)
    now, before = (scale * torch.randn(4, 3, generator=g) for _ in range(2))
    assert drift(now, now, kind) == pytest.approx(0, abs=1e-12)
    assert drift(now, before, kind) > 0


def test_drift_refuses_what_it_cannot_compare():
    with pytest.raises(UsageError, match="one shape"):
        drift(torch.zeros(2, 3), torch.zeros(3, 3), "classes")
    with pytest.raises(UsageError, match="one shape"):
        drift(torch.zeros(0, 3), torch.zeros(0, 3), "classes")
    with pytest.raises(UsageError, match="no kind of outputs 'class'; did you mean 'classes'"):
        drift(torch.zeros(2, 3), torch.zeros(2, 3), "class")


def test_the_first_alarm_counts_and_goes_back_to_the_earliest_good_round():
    density = [0.8, 0.6, 0.4, 0.2]
    slow, fast = ControlChart("slow", (0, 1, 2, 6), 5, 0), ControlChart("fast", (0, 0, 0, 6), 5, 0)
    assert first_alarm(density, slow, fast) == Alarm(("slow", "fast"), 3, 0.2, 0, 0.8)
    assert first_alarm(density, fast, survivors([90, 5, 4, 3])) == Alarm(("smallest layer",), 1, 0.6, 0, 0.8)
    assert first_alarm(density, survivors([90, 80, 70, 60])) is None
    assert first_alarm(density, survivors([1, 1, 1, 1])) == Alarm(("smallest layer",), 0, 0.8, None, None)
    with pytest.raises(UsageError, match="4 densities"):
        first_alarm(density, survivors([1, 1]))


# -- the verdict --------------------------------------------------------------------------------------

DENSITY = (0.8, 0.6, 0.4, 0.2, 0.1)
FALLS = (0.90, 0.91, 0.90, 0.88, 0.70)  # more than two points below the best at round 3
HOLDS = (0.90, 0.91, 0.90, 0.90, 0.89)


def test_a_drop_is_more_than_so_many_points_below_the_best_before():
    assert drop(FALLS) == 3
    assert drop(FALLS, 0.05) == 4
    assert drop(HOLDS) is None
    assert drop([0.5, 0.9, 0.9]) is None


def test_every_outcome_of_an_alarm_is_counted():
    trials = [Trial(DENSITY, FALLS, alarm) for alarm in (1, 3, 4, None)]
    trials += [Trial(DENSITY, HOLDS, alarm) for alarm in (2, None, None)]
    found = evaluate(trials)
    assert (found.runs, found.drops, found.in_time, found.late, found.missed, found.false) == (
        7,
        4,
        2,
        1,
        1,
        1,
    )
    assert found.lead == pytest.approx((2 + 0 - 1) / 3)
    assert found.false_rate == pytest.approx(1 / 3)
    assert evaluate(trials[:1]).false_rate is None
    assert evaluate([]).lead is None


def test_the_lowest_safe_density_is_where_no_run_had_dropped():
    trials = [Trial(DENSITY, FALLS, 2), Trial(DENSITY, HOLDS, None)]
    assert lowest_safe_density(trials) == 0.4
    assert lowest_safe_density(trials[1:]) == 0.1
    assert stop_at(DENSITY, 0.05) is None
    assert stop_at(DENSITY, 0.4) == DENSITY.index(0.4)


def test_a_trial_that_does_not_fit_is_refused():
    for density, score, alarm in [(DENSITY, HOLDS[:2], None), (DENSITY, HOLDS, 5), ((), (), None)]:
        with pytest.raises(UsageError, match="every round"):
            Trial(density, score, alarm)
    with pytest.raises(UsageError, match="other runs"):
        lowest_safe_density([])
