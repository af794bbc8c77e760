"""What tickets answer, a row for each sample, as commands and services give it."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tombola.tickets.prediction import Prediction

FEW = 16  # numbers that fit into a line


def rows(found: Prediction) -> list[dict[str, Any]]:
    """Answer, probability, ticket, confidence and reason of each sample.

    The answer is the output itself where nothing is chosen and it is short, as a colour is; None for a sound.
    """
    return [
        {
            "answer": _few(found.outputs, i) if found.answers is None else found.answers[i],
            "probability": None if found.probability_B is None else float(found.probability_B[i]),
            "ticket": ticket,
            "confidence": float(found.confidence_B[i]),
            "why": found.why[i],
        }
        for i, ticket in enumerate(found.tickets)
    ]


def _few(outputs: Any, i: int) -> list[float] | None:
    if not isinstance(outputs, Tensor) or outputs[i].numel() > FEW:
        return None
    return [float(value) for value in outputs[i].flatten()]
