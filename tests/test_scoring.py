"""Scores: a number per weight, low = prune first."""

import pytest
import torch

from tombola import scoring


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_magnitude_is_the_absolute_value_in_the_dtype_of_the_weights(dtype):
    scores = scoring.magnitude(torch.tensor([-2.0, 1.0, -0.0, 0.5], dtype=dtype))
    assert scores.dtype == dtype
    assert scores.tolist() == [2, 1, 0, 0.5]


def test_magnitude_neither_tracks_gradients_nor_changes_the_weights():
    theta_N = torch.tensor([-2.0, 1.0], requires_grad=True)
    scores = scoring.magnitude(theta_N)
    scores.zero_()
    assert not scores.requires_grad
    assert theta_N.tolist() == [-2, 1]


def test_random_scores_come_from_the_generator_alone():
    first = scoring.random(torch.zeros(100), torch.Generator().manual_seed(1))
    second = scoring.random(torch.randn(100), torch.Generator().manual_seed(1))
    other = scoring.random(torch.zeros(100), torch.Generator().manual_seed(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_random_scores_leave_the_global_generator_alone():
    state = torch.get_rng_state()
    scoring.random(torch.zeros(100), torch.Generator().manual_seed(1))
    assert torch.equal(torch.get_rng_state(), state)


def test_random_scores_are_uniform():
    scores = scoring.random(torch.zeros(100_000), torch.Generator().manual_seed(0))
    assert scores.shape == (100_000,)
    assert (scores >= 0).all()
    assert (scores < 1).all()
    counts = torch.histc(scores, bins=10, min=0, max=1)
    assert (counts - 10_000).abs().max() < 500  # five standard deviations
