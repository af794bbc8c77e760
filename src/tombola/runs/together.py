"""A run that all ranks of a process group carry out together: rank 0 has it on disk, the others follow.

All ranks ask for the same stages in the same order. For each, rank 0 says whether it is there or has to be
computed, and from which state; so a stage that is on its disk is computed by nobody, and what a follower goes
on with is what rank 0 has. A search is computed by all ranks together, joint training too where the run is of
``joint_ranks``; everything else by rank 0 alone, to the bits of one process.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tombola._utils.checkpoint import Checkpoint, State
from tombola._utils.errors import RankLost, RunError
from tombola._utils.io import digest
from tombola._utils.ranks import ranks
from tombola.runs.cache import OnProgress, OnRecord, StageCache
from tombola.runs.log import difference
from tombola.runs.stages import NO_WORK, Stage, Work
from tombola.training.parallel import OVER_RANKS
from tombola.training.parallel.workers import sendable

Compute = Callable[[Checkpoint], State]
# The phases that all ranks compute together.
_SEARCHES, _TRAININGS = ("search",), ("rewind", "train")


class Together(StageCache):
    """The stages of a run over ranks.

    Args:
        make: what makes the cache of rank 0; called there alone.
        config: what this rank was asked for; it has to be what rank 0 was.

    Raises:
        RunError: rank 0 was asked for something else, or has a run that began without ranks.
        TombolaError: whatever ``make`` raises, on every rank.
    """

    def __init__(self, make: Callable[[], StageCache], config: dict[str, Any]) -> None:
        super().__init__()
        self.ranks = ranks()
        self.leads, self.inner = self.ranks.rank == 0, StageCache()
        opening: Any = None
        if self.leads:
            opening = self._attempt(lambda: self._opened(make, config))
        self.config, self.parallel, self._done, theirs = self._hear(opening)
        if (what := difference(theirs, config)) is not None:
            raise RunError(
                f"rank {self.ranks.rank} was given {what} (there: rank 0): give all ranks the same"
            )
        together = _SEARCHES + (_TRAININGS if self.parallel == "joint_ranks" else ())
        self._together = together if self.ranks.size > 1 else ()

    def _opened(self, make: Callable[[], StageCache], config: dict[str, Any]) -> Any:
        self.inner = make()
        way = self.inner.parallel
        if way not in OVER_RANKS:
            self.inner.close()
            raise RunError(
                f"this run began with parallel={way}, and ranks may change its last bits: go on without "
                "torchrun, or choose another directory"
            )
        self.notes = self.inner.notes
        self.listen(self.inner.progress, self.inner.on_record)
        return self.inner.config or config, way, self.inner.finished(), config

    # -- what rank 0 says ----------------------------------------------------------------------------

    def _attempt(self, work: Callable[[], Any]) -> Any:
        """The result on rank 0; its error is told to all, and raised by `_hear`."""
        try:
            return work()
        except RankLost:
            raise
        except Exception as error:
            return sendable(error)

    def _hear(self, value: Any) -> Any:
        """What rank 0 says, on every rank; an error is raised."""
        heard = self.ranks.tell(value)
        if isinstance(heard, Exception):
            raise heard
        return heard

    # -- stages --------------------------------------------------------------------------------------

    def get_or_compute(
        self,
        stage: Stage | str,
        compute: Compute,
        key: str = "",
        work: Work = NO_WORK,  # noqa: ARG002
    ) -> State:
        """The result of a stage, the same on every rank."""
        if (name := str(stage)) in self.results:
            return self.results[name]
        self.ranks.at(f"stage {name}")
        together = isinstance(stage, Stage) and stage.phase in self._together
        if not self.leads:
            self.results[name] = self._followed(name, compute)
            return self.results[name]
        inside = False

        def led(checkpoint: Checkpoint) -> State:
            nonlocal inside
            self.ranks.tell(("compute", checkpoint.load()))
            inside = True
            found = compute(checkpoint)
            inside = False
            return found

        def led_or_alone() -> Any:
            return "done", self.inner.get_or_compute(stage, led if together else compute, key)

        try:
            said = led_or_alone()
        except RankLost:
            raise
        except Exception as error:
            if (
                not inside
            ):  # else the others are in the middle of it, and have the same error or lose this rank
                self.ranks.tell(sendable(error))
            raise
        self.ranks.tell(said)
        self.results[name] = said[1]
        return said[1]

    def _followed(self, name: str, compute: Compute) -> State:
        word, content = self._hear(None)
        if word == "done":
            state: State = content
            return state
        own = compute(_Following(content))
        _, state = self._hear(None)
        if digest(own[0]) != digest(state[0]):
            raise RunError(
                f"what rank {self.ranks.rank} computed in {name} differs from rank 0's (hashes "
                f"{digest(own[0])[:16]} and {digest(state[0])[:16]}): give all ranks the same data, seed and "
                "versions"
            )
        return state

    def metadata(self, stage: Stage | str) -> dict[str, Any] | None:
        """The metadata of a stage that is finished on rank 0."""
        if (name := str(stage)) in self.results:
            return self.results[name][1]
        return self._done.get(name)

    def agreed(self, value: bool) -> bool:
        """Rank 0's."""
        return bool(self.ranks.tell(value))

    def listen(self, progress: OnProgress | None, on_record: OnRecord | None) -> None:
        """Rank 0 alone has listeners."""
        if self.leads:
            self.inner.listen(partial(self._alive, progress), on_record)

    def _alive(self, progress: OnProgress | None, stage: str, done: int, total: int) -> None:
        self.ranks.beat()
        if progress is not None:
            progress(stage, done, total)

    def file(self, name: str) -> Path | None:
        """Rank 0 alone has files."""
        return self.inner.file(name)

    def close(self) -> None:
        """Let another process have the run."""
        self.inner.close()


class _Following(Checkpoint):
    """The checkpoint of a rank that writes nothing; it goes on from the state of rank 0."""

    def __init__(self, state: State | None) -> None:
        super().__init__()
        self.state = state

    def load(self) -> State | None:
        """The state that rank 0 has."""
        return self.state
