"""A run is a directory that explains itself and survives ``kill -9`` at any moment.

    config.yaml         what was asked for; a run goes on only with the same
    environment.json    versions, machine, git commit
    records.jsonl       one line per measured thing; the same bytes however often it was interrupted
    timings.jsonl       seconds per stage; the only file that differs between two equal runs
    stages/NAME.safetensors     result of each finished stage
    stages/current.safetensors  state of the stage in progress
    tickets/NAME.tickets        the ticket files

Every file is replaced atomically. Records are appended; each saved state holds how many bytes of them
it stands for, and what a killed process wrote beyond that is cut off.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import sklearn
import torch
import yaml
from torch import Tensor

from tombola import storage
from tombola.errors import RunError
from tombola.journal import Journal
from tombola.stage import Stage, State

Progress = Callable[[str, int, int], None]  # (stage, done, total)
_CURRENT = "current"
# Hashes in the config say nothing to a reader; these do.
_ORIGIN = {
    "theta0": "other initial weights: seed them (torch.manual_seed) before you build the backbone",
    "data": "other data, or another split of them",
    "partition": "another partition: other subsets, names or order",
    "backbone": "another architecture of the backbone",
}


class Run(Journal):
    """A journal on disk; one process at a time.

    Args:
        path: the directory; made if absent.
        config: what was asked for. An existing run must have the same, apart from ``methods``, which
            may grow, and ``source``, where the data may have moved to.
        progress: called as stages advance.
        save_seconds: least time between two saved states of a stage.

    Raises:
        RunError: the directory belongs to something else, to another config, or to a live process.
    """

    def __init__(
        self,
        path: Path | str,
        config: dict[str, Any],
        progress: Progress | None = None,
        save_seconds: float = 5.0,
    ) -> None:
        super().__init__()
        self.path, self.progress, self.save_seconds = Path(path), progress, save_seconds
        self.records = self.path / "records.jsonl"
        self._unfinished: str | None = None  # the stage whose state was saved, but not its result
        self._claim()
        self._lock = _lock(self.path)
        try:
            self._configure(config)
            self._sweep()
            if not (self.path / "environment.json").exists():  # that of the beginning
                storage.write_bytes(self.path / "environment.json", _json(environment()))
            self._cut_records()
        except BaseException:
            self.close()
            raise

    def _claim(self) -> None:
        if self.path.is_dir() and any(self.path.iterdir()) and not (self.path / "config.yaml").exists():
            strangers = [p.name for p in self.path.iterdir() if not p.name.startswith(".")]
            if strangers:
                raise RunError(f"{self.path} is not empty and no run: choose another directory")
        self.path.mkdir(parents=True, exist_ok=True)

    def _configure(self, config: dict[str, Any]) -> None:
        file = self.path / "config.yaml"
        if file.exists():
            old = read_config(self.path)
            differing = [
                key
                for key in dict.fromkeys([*old, *config])
                if key not in ("methods", "source") and old.get(key) != config.get(key)
            ]
            if differing:
                key = differing[0]
                what = _ORIGIN.get(key) or f"another {key}: {_short(old.get(key), config.get(key))}"
                raise RunError(
                    f"{self.path} was made with {what}. Choose another directory, or delete the run"
                )
            methods = dict.fromkeys([*old.get("methods", []), *config.get("methods", [])])
            config = {**config, "methods": list(methods)}
        self.config = config
        storage.write_bytes(file, yaml.safe_dump(config, sort_keys=False).encode())

    def _sweep(self) -> None:
        """Remove the temporary files of a killed process (`tombola.storage.write_bytes`)."""
        for pattern in (".config.yaml.*", ".environment.json.*", "*/.*.safetensors.*", "*/.*.tickets.*"):
            for file in self.path.glob(pattern):
                file.unlink()

    # -- stages -----------------------------------------------------------------------------------

    def _stage_file(self, name: str) -> Path:
        return self.path / "stages" / f"{_flat(name)}.safetensors"

    def once(self, name: str, compute: Callable[[Stage], State]) -> State:
        """The result of a stage, from disk if it was finished in this or an earlier process."""
        if name not in self.results:
            if self._stage_file(name).exists():
                self.results[name] = self._read(name)
            else:
                self.results[name] = self._compute(name, compute)
        return self.results[name]

    def _read(self, name: str) -> State:
        tensors, facts = storage.read(self._stage_file(name))
        return tensors, facts["facts"]

    def _compute(self, name: str, compute: Callable[[Stage], State]) -> State:
        if self._unfinished not in (None, name):  # another stage goes first now: that one begins again
            self._stage_file(_CURRENT).unlink()
            self._cut_records()
        begin = time.perf_counter()
        with self.records.open("a") as file:
            stage = RunStage(self, name, file)
            tensors, facts = compute(stage)
            seconds = round(time.perf_counter() - begin, 3)
            with (self.path / "timings.jsonl").open("a") as timings:
                row = {"stage": name, "seconds": seconds, "from_start": stage.fresh}
                timings.write(json.dumps(row) + "\n")
            stage.commit(name, tensors, facts)
        self._stage_file(_CURRENT).unlink(missing_ok=True)
        self._unfinished = None
        return tensors, facts

    def facts(self, name: str) -> dict[str, Any] | None:
        """The facts of a finished stage; None if it was never done."""
        if name not in self.results and self._stage_file(name).exists():
            self.results[name] = self._read(name)
        return super().facts(name)

    def file(self, name: str) -> Path | None:
        """A ticket file of this run."""
        return self.path / "tickets" / _flat(name)

    def _cut_records(self) -> None:
        """Drop the lines that a killed process wrote after its last saved state."""
        files = (self.path / "stages").glob("*.safetensors")
        states = {file.stem: storage.read(file)[1] for file in files}
        self._unfinished = states[_CURRENT]["stage"] if _CURRENT in states else None
        if self._unfinished is not None and _flat(self._unfinished) in states:
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

    def close(self) -> None:
        """Let another process have the run."""
        self._lock.close()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class RunStage(Stage):
    """A stage that appends its rows to ``records.jsonl`` and saves its states in the run."""

    def __init__(self, run: Run, name: str, file: TextIO) -> None:
        super().__init__()
        self.run, self.name, self._file = run, name, file
        self.fresh = True
        self._saved_at = time.monotonic()

    def record(self, **row: Any) -> None:
        """Append one line."""
        self._file.write(json.dumps({"stage": self.name, **row}, sort_keys=True) + "\n")

    def load(self) -> State | None:
        """The saved state, if the process died in this stage."""
        file = self.run._stage_file(_CURRENT)
        if not file.exists():
            return None
        tensors, state = storage.read(file)
        if state["stage"] != self.name:
            return None
        self.fresh = False
        return tensors, state["facts"]

    def save(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Save a state, unless the last one is recent."""
        if time.monotonic() - self._saved_at >= self.run.save_seconds:
            self.commit(_CURRENT, tensors, facts)
            self._saved_at = time.monotonic()

    def commit(self, target: str, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Make the rows durable, then the state that stands for them."""
        self._file.flush()
        os.fsync(self._file.fileno())
        state = {"stage": self.name, "facts": facts, "records_bytes": self.run.records.stat().st_size}
        storage.write(self.run._stage_file(target), tensors, state)

    def advance(self, done: int, total: int) -> None:
        """Tell the run's listener."""
        if self.run.progress is not None:
            self.run.progress(self.name, done, total)


def _lock(path: Path) -> TextIO:
    file = (path / ".lock").open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.seek(0)
        owner = file.read().strip() or "unknown"
        file.close()
        raise RunError(f"{path} is being written by another process (pid {owner}): wait for it") from None
    file.seek(0)
    file.truncate()
    file.write(str(os.getpid()))
    file.flush()
    return file


def _flat(name: str) -> str:
    return name.replace("/", "%2F")  # subsets may be named anything


def read_config(path: Path | str) -> dict[str, Any]:
    """The config of a run directory.

    Raises:
        RunError: it is no run, or the file cannot be read.
    """
    file = Path(path) / "config.yaml"
    if not file.is_file():
        raise RunError(f"{path} is no run: it has no config.yaml")
    try:
        config = yaml.safe_load(file.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise RunError(f"{file} cannot be read ({reason}): restore it or delete the run") from None
    if not isinstance(config, dict):
        raise RunError(f"{file} holds no config: restore it or delete the run")
    return config


def read_environment(path: Path | str) -> dict[str, Any]:
    """What the run began with: versions, machine, threads; empty if that is lost."""
    try:
        found: dict[str, Any] = json.loads((Path(path) / "environment.json").read_text())
    except (OSError, ValueError):
        return {}
    return found


def read_records(path: Path | str) -> Iterator[dict[str, Any]]:
    """The records of a run, one by one."""
    with (Path(path) / "records.jsonl").open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield json.loads(line)
            except ValueError:
                if line.endswith(b"\n"):  # a torn last line is a run in progress
                    raise RunError(f"{path}/records.jsonl, line {number}, is damaged") from None


def read_timings(path: Path | str) -> dict[str, float | None]:
    """Seconds of each stage; None for one that was interrupted and went on from a saved state."""
    file, found = Path(path) / "timings.jsonl", {}
    for line in file.read_bytes().splitlines() if file.exists() else ():
        try:
            row = json.loads(line)
            found[row["stage"]] = row["seconds"] if row["from_start"] else None
        except (ValueError, KeyError):
            continue  # torn when its process was killed; the stage was timed again
    return found


def environment() -> dict[str, Any]:
    """What a result may depend on besides its config, when the run began: versions, machine, commit."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "scikit-learn": sklearn.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "git_commit": _commit(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")


def _commit() -> str:
    """The commit of Tombola's own checkout; empty where it is an installed package."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return ""
    command = ["git", "rev-parse", "HEAD"]
    try:
        found = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.SubprocessError):
        return ""
    return found.stdout.strip()


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()


def _short(old: Any, new: Any) -> str:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*old, *new]):
            if old.get(key) != new.get(key):
                return f"{key}: {_short(old.get(key), new.get(key))}"
    return f"{old!r} there, {new!r} here"
