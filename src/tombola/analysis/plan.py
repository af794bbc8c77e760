"""What a run will take, before it is begun: what stages there are, and what a few measured steps say of them.

The stages are asked for by the pipeline itself, of a cache that computes none and answers with something of
the same names and shapes. So what methods share is counted once, as in a run, and what a run has done already
is not counted. Two things depend on numbers that only a run has: how far a mask as large as RTL's union is
from full, and when a rule ends a training early. Then counts are the most that it can be (`Plan.at_most`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from tombola._utils.checkpoint import Checkpoint, State
from tombola._utils.words import table
from tombola.masks.maskset import MaskSet
from tombola.methods.pipeline import Pipeline, predict
from tombola.methods.result import ask, sparsities_of
from tombola.methods.table import method
from tombola.pruning import prune, transposed
from tombola.pruning.schedules import kept
from tombola.runs.cache import StageCache
from tombola.runs.directory import finished_stage
from tombola.runs.stages import NO_WORK, Stage, Work
from tombola.settings import TrainConfig
from tombola.training.callbacks import rules
from tombola.training.callbacks.early_bird import EarlyBird
from tombola.training.joint import train_jointly

STEPS = 5  # that are measured; the ones before them compile and allocate


@dataclass(frozen=True)
class Plan:
    """The stages that a run has to compute.

    Attributes:
        works: what each of them takes, in order.
        asked_by: the method that needs it first.
        at_most: methods whose counts are the most that it can be.
        state_bytes: results of stages on disk.
    """

    works: Mapping[Stage, Work]
    asked_by: Mapping[Stage, str]
    at_most: tuple[str, ...]
    state_bytes: int

    def __repr__(self) -> str:
        return f"Plan(stages={len(self.works)}, trainings={self.trainings}, steps={self.steps})"

    def __str__(self) -> str:
        methods = dict.fromkeys(self.asked_by.values())
        each = [(name, self.of(name)) for name in methods]
        rows = [[n, f"{p.trainings:,}", f"{p.steps:,}"] for n, p in [*each, ("all", self)]]
        lines = table(["method", "trainings", "steps"], rows)
        most = [f"at most, for {', '.join(self.at_most)}: it depends on results"] if self.at_most else []
        return "\n".join([*lines, f"{self.bytes:,} bytes on disk", *most])

    def of(self, method: str) -> Plan:
        """What one method adds to those before it."""
        works = {stage: work for stage, work in self.works.items() if self.asked_by[stage] == method}
        return replace(self, works=works, at_most=tuple({method} & {*self.at_most}))

    @property
    def trainings(self) -> int:
        """Of tickets in the rounds of searches, and of networks."""
        return sum(work.trainings for work in self.works.values() if work.steps)

    @property
    def steps(self) -> int:
        """Batches that are trained on."""
        return sum(work.all_steps for work in self.works.values())

    @property
    def bytes(self) -> int:
        """On disk in the end, at most: results of stages and ticket files."""
        return self.state_bytes + sum(work.file_bytes for work in self.works.values())

    def seconds(self, pace: Pace, workers: int = 1) -> float:
        """The time, where so many workers share the trainings of a round."""
        return sum(pace.of(work) * work.shared_out(workers) for work in self.works.values())


class _Asked(StageCache):
    """Notes what is asked for, and computes nothing."""

    def __init__(self, path: Path | None, elsewhere: set[str] | None) -> None:
        super().__init__()
        self.path, self.elsewhere = path, elsewhere
        self.works: dict[Stage, Work] = {}
        self.asked_by: dict[Stage, str] = {}
        self.method, self.bytes = "", 0

    def get_or_compute(
        self,
        stage: Stage | str,
        compute: Callable[[Checkpoint], State],  # noqa: ARG002
        key: str = "",
        work: Work = NO_WORK,
    ) -> State:
        """What the run has of a stage, or something of the same names and shapes."""
        name = str(stage)
        if name not in self.results:
            found = finished_stage(self.path, name) if self.path else None
            self.results[name] = found or work.stand_in()
            if found is None and isinstance(stage, Stage):
                self._count(stage, key, work)
        return self.results[name]

    def _count(self, stage: Stage, key: str, work: Work) -> None:
        size = sum(t.nbytes for t in self.results[str(stage)][0].values())
        self.bytes += size
        if key and self.elsewhere is not None:
            if key in self.elsewhere:
                return
            self.elsewhere.add(key)
            self.bytes += size  # where the others find it
        self.works[stage], self.asked_by[stage] = work, self.method


def planned(
    pipeline: Pipeline, methods: Sequence[str], path: Path | None = None, elsewhere: set[str] | None = None
) -> Plan:
    """The stages that methods need at all sparsities of the settings.

    Args:
        pipeline: backbone, task and settings; nothing is trained.
        methods: their names.
        path: a run directory, whose finished stages are not counted.
        elsewhere: keys of what other runs of a sweep compute, to which this one adds its own.

    >>> import tombola as tb
    >>> y = torch.arange(60) % 3
    >>> data = tb.Data.of(torch.randn(60, 8), y, validation=0.2, test=0.2)
    >>> net = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
    >>> settings = tb.Settings((0.5,), "one_shot", T=10, steps=20)
    >>> task = tb.objectives.OneVsRest(), data, tb.partition.by_label(data)
    >>> plan = planned(Pipeline(net, *task, settings, 0, StageCache()), ["rtl", "imp"])
    >>> plan.trainings, plan.steps  # 3 tickets and their network, a mask and its network, on as many samples
    (6, 180)
    """
    cache = _Asked(path, elsewhere)
    asking = replace(pipeline, cache=cache)
    for cache.method in methods:
        for sparsity in sparsities_of(asking, cache.method):
            ask(asking, cache.method, sparsity)
    at_most = tuple(name for name in methods if _unknown(asking, name, cache.works))
    return Plan(cache.works, cache.asked_by, at_most, cache.bytes)


def _unknown(pipeline: Pipeline, name: str, works: Mapping[Stage, Work]) -> bool:
    """Whether what a method takes depends on what comes of it, or of the search that it follows."""
    chosen = method(name)
    if isinstance(rules.parse(chosen.variant(pipeline, name).settings.callback), EarlyBird):
        return True
    to_come = any(stage.phase == "search" and stage.view == "own" for stage in works)
    return chosen.search == "single_union" and to_come


@dataclass
class Pace:
    """How long things take here: measured, each once.

    Attributes:
        pipeline: backbone and task.
        timer: the clock.
    """

    pipeline: Pipeline
    timer: Callable[[], float] = time.perf_counter
    _known: dict[tuple[str, int], float] = field(init=False, default_factory=dict)

    def of(self, work: Work) -> float:
        """Seconds of a stage, by one worker."""
        found = 0.0
        if work.trainings:
            step = self._once("step", work.batch_size, self.step)
            found += work.trainings * (work.steps + work.scored) * step
        if work.trainings and work.at_once > 1:
            found += work.trainings * self._once("cut", 0, lambda _: self.cut())
        if work.passes:
            found += work.passes * self._once("pass", 0, lambda _: self.forward())
        return found

    def _once(self, what: str, of: int, measure: Callable[[int], float]) -> float:
        if (what, of) not in self._known:
            self._known[what, of] = measure(of)
        return self._known[what, of]

    def step(self, batch_size: int = 0, steps: int = STEPS) -> float:
        """Seconds of one step of one ticket, with batches of another size than the settings' if given."""
        p = self.pipeline
        config: TrainConfig = p.settings.train
        problem = p.problem("own", replace(config, batch_size=batch_size or config.batch_size))
        dense, K = MaskSet.dense(p.f.scope, problem.partition.names), len(problem.partition)
        train_jointly(problem, p.theta0, dense, 1, tickets=[0], purpose="pace")
        began = self.timer()
        train_jointly(problem, p.theta0, dense, steps, tickets=[K - 1], purpose="pace")
        return (self.timer() - began) / steps

    def cut(self) -> float:
        """Seconds of cutting one mask by magnitudes."""
        p, s = self.pipeline, self.pipeline.settings
        ones, scores = torch.ones(p.f.scope.size, dtype=torch.bool), p.theta0.weights_N.detach().cpu().abs()
        began = self.timer()
        prune(
            ones,
            scores,
            kept(p.f.scope.size, min(s.sparsity)),
            p.f.scope,
            s.selection,  # type: ignore[arg-type]
            allow_collapse=True,
            granularity=s.granularity,
            transposed=transposed(p.f.module),
            floor=s.floor,
        )
        return self.timer() - began

    def forward(self) -> float:
        """Seconds of one sample in a pass without gradients."""
        p = self.pipeline
        rows = p.objective.rows
        index = torch.arange(min(rows, len(p.data.train)))
        network = p.f.write(p.theta0).eval()
        predict(network, p.data, "train", index[:2], rows, p.objective.read)
        began = self.timer()
        predict(network, p.data, "train", index, rows, p.objective.read)
        return (self.timer() - began) / len(index)


def makespan(seconds: Sequence[float], workers: int) -> float:
    """The time in which so many workers carry out runs that take so long, the first in line first.

    >>> makespan([3.0, 1.0, 1.0, 1.0], 2)
    3.0
    """
    free = [0.0] * workers
    for each in seconds:
        free[free.index(min(free))] += each
    return max(free)
