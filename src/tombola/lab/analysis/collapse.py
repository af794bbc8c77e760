"""The label-free alarm: has pruning gone so far that tickets stop being about their subsets?

Everything here is a pure function of series over rounds. Four things are watched. Likeness, specialisation
(`tombola.masks.similarity`) and the drift of outputs on unlabelled data (`drift`) each have a CUSUM
against their own pace (`tombola.lab.analysis.pace`, which states the false-alarm rate of all three together).
The survivors of the smallest layer (`fewest_survivors`) have a floor, which is a choice and not calibrated.
Similarity may not lead the score at all: `tombola.lab.analysis.verdict` says whether it did.

Shape letters: R rounds, B samples, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, overload

import torch
from torch import Tensor
from torch.nn import functional as F

from tombola._utils.errors import UsageError, unknown
from tombola.lab.analysis.cusum import ControlChart
from tombola.masks.maskset import MaskSet

Outputs = Literal["classes", "binary", "values"]
FALSE_ALARMS = 0.05  # of all charts with a threshold from null runs together, over all rounds


def stated_rate(stop: str) -> float | None:
    """The false-alarm rate of a rule ``collapse`` or ``warn``, alone or with ``:RATE``; None for no rule.

    Raises:
        UsageError: another rule, or a rate that is not between .01 and .5.

    >>> stated_rate("collapse"), stated_rate("warn:0.2"), stated_rate("")
    (0.05, 0.2, None)
    """
    name, colon, rate = stop.partition(":")
    if not stop:
        return None
    try:
        found = float(rate) if colon else FALSE_ALARMS
    except ValueError:
        found = math.nan
    if name not in ("collapse", "warn") or not 0.01 <= found <= 0.5:
        raise UsageError(
            "stop is empty, 'collapse', 'warn', 'collapse:RATE' or 'warn:RATE' with a false-alarm rate of "
            f".01 to .5: got {stop!r}"
        )
    return found


def survivors(counts_R: Sequence[int], floor: int = 10, name: str = "smallest layer") -> ControlChart:
    """Fires where the smallest layer (`fewest_survivors`) keeps fewer than ``floor`` weights.

    >>> survivors([90, 30, 9]).fired
    2
    """
    return ControlChart(name, tuple(float(-count) for count in counts_R), float(-floor), float(-floor))


@overload
def fewest_survivors(masks: MaskSet) -> tuple[int, str, str]: ...
@overload
def fewest_survivors(masks: MaskSet, least: int) -> tuple[int, str, str] | None: ...
def fewest_survivors(masks: MaskSet, least: int = 0) -> tuple[int, str, str] | None:
    """The fewest weights that any ticket keeps in any layer: the count, the ticket, the layer.

    Among equal ones the first ticket, and its first layer. Layers of fewer than ``least`` weights are left
    out; None if no other is there.

    >>> from tombola.masks.layout import Layout
    >>> layout = Layout(("a", "b"), ((2,), (2,)))
    >>> fewest_survivors(MaskSet(layout, {"cat": torch.tensor([1, 1, 0, 1])}))
    (1, 'cat', 'b')
    """
    asked = [i for i, size in enumerate(masks.scope.sizes) if size >= least]
    if not asked:
        return None
    counts_KL = masks.counts_KL()[:, asked]
    k, at = divmod(int(counts_KL.numpy(force=True).argmin()), len(asked))  # the first if equal
    return int(counts_KL[k, at]), masks.names[k], masks.scope.names[asked[at]]


def drift(now: Tensor, before: Tensor, outputs: Outputs) -> float:
    """How far a ticket's outputs on the same unlabelled samples moved since the round before; 0 for equal.

    Args:
        now: outputs of this round ``[B, ...]``: logits, or values.
        before: those of the round before, of the same shape.
        outputs: ``classes`` for logits ``[B, C]`` of a softmax and ``binary`` for logits of sigmoids:
            mean over samples of ``KL(now ‖ before)`` in nats; ``values``: mean squared difference.

    Raises:
        UsageError: shapes that differ, no samples, or another kind of outputs.

    >>> drift(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 0.0]]), "classes")
    0.0
    """
    if now.shape != before.shape or not now.numel():
        raise UsageError(
            f"outputs of two rounds must have one shape: {tuple(now.shape)}, {tuple(before.shape)}"
        )
    p, q = now.detach().double(), before.detach().double()
    if outputs == "values":
        return float((p - q).square().mean())
    if outputs == "binary":  # a sigmoid is a softmax over (0, logit)
        p, q = (torch.stack([torch.zeros_like(z), z], -1).flatten(0, -2) for z in (p, q))
    elif outputs != "classes":
        raise UsageError(unknown("kind of outputs", outputs, ("classes", "binary", "values")))
    log_p, log_q = p.log_softmax(-1), q.log_softmax(-1)
    return float(F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1).mean().clamp(min=0))


@dataclass(frozen=True)
class Alarm:
    """That pruning has gone too far: what fired, when, and the last round before it began.

    Rounds count from 0 in the series that were watched. ``last_good`` is None if there was none.
    """

    fired: tuple[str, ...]
    round: int
    density: float
    last_good: int | None
    last_good_density: float | None


def first_alarm(density_R: Sequence[float], *charts: ControlChart) -> Alarm | None:
    """The first alarm of several charts over the same rounds, or None.

    Where several fire in the same round, the last good round is the earliest of theirs.

    Raises:
        UsageError: charts of another number of rounds than densities, or none.

    >>> first_alarm([0.5, 0.2, 0.1], survivors([90, 30, 9]))
    Alarm(fired=('smallest layer',), round=2, density=0.1, last_good=1, last_good_density=0.2)
    """
    lengths: dict[str, Any] = {chart.name: len(chart.value_R) for chart in charts}
    if not charts or set(lengths.values()) != {len(density_R)}:
        raise UsageError(f"{len(density_R)} densities need charts over as many rounds: got {lengths}")
    rounds = [chart.fired for chart in charts if chart.fired is not None]
    if not rounds:
        return None
    first = min(rounds)
    firing = [chart for chart in charts if chart.fired == first]
    goods = [chart.last_good for chart in firing]
    good = None if None in goods else min(g for g in goods if g is not None)
    density = None if good is None else float(density_R[good])
    return Alarm(tuple(w.name for w in firing), first, float(density_R[first]), good, density)
