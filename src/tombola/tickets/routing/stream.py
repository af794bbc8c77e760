"""Routing in time: a scene does not change with every frame. Shape letters: T samples in order, K tickets."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor

from tombola._utils.errors import RouterError

SIZES, MARGINS = (1, 2, 4, 8, 16), (0.0, 0.5, 1.0, 2.0)  # that `best_window` tries


class Window:
    """The mean of the last few log-posteriors decides, and a switch needs a lead.

    The evidence of the last ``size`` samples is added up; the ticket changes only where another one leads the
    present one by ``margin`` nats a sample (hysteresis). Past samples alone are used, so it works live; state
    stays between calls.

    Args:
        size: samples that are looked back on, the present one among them; 1 looks at no other.
        margin: lead in mean log-posterior that a switch needs; 0 is no hysteresis. The defaults were the best
            of `SIZES` and `MARGINS` for the default router on validation data (docs/results/routing.md).

    >>> window = Window(size=2, margin=0.0)
    >>> scores_TK = torch.tensor([[0.0, -1.0], [-1.0, -0.5], [-3.0, 0.0]])
    >>> window(scores_TK).tolist(), window.switches
    ([0, 0, 1], 1)
    """

    def __init__(self, size: int = 1, margin: float = 2.0) -> None:
        if size < 1 or margin < 0:
            raise RouterError(
                f"a window has at least one sample and no negative margin: got {size}, {margin}"
            )
        self.size, self.margin = size, margin
        self.reset()

    def __repr__(self) -> str:
        return f"Window(size={self.size}, margin={self.margin:g})"

    def reset(self) -> None:
        """Forget the past."""
        self._past: deque[Tensor] = deque(maxlen=self.size)
        self.current: int | None = None
        self.switches = 0

    def __call__(self, scores_TK: Tensor) -> Tensor:
        """The ticket's number for each of the next samples, int64 ``[T]``, from their log-posteriors."""
        return torch.tensor([self._next(row) for row in scores_TK.detach().double().cpu()], dtype=torch.int64)

    def _next(self, scores_K: Tensor) -> int:
        self._past.append(scores_K.clamp(min=-30))  # one sample cannot outweigh all others
        mean_K = torch.stack(list(self._past)).mean(0)
        best = int(mean_K.argmax())
        if self.current is None:
            self.current = best
        elif best != self.current and float(mean_K[best] - mean_K[self.current]) > self.margin:
            self.current, self.switches = best, self.switches + 1
        return self.current


def best_window(
    streams: Sequence[tuple[Tensor, Tensor]], sizes: Sequence[int] = SIZES, margins: Sequence[float] = MARGINS
) -> tuple[Window, float]:
    """The window under which the right ticket is at work for most samples, and for which share of them.

    Args:
        streams: log-posteriors ``[T, K]`` and the number of the true ticket ``[T]`` of samples in order, from
            validation data; contexts in them should last as long as they will in use.
        sizes: what is tried; among equals the smallest.
        margins: likewise.

    A sum over the last n samples is n/2 samples late after a change, so it pays only where single samples are
    wrong more often than contexts change. A margin without a sum waits for no more than one clear sample.

    >>> sure_TK = torch.tensor([[0.0, -9.0]] * 4 + [[-9.0, 0.0]] * 4)
    >>> window, share = best_window([(sure_TK, torch.tensor([0] * 4 + [1] * 4))])
    >>> window.size, window.margin, share
    (1, 0.0, 1.0)
    """
    total = sum(len(truth_T) for _, truth_T in streams)
    best, most = (sizes[0], margins[0]), -1
    for size in sizes:
        for margin in margins:
            right = sum(int((Window(size, margin)(scores) == truth.cpu()).sum()) for scores, truth in streams)
            if right > most:
                best, most = (size, margin), right
    return Window(*best), most / max(total, 1)
