"""What a Mantel test of so few names can find: its power by simulation.

Shape letters: K names, P = K (K − 1) / 2 pairs.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import norm, rankdata

from tombola._utils.errors import UsageError
from tombola.lab.analysis.named import Named
from tombola.lab.analysis.semantics import mantel


def power(
    meaning: Named,
    rho: float,
    level: float = 0.05,
    trials: int = 1000,
    permutations: int = 999,
    seed: int = 0,
) -> float:
    """The chance that `tombola.lab.analysis.semantics.align` finds an alignment of this size.

    Masks whose similarity is ``rho z + sqrt(1 − rho²) e`` on every pair: ``z`` the normal scores of the ranks
    of the meaning, ``e`` independent standard normal noise. Pairs of real masks share tickets, so their noise
    is not independent and the true power is lower.

    Args:
        meaning: similarity of the names.
        rho: the correlation that is there.
        level: of the test.
        trials: simulated sets of masks.
        permutations: of each test.
        seed: of the noise.

    Raises:
        UsageError: a correlation that is not between −1 and 1, or no trials.

    >>> near = Named.of(["cat", "dog", "car", "bus"], np.eye(4) + 0.5 - 0.5 * np.eye(4)[::-1])
    >>> power(near, 0.9, trials=5, permutations=5)  # four names: no p below 1 / 4!, and ties
    0.0
    """
    if not -1 < rho < 1 or trials < 1:
        raise UsageError(f"rho lies between -1 and 1 and trials are at least one: got {rho:g} and {trials}")
    K, pairs = len(meaning.names), meaning.pairs()
    z = norm.ppf((rankdata(pairs) - 0.5) / len(pairs))
    z = (z - z.mean()) / (z.std() or 1.0)
    noise, orders = (np.random.default_rng((seed, i)) for i in range(2))
    x_TP = rho * z + math.sqrt(1 - rho**2) * noise.normal(size=(trials, len(z)))
    return float((mantel(x_TP, pairs, K, permutations, "greater", orders) <= level).mean())
