"""The label-free alarm: CUSUM, null trajectories, survivors, drift, and whether it was right."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tombola.analysis.collapse import Alarm, drift, fewest_survivors, first_alarm, survivors
from tombola.analysis.cusum import Reference, Watch, cusum, falls
from tombola.analysis.null import null_trajectories
from tombola.analysis.similarity import specialisation
from tombola.analysis.verdict import (
    Trial,
    against_fixed_density,
    drop,
    evaluate,
    lowest_safe_density,
    stop_at,
)
from tombola.errors import MaskError, UnknownTicket, UsageError
from tombola.layout import Layout
from tombola.masks import MaskSet

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


@settings(max_examples=50, deadline=None)
@given(series)
def test_falls_add_up_to_the_whole_fall(x):
    assert np.nansum(falls(x)) == pytest.approx(x[0] - x[-1], abs=1e-9)


def by_hand(**options):
    null = [[1, 1, 1], [3, 3, 3], [2, 2, 5], [4, 2, 2]]  # centre 2 and scale 1, then peaks 2.5 and 1.5
    return Reference.of(null, "level", false_alarms=0.5, **options)


def test_the_reference_by_hand():
    reference = by_hand()
    assert (reference.center_R, reference.scale_R) == ((2, 2, 2), (1, 1, 1))
    assert reference.h == 2.5
    watch = reference.watch("drift", [2, 5, 4])  # x = 0, 3, 2
    assert watch.value_R == (0, 2.5, 4)
    assert (watch.fired, watch.last_good) == (2, 0)
    assert reference.watch("drift", [2, 5]).fired is None
    assert by_hand(delta=1).h == 2


def test_a_round_in_which_the_null_does_not_vary_or_exist_tells_nothing():
    null = np.random.default_rng(0).normal(size=(100, 5))
    null[:, 1], null[:, 2] = 3, NAN
    watch = Reference.of(null, "level").watch("drift", [0, 9, 9, 0, 0])
    assert watch.fired is None
    assert watch.value_R[1] == watch.value_R[2] == watch.value_R[0]


def test_a_null_run_fires_as_often_as_was_asked_for():
    # Walks: their falls are independent. Heavy tails, and a scale and drift that change over rounds.
    rng = np.random.default_rng(0)

    def runs(count):
        steps = rng.standard_t(3, size=(count, 15)) * np.linspace(0.1, 2, 15) + np.linspace(1, 0, 15)
        return steps.cumsum(1)

    rates = []
    for _ in range(10):
        reference = Reference.of(runs(200), false_alarms=0.1)
        rates.append(np.mean([reference.watch("s", run).fired is not None for run in runs(100)]))
    assert 0.05 < np.mean(rates) < 0.13


def test_a_lasting_fall_is_found_and_its_beginning_too():
    rng = np.random.default_rng(1)
    healthy = rng.normal(size=(200, 20)) * 0.01
    reference = Reference.of(healthy)
    run = 0.3 + rng.normal(size=20) * 0.01
    run[12:] -= 0.03 * np.arange(1, 9)
    watch = reference.watch("specialisation", run)
    assert watch.fired in (13, 14, 15)
    assert watch.last_good in (10, 11, 12)
    assert reference.watch("specialisation", 0.6 - run).fired is None  # a rise is none


@pytest.mark.parametrize(
    ("message", "null", "options"),
    [
        ("matrix", np.zeros(5), {}),
        ("three rounds", np.zeros((50, 2)), {}),
        ("needs 38 null trajectories: got 37", np.zeros((37, 5)), {}),
        ("needs 198", np.zeros((37, 5)), {"false_alarms": 0.01}),
        ("do not differ", np.zeros((50, 5)), {}),
        ("lies in", np.zeros((50, 5)), {"false_alarms": 0}),
        ("no way to watch a series 'fell'; did you mean 'fall'", np.zeros((50, 5)), {"watched": "fell"}),
    ],
)
def test_null_trajectories_that_do_not_serve_are_refused(message, null, options):
    with pytest.raises(UsageError, match=message):
        Reference.of(null, **options)


def test_a_series_longer_than_its_null_is_refused():
    with pytest.raises(UsageError, match="drift has shape"):
        by_hand().watch("drift", [1, 2, 3, 4])


# -- null trajectories --------------------------------------------------------------------------------


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


def direct(rounds, twins, seed, m, layers=None):
    """One trajectory the long way: draw the masks, and compare them as masks."""
    of_round = []
    for r in range(len(rounds)):
        rows = {name: [] for name in range(len(rounds[0]) + len(twins[0]))}
        for layer, size in enumerate(SCOPE.sizes):
            rng = np.random.default_rng((seed, m, layer))
            for row in rows:
                counts = [size]
                for masks, doubles in zip(rounds, twins, strict=True):
                    both = torch.cat([masks.masks_KN, doubles.masks_KN])[row]
                    counts.append(int(both.split(SCOPE.sizes)[layer].sum()))
                counts.append(0)
                ends = [t for t in range(len(rounds) + 1) for _ in range(counts[t] - counts[t + 1])]
                rows[row].append(torch.from_numpy(rng.permutation(ends) > r))
        drawn = torch.stack([torch.cat(parts) for parts in rows.values()])
        K = len(rounds[0])
        masks = MaskSet.stacked(SCOPE, rounds[0].names, drawn[:K])
        of_round.append(specialisation(masks, MaskSet.stacked(SCOPE, twins[0].names, drawn[K:]), layers))
    return of_round


@pytest.mark.parametrize(("twinned", "layers"), [(["y", "w"], None), (["x"], ["b", "c"])])
def test_trajectories_are_those_of_masks_drawn_and_compared_one_by_one(twinned, layers):
    rounds, twins = pruned(["w", "x", "y"], 0), pruned(twinned, 1)
    found = null_trajectories(rounds, twins, 3, seed=7, layers=layers)
    assert found.shape == (3, 3)
    for m in range(3):
        assert found[m].tolist() == pytest.approx(direct(rounds, twins, 7, m, layers))
    again = null_trajectories(rounds, twins, 1, seed=7, layers=layers)
    assert np.array_equal(again, found[:1])


def test_trajectories_are_zero_on_average_and_fire_as_often_as_asked_for():
    rounds, twins = pruned(["w", "x", "y"], 0), pruned(["w"], 1)
    null = null_trajectories(rounds, twins, 300)
    assert np.abs(null.mean(0)).max() < 3 * null.std(0).max() / math.sqrt(300)
    reference = Reference.of(null[:200], false_alarms=0.2)
    fired = [reference.watch("s", run).fired is not None for run in null[200:]]
    assert 0.05 < np.mean(fired) < 0.35


def test_masks_that_make_no_trajectory_are_refused():
    rounds, twins = pruned(["w", "x"], 0), pruned(["w"], 1)
    with pytest.raises(UsageError, match="as many rounds of twins: got 2"):
        null_trajectories(rounds, twins[:2])
    with pytest.raises(MaskError, match="in order"):
        null_trajectories(rounds[::-1], twins[::-1])
    with pytest.raises(MaskError, match="same in every round"):
        null_trajectories([*rounds[:2], rounds[2].select(["w"])], twins)
    with pytest.raises(UnknownTicket):
        null_trajectories(rounds, pruned(["z"], 1))
    with pytest.raises(MaskError, match="not all among a, b, c"):
        null_trajectories(rounds, twins, layers=["a", "d"])
    with pytest.raises(UsageError, match="at least one"):
        null_trajectories(rounds, twins, 0)


# -- survivors, drift, alarm --------------------------------------------------------------------------


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
    slow, fast = Watch("slow", (0, 1, 2, 6), 5, 0), Watch("fast", (0, 0, 0, 6), 5, 0)
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


def test_stopping_at_a_density_is_judged_like_the_alarm():
    trials = [Trial(DENSITY, FALLS, 2), Trial(DENSITY, HOLDS, None)]
    assert lowest_safe_density(trials) == 0.4
    assert lowest_safe_density(trials[1:]) == 0.1
    assert stop_at(DENSITY, 0.05) is None
    found = against_fixed_density(trials, 0.4)
    assert list(found) == ["alarm", "stop at 0.4"]
    assert (found["alarm"].in_time, found["alarm"].false, found["alarm"].lead) == (1, 0, 1)
    assert (found["stop at 0.4"].in_time, found["stop at 0.4"].false) == (1, 1)


def test_a_trial_that_does_not_fit_is_refused():
    for density, score, alarm in [(DENSITY, HOLDS[:2], None), (DENSITY, HOLDS, 5), ((), (), None)]:
        with pytest.raises(UsageError, match="every round"):
            Trial(density, score, alarm)
    with pytest.raises(UsageError, match="other runs"):
        lowest_safe_density([])
