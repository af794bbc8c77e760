"""Prior shift: a ticket trained on as many positives as negatives meets one positive in ten.

Shape letters: S samples, K tickets.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tombola._utils.errors import CalibrationError


def log_odds(p: Tensor) -> Tensor:
    """``log p − log(1 − p)``, finite: p is kept a hair within 0 and 1."""
    p = p.double().clamp(1e-12, 1 - 1e-12)
    return p.log() - (-p).log1p()


def shifted(logits_SK: Tensor, deployed_K: Tensor, trained_K: Tensor | float = 0.5) -> Tensor:
    """Log-odds under another prior: ``+ log(π / (1 − π)) − log(π_train / (1 − π_train))`` (Bayes' rule).

    At a prior of one in ten, what was trained at one half loses log 9 = 2.197.

    >>> round(float(shifted(torch.zeros(1, 1), torch.tensor([0.1]))), 3)
    -2.197
    """
    deployed_K = _prior(deployed_K)
    trained_K = _prior(torch.as_tensor(trained_K, dtype=torch.double).expand_as(deployed_K))
    return logits_SK.double() + log_odds(deployed_K) - log_odds(trained_K)


def estimated(p_SK: Tensor, trained_K: Tensor | float = 0.5, rounds: int = 1000) -> Tensor:
    """The prior of unlabelled samples, by expectation maximisation (Saerens et al., Neural Comp. 14, 2002).

    Iterates ``p_i ∝ p_i π / π_train``, ``π ← mean p_i``, for each ticket and its rest.

    Args:
        p_SK: probabilities of yes at the prior of training, ``[S, K]``; they must be calibrated there.
        trained_K: that prior, a number or ``[K]``.
        rounds: at most so many; it ends where nothing moves.

    Returns:
        priors ``[K]``, double.
    """
    trained = _prior(torch.as_tensor(trained_K, dtype=torch.double).expand(p_SK.shape[1]))
    logits, prior = log_odds(p_SK), trained.clone()
    for _ in range(rounds):
        before, prior = prior, torch.sigmoid(shifted(logits, prior, trained)).mean(0).clamp(1e-6, 1 - 1e-6)
        if float((prior - before).abs().max()) < 1e-10:
            break
    return prior


def _prior(prior_K: Tensor) -> Tensor:
    prior_K = prior_K.double()
    if not bool(((prior_K > 0) & (prior_K < 1)).all()):
        raise CalibrationError(f"a prior lies between 0 and 1: got {prior_K.tolist()}")
    return prior_K
