"""Callbacks that settings name in one word: an early end of a training, masks that move, or are learned."""

from __future__ import annotations

from typing import Any

from tombola._utils import spec
from tombola.training.callbacks.dynamic_sparse import SET, RigL
from tombola.training.callbacks.early_bird import EarlyBird
from tombola.training.callbacks.learned import Learned

Rule = EarlyBird | SET | RigL | Learned
RULES: tuple[type[Rule], ...] = (EarlyBird, SET, RigL, Learned)


def parse(callback: str | spec.Spec) -> Rule | None:
    """A rule from its text, or itself; None from an empty one.

    >>> parse("early_bird:0.1:5"), str(RigL(0.3, 100)), parse("")
    (EarlyBird(threshold=0.1, patience=5, every=None), 'rigl:0.3:100', None)
    """
    found: Any = spec.parse(callback, RULES, "callback") if callback else None
    return found
