"""Records of runs as event files of TensorBoard, once or while the runs go on."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any

from tombola._utils.errors import MissingExtra
from tombola.lab.report.scalars import scalars
from tombola.runs.log import read_records


class Events:
    """Writes what is new in some runs into a folder: ``FOLDER/RUN/GROUP``, curves as in `scalars`.

    A second conversion into the same folder takes the place of the first. Records hold no times: the wall
    time that TensorBoard shows is that of the conversion.

    Args:
        folder: for ``tensorboard --logdir``.
        runs: run directories; of several, each has a folder named after it.

    Raises:
        MissingExtra: without tensorboard.
    """

    def __init__(self, folder: Path, runs: Sequence[Path]) -> None:
        self.folder, self.names, self._make = folder, names(runs), _writer()
        self._written = dict.fromkeys(self.names, 0)
        self._writers: dict[str, Any] = {}

    def look(self) -> int:
        """Write what was recorded since the last look; returns how many scalars."""
        count = 0
        for run, name in self.names.items():
            for scalar in islice(_of(run), self._written[run], None):
                self._writer(f"{name}/{scalar.group}").add_scalar(scalar.name, scalar.value, scalar.step)
                self._written[run] += 1
                count += 1
        for writer in self._writers.values():
            writer.flush()
        return count

    def _writer(self, name: str) -> Any:
        if name not in self._writers:  # from step 0 on, what was written before is not shown any more
            self._writers[name] = self._make(str(self.folder / name), purge_step=0)
        return self._writers[name]

    def __enter__(self) -> Events:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for writer in self._writers.values():
            writer.close()


def names(runs: Sequence[Path]) -> dict[Path, str]:
    """What tells runs apart: their paths below the folder that they have in common.

    >>> list(names([Path("a/b/seed0"), Path("a/c/seed0")]).values()), list(names([Path("a/seed0")]).values())
    (['b/seed0', 'c/seed0'], ['seed0'])
    """
    parts = [run.resolve().parts for run in runs]
    common = 0
    while all(len(each) > common + 1 and each[common] == parts[0][common] for each in parts):
        common += 1
    return {run: "/".join(each[common:]) for run, each in zip(runs, parts, strict=True)}


def _of(run: Path) -> Any:
    return scalars(read_records(run)) if (run / "records.jsonl").exists() else iter(())


def _writer() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise MissingExtra("tensorboard", "tensorboard", "curves for TensorBoard") from None
    return SummaryWriter
