"""What several runs will take together, and how long on so many processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tombola._utils.memory import high_water
from tombola.analysis.plan import Pace, Plan, makespan, planned
from tombola.data.dataset import Data
from tombola.lab.jobs import Task
from tombola.training.parallel.choose import threads


@dataclass(frozen=True)
class Forecast:
    """The plans of some runs, and the pace at which each would be carried out here.

    Attributes:
        jobs: runs at once.
        workers: processes that share the tickets of a round in each of them.
        memory_bytes: of one process: the most that this one had while it made steps.
    """

    plans: Sequence[Plan]
    paces: Sequence[Pace]
    jobs: int
    workers: int
    memory_bytes: int

    @property
    def seconds(self) -> float:
        """Until all are done."""
        return makespan(self._seconds(self.workers), self.jobs)

    def _seconds(self, workers: int) -> list[float]:
        pairs = zip(self.plans, self.paces, strict=True)
        return [plan.seconds(pace, workers) for plan, pace in pairs]

    @property
    def at_most(self) -> list[str]:
        """Methods whose counts are the most that it can be."""
        return list(dict.fromkeys(name for plan in self.plans for name in plan.at_most))

    def rows(self, methods: Sequence[str]) -> list[dict[str, Any]]:
        """Of each method what it adds to those before it, in all runs."""
        found = []
        for name in methods:
            parts = [plan.of(name) for plan in self.plans]
            pairs = zip(parts, self.paces, strict=True)
            row = {"method": name, "trainings": sum(part.trainings for part in parts)}
            row |= {"steps": sum(part.steps for part in parts)}
            row |= {"seconds": sum(part.seconds(pace) for part, pace in pairs)}
            found.append(row | {"at_most": name in self.at_most})
        return found

    def plain(self) -> dict[str, Any]:
        """The sums."""
        return {
            "runs": len(self.plans),
            "trainings": sum(plan.trainings for plan in self.plans),
            "steps": sum(plan.steps for plan in self.plans),
            "seconds": self.seconds,
            "seconds_in_turn": sum(self._seconds(1)),
            "bytes": sum(plan.bytes for plan in self.plans),
            "memory_bytes": self.memory_bytes,
        }


def forecast(
    tasks: Sequence[Task], data: Mapping[str, Data], jobs: int = 1, workers: int = 1, count: int | None = None
) -> Forecast:
    """What runs will take: nothing is trained but a few steps, of the first run of each item.

    Args:
        tasks: the runs; what they have done already is not counted.
        data: by item.
        jobs, workers: see `Forecast`.
        count: threads of each process.
    """
    shared = tasks[0].order.shared
    elsewhere = None if shared is None else {file.stem for file in shared.glob("*.safetensors")}
    plans, paces = [], dict[str, Pace]()
    for task in tasks:
        order = task.order
        pipeline = order.pipeline(data[task.item], task.seed, order.device or "cpu")
        plans.append(planned(pipeline, order.methods, task.path, elsewhere))
        pace = paces.setdefault(task.item, Pace(pipeline))
        with threads(count):
            plans[-1].seconds(pace)  # measures what it has not measured yet
    return Forecast(plans, [paces[task.item] for task in tasks], jobs, workers, high_water())
