"""Named stages, each done once: the memory of a pipeline.

This cache forgets when the process ends; `tombola.runs.directory.Run` is the one on disk.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from tombola._utils.checkpoint import Checkpoint, State
from tombola.runs.stages import NO_WORK, Stage, Work
from tombola.training.parallel import OVER_RANKS, Parallel, world

OnProgress = Callable[[str, int, int], None]  # (stage, done, total)
OnRecord = Callable[[str, dict[str, Any]], None]  # (stage, what it measured)


class StageCache:
    """Results of finished stages, in memory.

    Args:
        parallel: how the trainings of a round of a search go (`tombola.training.parallel.choose`).
        progress: called as stages advance.
        on_record: called with every record as it is made.

    >>> cache, calls = StageCache(), []
    >>> for _ in range(2):
    ...     _, metadata = cache.get_or_compute("a", lambda _: (calls.append(1), ({}, {"n": len(calls)}))[1])
    >>> metadata
    {'n': 1}
    """

    def __init__(
        self,
        parallel: Parallel = "auto",
        progress: OnProgress | None = None,
        on_record: OnRecord | None = None,
    ) -> None:
        self.parallel: Parallel = parallel
        self.progress, self.on_record = progress, on_record
        self.results: dict[str, State] = {}
        self.rows: list[dict] = []
        self.seconds: dict[str, float] = {}
        self.config: dict[str, Any] = {}  # what was asked for, where that is kept
        self.leads = True  # whether this process writes the run, where several carry it out
        self.notes: list[str] = []  # what a reader should know of how it goes on

    def get_or_compute(
        self,
        stage: Stage | str,
        compute: Callable[[Checkpoint], State],
        key: str = "",  # noqa: ARG002
        work: Work = NO_WORK,  # noqa: ARG002
    ) -> State:
        """The result of a stage: computed now, or taken from when it was.

        A stage with a key has the same result wherever the key is the same; runs may share it. ``work`` is
        what it takes, for those who only ask (`tombola.analysis.plan`).
        """
        if (name := str(stage)) not in self.results:
            begin = time.perf_counter()
            self.results[name] = compute(StageCheckpoint(self, name))
            self.seconds[name] = time.perf_counter() - begin
        return self.results[name]

    def metadata(self, stage: Stage | str) -> dict[str, Any] | None:
        """The metadata of a finished stage; None if it was never done."""
        return self.results[str(stage)][1] if str(stage) in self.results else None

    def finished(self) -> dict[str, dict[str, Any]]:
        """The metadata of all stages that are finished."""
        return {name: metadata for name, (_, metadata) in self.results.items()}

    def agreed(self, value: bool) -> bool:
        """What the process that writes the run says."""
        return value

    def listen(self, progress: OnProgress | None, on_record: OnRecord | None) -> None:
        """Tell these from now on."""
        self.progress, self.on_record = progress, on_record

    def close(self) -> None:
        """Nothing is held."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def file(self, name: str) -> Path | None:  # noqa: ARG002
        """The place of a file for the user; None keeps it in memory."""
        return None


class StageCheckpoint(Checkpoint):
    """The checkpoint of a stage, of which the listeners of the cache are told."""

    def __init__(self, cache: StageCache, name: str) -> None:
        super().__init__(cache.rows)
        self.cache, self.name = cache, name

    def record(self, **row: Any) -> None:
        """Keep a row, and tell the listener."""
        self.keep(row)
        if self.cache.on_record is not None:
            self.cache.on_record(self.name, row)

    def keep(self, row: dict[str, Any]) -> None:
        """Put a row to the others."""
        self.rows.append(row)

    def advance(self, done: int, total: int) -> None:
        """Tell the listener."""
        if self.cache.progress is not None:
            self.cache.progress(self.name, done, total)


def opened(make: Callable[[], StageCache], config: dict[str, Any], parallel: Parallel) -> StageCache:
    """The cache that ``make`` makes, or inside a process group all ranks' with that of rank 0.

    Args:
        make: makes a cache.
        config: what was asked for.
        parallel: how tickets are run; a way that is not over ranks leaves each process to itself.
    """
    if world() is None or parallel not in ("auto", *OVER_RANKS):
        return make()
    from tombola.runs.together import Together  # most programs have one process

    return Together(make, config)
