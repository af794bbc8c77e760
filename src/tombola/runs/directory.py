"""A run is a directory that explains itself and survives ``kill -9`` at any moment.

`tombola.runs.log` lists the files of the directory and reads them; this module writes them.

Every file is replaced atomically. Records are appended; each saved state holds how many bytes of them
it stands for, and what a killed process wrote beyond that is cut off.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import yaml
from torch import Tensor

from tombola._utils import io
from tombola._utils.checkpoint import Checkpoint, State
from tombola._utils.device import deterministic
from tombola._utils.errors import RunError
from tombola.runs.cache import OnProgress, OnRecord, StageCache, StageCheckpoint
from tombola.runs.lock import acquire, began_over, begun, begun_on, turn
from tombola.runs.log import difference, environment, read_config, read_records
from tombola.runs.stages import NO_WORK, Stage, Work
from tombola.training.parallel import Parallel, settled, world

_CURRENT = "current"
DAMAGED = "delete it, and the run computes this stage again"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class Run(StageCache):
    """A journal on disk; one process at a time.

    Args:
        path: the directory; made if absent.
        config: what was asked for. An existing run must have the same, apart from ``methods``, which
            may grow, and ``source``, where the data may have moved to.
        progress: called as stages advance.
        save_seconds: least time between two saved states of a stage.
        shared: a folder for results that other runs need as well (stages with a key).
        parallel: how tickets are run (`tombola.training.parallel`); ``auto`` is as the run began.
        on_record: called with every record as it is made.
        device: where the network is.

    Raises:
        RunError: the directory belongs to something else, to another config, or to a live process.
    """

    def __init__(
        self,
        path: Path | str,
        config: dict[str, Any],
        progress: OnProgress | None = None,
        save_seconds: float = 5.0,
        shared: Path | None = None,
        parallel: Parallel = "auto",
        on_record: OnRecord | None = None,
        device: str = "cpu",
    ) -> None:
        super().__init__(parallel, progress, on_record)
        self.path, self.save_seconds = Path(path), save_seconds
        self.records, self.shared = self.path / "records.jsonl", shared
        self._facts: dict[str, dict[str, Any]] = {}  # of finished stages; their tensors stay on the disk
        self._unfinished: str | None = None  # the stage whose state was saved, but not its result
        self._recorded: set[str | None] | None = None
        with _writable(self.path):
            self._lock = acquire(self.path)
            self._open(config, parallel, device)

    def _open(self, config: dict[str, Any], parallel: Parallel, device: str) -> None:
        try:
            self._configure(config)
            self._sweep()
            if not (self.path / "environment.json").exists():  # that of the beginning
                began = {**environment(), "parallel": settled(parallel), "device": device, **_over_ranks()}
                content = json.dumps(began, indent=2) + "\n"
                io.write_bytes(self.path / "environment.json", content.encode())
            self.parallel = begun(self.path, parallel)
            begun_on(self.path, device)
            self.notes += began_over(self.path, self.parallel)
            if device != "cpu":
                deterministic()
            self._cut_records()
        except BaseException:
            self.close()
            raise

    def _configure(self, config: dict[str, Any]) -> None:
        file = self.path / "config.yaml"
        if file.exists():
            old = read_config(self.path)
            if (what := difference(old, config)) is not None:
                raise RunError(
                    f"{self.path} was made with {what}. Choose another directory, or delete the run"
                )
            methods = dict.fromkeys([*old.get("methods", []), *config.get("methods", [])])
            config = {**config, "methods": list(methods)}
        self.config = config
        io.write_bytes(file, yaml.safe_dump(config, sort_keys=False).encode())

    def _sweep(self) -> None:
        """Remove the temporary files of a killed process (`io.write_bytes`)."""
        for pattern in (".config.yaml.*", ".environment.json.*", "*/.*.safetensors.*", "*/.*.tickets.*"):
            for file in self.path.glob(pattern):
                file.unlink()

    # -- stages -----------------------------------------------------------------------------------

    def _stage_file(self, name: str) -> Path:
        return _stage_file(self.path, name)

    def get_or_compute(
        self,
        stage: Stage | str,
        compute: Callable[[Checkpoint], State],
        key: str = "",
        work: Work = NO_WORK,  # noqa: ARG002
    ) -> State:
        """The result of a stage, from disk if it was finished in this or an earlier process, or is shared."""
        name = str(stage)
        if (found := finished_stage(self.path, name)) is not None:
            return found
        if self.shared and key:
            with turn(file := self.shared / f"{key}.safetensors"):  # of runs at once one computes it
                found = self._of_all(stage, compute, file)
        else:
            found = self._compute(stage, compute)
        self._facts[name] = found[1]
        return found

    def _of_all(self, stage: Stage | str, compute: Callable[[Checkpoint], State], file: Path) -> State:
        """A stage that other runs need too: theirs, or computed for all."""
        if file.exists():
            self._forget(str(stage))  # what was begun here is finished elsewhere
            return self._compute(stage, partial(_copied, file))
        found = self._compute(stage, compute)
        self._share(str(stage), found, file)
        return found

    def _share(self, name: str, state: State, file: Path) -> None:
        """Put a finished stage where other runs find it, with its records."""
        tensors, metadata = state
        own = [row for row in read_records(self.path) if row["stage"] == name]
        given = {"stage", *((Stage.parse(name) or Stage("judge")).fields())}
        rows = [{key: value for key, value in row.items() if key not in given} for row in own]
        io.write(file, tensors, {"facts": metadata, "rows": rows})

    def _forget(self, name: str) -> None:
        """Drop the saved state of an interrupted stage, and its records."""
        if self._unfinished == name:
            self._stage_file(_CURRENT).unlink()
            self._cut_records()

    def _compute(self, stage: Stage | str, compute: Callable[[Checkpoint], State]) -> State:
        name = str(stage)
        if self._unfinished not in (None, name):  # another stage goes first now: that one begins again
            self._stage_file(_CURRENT).unlink()
            self._cut_records()
        begin = time.perf_counter()
        with _writable(self.path), self.records.open("a") as file:
            checkpoint = RunCheckpoint(self, stage, file)
            tensors, metadata = compute(checkpoint)
            seconds = round(time.perf_counter() - begin, 3)
            with (self.path / "timings.jsonl").open("a") as timings:
                row = {"stage": name, "seconds": seconds, "from_start": checkpoint.fresh}
                timings.write(json.dumps(row) + "\n")
            checkpoint.commit(name, tensors, metadata)
        self._stage_file(_CURRENT).unlink(missing_ok=True)
        self._unfinished = None
        return tensors, metadata

    def metadata(self, stage: Stage | str) -> dict[str, Any] | None:
        """The metadata of a finished stage; None if it was never done."""
        return self._facts.get(str(stage))

    def finished(self) -> dict[str, dict[str, Any]]:
        """The metadata of the stages that were finished when the run was opened, or are since."""
        return dict(self._facts)

    def file(self, name: str) -> Path | None:
        """A ticket file of this run."""
        return self.path / "tickets" / io.file_name(name)

    def _cut_records(self) -> None:
        """Drop the lines that a killed process wrote after its last saved state."""
        files = (self.path / "stages").glob("*.safetensors")
        states = {file.stem: io.read_metadata(file, DAMAGED) for file in files}
        self._facts = {s["stage"]: s["facts"] for at, s in states.items() if at != _CURRENT}
        self._unfinished = states[_CURRENT]["stage"] if _CURRENT in states else None
        if self._unfinished is not None and io.file_name(self._unfinished) in states:
            self._stage_file(_CURRENT).unlink()  # the process died between the result and this
            self._unfinished = None
        size = max((state["records_bytes"] for state in states.values()), default=0)
        if not self.records.exists():
            self.records.touch()
        if self.records.stat().st_size < size:
            raise RunError(
                f"{self.records} is shorter than the run's states say: it was altered; restore it, or "
                "delete the run and start again"
            )
        os.truncate(self.records, size)

    def recorded(self, name: str) -> bool:
        """Whether all records of a stage are there, as where its result alone was deleted."""
        if self._recorded is None:  # as it was before this process computed anything
            stages = [row.get("stage") for row in read_records(self.path)]
            begun = stages[-1:] == [self._unfinished]  # whose records go on at the end
            self._recorded = set(stages) - ({self._unfinished} if begun else set())
        return name in self._recorded

    def close(self) -> None:
        """Let another process have the run."""
        self._lock.close()


class RunCheckpoint(StageCheckpoint):
    """A stage that appends its rows to ``records.jsonl`` and saves its states in the run."""

    def __init__(self, run: Run, stage: Stage | str, file: TextIO) -> None:
        super().__init__(run, str(stage))
        self.run, self._file = run, file
        self.known = run.recorded(self.name)
        self._fields = {"stage": self.name, **(stage.fields() if isinstance(stage, Stage) else {})}
        self.fresh = True
        self._saved_at = time.monotonic()

    def keep(self, row: dict[str, Any]) -> None:
        """Append one line, unless it is there."""
        if self.known:
            return
        self._file.write(json.dumps({**self._fields, **row}, sort_keys=True) + "\n")

    def load(self) -> State | None:
        """The saved state, if the process died in this stage."""
        file = self.run._stage_file(_CURRENT)
        if not file.exists():
            return None
        tensors, state = _state(file)
        if state["stage"] != self.name:
            return None
        self.fresh = False
        return tensors, state["facts"]

    def save(self, tensors: Callable[[], dict[str, Tensor]], metadata: dict[str, Any]) -> None:
        """Save a state, unless the last one is recent."""
        if time.monotonic() - self._saved_at >= self.run.save_seconds:
            self.commit(_CURRENT, tensors(), metadata)
            self._saved_at = time.monotonic()

    def commit(self, target: str, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
        """Make the rows durable, then the state that stands for them."""
        self._file.flush()
        os.fsync(self._file.fileno())
        state = {"stage": self.name, "facts": metadata, "records_bytes": self.run.records.stat().st_size}
        io.write(self.run._stage_file(target), tensors, state)


def _over_ranks() -> dict[str, int]:
    """How many processes carry a run out, where it is said."""
    return {} if (here := world()) is None else {"ranks": here[1]}


def finished_stage(path: Path, name: str) -> State | None:
    """The result of a stage of a run, if it is there."""
    if not (file := _stage_file(path, name)).exists():
        return None
    tensors, state = _state(file)
    return tensors, state["facts"]


def _stage_file(path: Path, name: str) -> Path:
    return path / "stages" / f"{io.file_name(name)}.safetensors"


def _copied(file: Path, checkpoint: Checkpoint) -> State:
    """The result of a stage that another run has shared, and its records."""
    tensors, state = _state(file)
    for row in state["rows"]:
        checkpoint.record(**row)
    return tensors, state["facts"]


def _state(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The content of a stage file."""
    return io.read(file, DAMAGED)


@contextmanager
def _writable(path: Path) -> Iterator[None]:
    """Say how a run goes on where the disk is full or read-only."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise RunError(
            f"{error.filename or path}: {error.strerror}: make room, or make it writable; then "
            f"tombola resume {path}, or the same call, goes on where it was"
        ) from error
