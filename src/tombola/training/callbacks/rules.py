"""What happens while a ticket is trained in a round of the search: nothing, an early end, or moving masks.

``early_bird:E:P[:N]``  end the training once the masks of P successive pairs of epochs (or of N steps) differ
                        by less than E (`tombola.training.callbacks.early_bird`).
``set:S:N``             every N steps move the share S of the mask to random places (`dynamic_sparse`).
``rigl:S:N``            the same, to where the gradient is largest.
"""

from __future__ import annotations

from tombola._utils.errors import UsageError
from tombola.training.callbacks.dynamic_sparse import Moving
from tombola.training.callbacks.early_bird import EarlyBird


def parse(text: str) -> EarlyBird | Moving | None:
    """A rule from its text; None from an empty one.

    Raises:
        UsageError: it is not understood.

    >>> parse("early_bird:0.1:5"), parse("rigl:0.3:100").by_gradient, parse("")
    (EarlyBird(threshold=0.1, patience=5, every=0), True, None)
    """
    name, *given = text.split(":")
    try:
        if not text:
            return None
        if name == "early_bird" and len(given) in (2, 3):
            rule = EarlyBird(float(given[0]), int(given[1]), int(given[2]) if given[2:] else 0)
            if 0 < rule.threshold <= 1 and rule.patience >= 1 and (rule.every >= 1 or not given[2:]):
                return rule
        if name in ("set", "rigl") and len(given) == 2:
            moving = Moving(name == "rigl", float(given[0]), int(given[1]))
            if 0 < moving.share < 1 and moving.every >= 1:
                return moving
    except ValueError:
        pass
    raise UsageError(
        f"callback {text!r} is not understood; write early_bird:E:P or early_bird:E:P:N (distance below E in "
        "(0, 1], P in a row, every N steps), set:S:N or rigl:S:N (share S in (0, 1)), or nothing"
    )
