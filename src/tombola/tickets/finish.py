"""Tickets from trained weights: each with norm statistics of its own training data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from tombola._utils.batch import Batch
from tombola.masks.maskset import MaskSet
from tombola.settings import Settings
from tombola.tickets.model import TicketModel
from tombola.training import norm
from tombola.training.model import Params
from tombola.training.trainer import Problem


def finish(
    problem: Problem,
    theta: Params,
    masks: MaskSet,
    tickets: Sequence[int],
    settings: Settings,
    metadata: Mapping[str, Any],
) -> TicketModel:
    """A `TicketModel` from trained weights, its norm statistics estimated on its own training data.

    Args:
        problem: what was trained on.
        theta: the trained weights; with ``shared`` normalisation its buffers are written to.
        masks: of all tickets.
        tickets: those that the model is to hold.
        settings: ``normalization`` and ``statistics`` are read.
        metadata: what is to be known of the tickets.
    """
    f = problem.f

    def passes(k: int) -> Iterator[tuple[int, Tensor | None, Batch]]:
        m_k = masks.masks_KN[k].to(f.device)
        for x in problem.inputs(k, settings.statistics, "statistics"):
            yield k, m_k, x

    private = {masks.names[k]: dict(f.private.unflatten(theta.private[k].detach())) for k in tickets}
    if settings.normalization == "shared":
        every = (one for k in tickets for one in passes(k))
        theta.buffers.update(norm.estimate(f, theta, every))
    elif settings.normalization != "frozen":
        for k in tickets:
            private[masks.names[k]] |= norm.estimate(f, theta, passes(k))
    return TicketModel(f.write(theta), masks.select(list(private)), private, metadata).eval()
