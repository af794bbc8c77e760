"""A search from sparsity to sparsity, each a stage of the journal, under the alarm for collapse."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tombola._utils.errors import NotReached
from tombola.lab.analysis.collapse import FALSE_ALARMS, stated_rate
from tombola.masks.maskset import MaskSet
from tombola.methods.rounds import first_mask, searched
from tombola.methods.segments import segment
from tombola.methods.task import DataView, Task
from tombola.runs.cache import StageCache
from tombola.training.callbacks.guard import Guard
from tombola.training.model import Params
from tombola.training.rewind import Starts
from tombola.training.trainer import Problem


@dataclass(frozen=True)
class Search:
    """The search of one source.

    Attributes:
        task: whose settings say at which sparsities it stops to be judged.
        source: what it reads.
        journal: where its stages are.
        name: ends their names, apart from the sparsity.
        start: the rewind point, trained when it is first asked for.
        targets: the counts at which it stops to be judged, largest first.
    """

    task: Task
    source: DataView
    cache: StageCache
    name: str
    start: Callable[[], Params]
    targets: Callable[[], list[int]]

    def at(self, sparsity: float) -> tuple[MaskSet, Starts]:
        """The masks at a sparsity, and where its tickets go on: with the weights trained on the way, if kept.

        Raises:
            NotReached: the alarm for collapse stopped the search before (`Settings.stop`).
        """
        settings, scope = self.task.settings, self.task.f.scope
        problem = self.task.problem(self.source, settings.search)
        names, stopped, keeps = problem.partition.names, self.stopped, settings.rewinding != "weights"
        start = self.start()
        starts = Starts([start] * len(names), keeps=keeps)
        if stopped is not None and sparsity == stopped["sparsity"]:  # what the search went back to
            tensors, _ = self.cache.results[self.checkpoint("search", stopped["at"])]
            return MaskSet.unpack(scope, names, tensors["masks"]), starts
        self._check_reached(sparsity)
        rounds = segment(settings, scope.size, self.targets(), sparsity)
        guard: Guard | None = self.guard(problem, rounds.total)
        if rounds.after is not None:
            before, ended = self.at(rounds.after)
            starts = Starts(ended.thetas, keeps=keeps, trained=keeps)
            guard = guard and guard.after_segment(self.cache.results[self.checkpoint("search", rounds.after)])
        elif settings.first:
            before = self._first(sparsity, problem, start, rounds.first)
        else:
            before = MaskSet.dense(scope, names)

        times = self.task.budget(self.source, 1)
        parallel = self.cache.parallel
        compute = searched(problem, settings, start, before, starts, rounds, times, guard, parallel)
        tensors, _ = self.cache.get_or_compute(self.checkpoint("search", sparsity), compute)
        self._check_reached(sparsity)
        starts.restore(tensors, self.task.f.device)
        return MaskSet.unpack(scope, names, tensors["masks"]), starts

    def _first(self, sparsity: float, problem: Problem, start: Params, count: int) -> MaskSet:
        """The first mask of a hybrid, drawn before any training."""
        compute = first_mask(problem, self.task.settings, start, count)
        tensors, _ = self.cache.get_or_compute(self.checkpoint("first", sparsity), compute)
        return MaskSet.unpack(self.task.f.scope, problem.partition.names, tensors["masks"])

    # -- its stages -------------------------------------------------------------------------------

    def checkpoint(self, phase: str, sparsity: float) -> str:
        """The stage of a phase at a sparsity; of the first mask one for all, if the search is one."""
        shared = phase == "first" and self.task.settings.nested
        return f"{phase}-{self.name}" + ("" if shared else f"-{sparsity}")

    def stages(self, sparsity: float) -> set[str]:
        """All stages that the masks at a sparsity come from."""
        settings, stopped = self.task.settings, self.stopped
        below = [s for s in settings.sparsity if s <= sparsity] if settings.nested else [sparsity]
        names = {self.checkpoint(phase, s) for s in below for phase in ("first", "search")}
        if stopped is not None and sparsity == stopped["sparsity"]:
            names.add(self.checkpoint("search", stopped["at"]))
        return names

    # -- the alarm for collapse -------------------------------------------------------------------

    def guard(self, problem: Problem, rounds: int) -> Guard:
        """The alarm for a search: it warns; where a rule is set, it may stop the search of the tickets."""
        settings = self.task.settings
        rate = stated_rate(settings.stop)
        if rate is None or self.source != "own" or len(self.task.partition) < 2:
            return Guard(rounds, problem, rate or FALSE_ALARMS)
        stops = settings.stop.startswith("collapse")
        return Guard(rounds, problem, rate, stops, replicate=self.task.problem("twin", settings.search))

    @property
    def stopped(self) -> dict[str, Any] | None:
        """How the alarm stopped the search: ``at`` which level, and what ``sparsity`` it went back to."""
        if not self.task.settings.stop:
            return None
        found = (
            self.cache.metadata(self.checkpoint("search", s)) for s in sorted(self.task.settings.sparsity)
        )
        return next((metadata["stopped"] for metadata in found if metadata and "stopped" in metadata), None)

    def _check_reached(self, sparsity: float) -> None:
        stopped = self.stopped
        if stopped is not None and sparsity >= stopped["at"]:
            raise NotReached(not_reached(sparsity, stopped))


def not_reached(sparsity: float, stopped: Mapping[str, Any]) -> str:
    """Why a sparsity was not reached, in a line."""
    good = stopped["sparsity"]
    back = f"the last good round is at {good:.1%}" if good else "no round was good"
    return (
        f"{sparsity:.1%} of the weights removed was not reached: the alarm for collapse stopped the search "
        f"on the way to {stopped['at']:.1%}, and {back}; without stop=... it only warns"
    )
