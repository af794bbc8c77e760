"""The alarm for collapse while a search runs: what is measured after each round, and the way back.

Nothing here reads a label. Watched are the likeness of the tickets and the weights of the smallest layer.
With `Settings.stop` also a twin of the first ticket, which is taken along (specialisation), and how far the
outputs of each ticket on validation inputs are from those of the round before (drift).

Shape letters: K tickets, J twins, N weights in scope, B samples, C outputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tombola._utils.checkpoint import Checkpoint, State
from tombola._utils.rng import drawn_from
from tombola._utils.torch_state import in_mode
from tombola.lab.analysis.collapse import FALSE_ALARMS, Alarm, Outputs, drift, fewest_survivors, first_alarm
from tombola.lab.analysis.cusum import ControlChart
from tombola.lab.analysis.signals import SIZE, charts
from tombola.masks.maskset import MaskSet
from tombola.masks.similarity import compare, mean_over_pairs, specialisation
from tombola.objectives import Classification, OneVsRest
from tombola.training.model import Params
from tombola.training.parallel import TurnResult
from tombola.training.trainer import Problem

SAMPLES = 256  # unlabelled ones that drift is measured on


TakeTurn = Callable[[Problem, Tensor, int], TurnResult]


@dataclass
class Guard:
    """Watches one search, segment after segment.

    Attributes:
        rounds: of the whole search, up to the last sparsity.
        false_alarms: the stated rate (`tombola.lab.analysis.pace`), shared evenly by the charts.
        stops: whether an alarm ends the search.
        problem: the problem whose tickets are watched.
        twin: the same in another data order, where a twin of the first ticket is taken along.
        history: what was measured after each round, in plain values.
        alarm: the first one.
        twins: the masks of the twins.
        back: the masks after the rounds that an alarm may still go back to.
    """

    rounds: int
    problem: Problem
    false_alarms: float = FALSE_ALARMS
    stops: bool = False
    replicate: Problem | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    alarm: Alarm | None = None
    twins: MaskSet | None = None
    back: dict[int, Tensor] = field(default_factory=dict)
    _now: dict[int, Tensor] = field(default_factory=dict)
    _before: dict[int, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.replicate is not None:
            self.twins = MaskSet.dense(self.replicate.f.scope, self.replicate.partition.names[:1])

    @property
    def stopped(self) -> bool:
        """Whether the search is to end here."""
        return self.stops and self.alarm is not None

    # -- measured while tickets train -------------------------------------------------------------

    def saw(self, problem: Problem, theta: Params, mask_N: Tensor, k: int) -> Tensor | None:
        """The outputs of ticket k in training, before it is pruned, for `keep`; it stays as it is."""
        kind = outputs_of(self.problem)
        if self.replicate is None or kind is None or problem is not self.problem:  # a twin's are not compared
            return None
        f, data = self.problem.f, self.problem.data
        index = torch.arange(min(SAMPLES, len(data.validation)))
        x = data.inputs("validation", index, device=f.device)
        buffers = {name: b.clone() for name, b in theta.buffers.items()}
        copy = Params(theta.weights_N, theta.shared_R, theta.private, buffers)
        seeded = drawn_from(self.problem.seed, "guard", k, device=f.device)
        with torch.no_grad(), in_mode(f.module, training=True), seeded:
            outputs_BC = f(copy, mask_N, x, k if len(theta.private) > 1 else 0)
        return (outputs_BC[:, k] if kind == "binary" else outputs_BC).cpu().clone()

    def keep(self, k: int, outputs: Tensor | None) -> None:
        """Take what `saw` gave of ticket k in this round."""
        if outputs is not None:
            self._now[k] = outputs

    def after(self, number: int, masks: MaskSet, take_turn: TakeTurn, checkpoint: Checkpoint) -> None:
        """Measure after a round, record it, and raise the alarm if it is time.

        Args:
            number: of the round, from 0.
            masks: those of the tickets after it.
            take_turn: what gives a mask its turn of this round; the twin has one too.
            stage: where the records go.
        """
        if self.replicate is not None and self.twins is not None:
            result = take_turn(self.replicate, self.twins.masks_KN[0], 0)
            self.twins = MaskSet(masks.scope, {masks.names[0]: result.mask_N})
        self.history.append(measured := self._measured(masks))
        checkpoint.record(event="watch", round=number, **measured)
        if self.alarm is None:
            charts = self.charts()
            self._keep(masks, charts)
            density = [float(row["density"]) for row in self.history]
            self.alarm = first_alarm(density, *charts) if charts else None
            if self.alarm is not None:
                checkpoint.record(event="alarm", **self.metadata(charts, number))

    def _measured(self, masks: MaskSet) -> dict[str, Any]:
        row: dict[str, Any] = {"density": int(masks.masks_KN.sum()) / masks.masks_KN.numel()}
        if (fewest := fewest_survivors(masks, SIZE)) is not None:
            row |= dict(zip(("fewest", "ticket", "layer"), fewest, strict=True))
        if len(masks) > 1:
            row["kappa"] = _plain(mean_over_pairs(compare(masks).kappa()))
        if len(masks) > 1 and self.twins is not None:
            row["specialisation"] = _plain(specialisation(masks, self.twins))
        if self._now and self._before:
            kind: Outputs = outputs_of(self.problem) or "values"
            moved = [drift(self._now[k], self._before[k], kind) for k in self._now if k in self._before]
            row["drift"] = _plain(sum(moved) / len(moved))
        self._before, self._now = self._now, {}
        return row

    # -- judged -----------------------------------------------------------------------------------

    def charts(self) -> list[ControlChart]:
        """The charts over the rounds so far."""
        return charts(self.history, self.rounds, self.false_alarms)

    def _keep(self, masks: MaskSet, charts: Sequence[ControlChart]) -> None:
        """Masks of the rounds since the earliest round at rest, and no others."""
        if not self.stops:
            return
        now = len(self.history) - 1
        rests = [max((t for t in range(now + 1) if w.value_R[t] <= w.rest), default=-1) for w in charts]
        self.back = {t: m for t, m in self.back.items() if t >= min(rests, default=now)}
        self.back[now] = masks.pack()

    def metadata(self, charts: Sequence[ControlChart], number: int) -> dict[str, Any]:
        """The alarm for the records, in rounds of the search: it may not be watched from its first."""
        assert self.alarm is not None
        calibrated = any(w.name in self.alarm.fired and w.name != "smallest layer" for w in charts)
        good, before = self.alarm.last_good, number - self.alarm.round
        return {
            "round": number,
            "last_good": None if good is None else good + before,
            "density": self.alarm.density,
            "fired": list(self.alarm.fired),
            "last_good_density": self.alarm.last_good_density,
            "false_alarms": self.false_alarms if calibrated else None,
            "stops": self.stops,
        }

    def last_good(self, masks: MaskSet) -> MaskSet:
        """The masks to go back to: those of the last good round, dense ones if there was none."""
        assert self.alarm is not None
        if self.alarm.last_good is None:
            return MaskSet.dense(masks.scope, masks.names)
        return MaskSet.unpack(masks.scope, masks.names, self.back[self.alarm.last_good])

    @property
    def last_good_sparsity(self) -> float | None:
        """What the search goes back to; None if no round was good."""
        good = None if self.alarm is None else self.alarm.last_good_density
        return None if good is None else round(1 - good, 6)

    # -- kept -------------------------------------------------------------------------------------

    def state(self) -> State:
        """What `restore` goes on from."""
        tensors = {f"guard.back.{t}": packed for t, packed in self.back.items()}
        for name, outputs in (("now", self._now), ("before", self._before)):
            tensors |= {f"guard.{name}.{k}": values for k, values in outputs.items()}
        if self.twins is not None:
            tensors["guard.twins"] = self.twins.pack()
        alarm = vars(self.alarm) if self.alarm else None
        return tensors, {
            "history": list(self.history),
            "alarm": alarm,
            "seen": self.replicate.samples_seen if self.replicate else 0,
        }

    def after_segment(self, result: State) -> Guard | None:
        """Go on from the result of the segment before; None if that was watched by none."""
        tensors, metadata = result
        if "guard" not in metadata:  # a run that is older than the alarm
            return None
        self.restore(tensors, {**metadata["guard"], "seen": 0})
        return self

    def restore(self, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
        """Go on from a state."""
        given = {n.removeprefix("guard."): t for n, t in tensors.items() if n.startswith("guard.")}
        parts = {name: _numbered(given, name) for name in ("back", "now", "before")}
        self.back, self._now, self._before = parts["back"], parts["now"], parts["before"]
        self.history = list(metadata["history"])
        if metadata["alarm"]:
            self.alarm = Alarm(**{**metadata["alarm"], "fired": tuple(metadata["alarm"]["fired"])})
        if self.replicate is not None:
            scope, names = self.replicate.f.scope, self.replicate.partition.names[:1]
            self.twins = MaskSet.unpack(scope, names, given["twins"])
            self.replicate.samples_seen = metadata["seen"]


def outputs_of(problem: Problem) -> Outputs | None:
    """How outputs of a problem's tickets are compared; None where they are not.

    Signals are large, and how far they move says little without a scale.
    """
    if isinstance(problem.objective, OneVsRest):
        return "binary"
    return "classes" if isinstance(problem.objective, Classification) else None


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)


def _numbered(given: dict[str, Tensor], prefix: str) -> dict[int, Tensor]:
    return {int(n.removeprefix(f"{prefix}.")): t for n, t in given.items() if n.startswith(f"{prefix}.")}
