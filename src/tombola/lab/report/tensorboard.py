"""Records of runs as named curves, and those as event files of TensorBoard, while the runs go on too."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tombola._utils.errors import needs
from tombola.runs.log import read_records


class Scalar(NamedTuple):
    """One point of a curve."""

    group: str  # what is compared under equal names: search own, rtl
    name: str
    step: int  # round (from 1), training step, or weights removed in thousandths
    value: float


def scalars(records: Iterable[Mapping[str, Any]]) -> Iterator[Scalar]:
    """Curves from records (`tombola.runs.log.read_records`), in their order.

    Of a search, over its rounds: ``loss/TICKET``, ``kept/TICKET``, ``density``, ``kappa``, ``jaccard`` (mean
    over pairs). Of a training, over its steps: ``loss_at_SPARSITY/TICKET``. Of an outcome, over the weights
    removed, in thousandths: every metric, ``READING/METRIC/TICKET``.

    >>> row = {"event": "prune", "phase": "search", "view": "own", "round": 0, "ticket": "a", "loss": 0.5}
    >>> list(scalars([row]))
    [Scalar(group='search own', name='loss/a', step=1, value=0.5)]
    """
    for record in records:
        if "metric" in record:
            parts = [record.get("reading", "outcome"), record["metric"], record.get("ticket", "")]
            group, step = record["method"], round(1000 * record["sparsity"])
            values = {"/".join(filter(None, parts)): record["value"]}
        elif record.get("phase") in ("search", "first") and "round" in record:
            told = "told" if record.get("conditioned") else ""
            group = " ".join(filter(None, (record["phase"], told, record.get("method"), record["view"])))
            step, values = record["round"] + 1, _of_round(record)
        elif record.get("phase") == "train" and record["event"] == "retrain":
            group, step = record["method"], record["step"]
            values = {f"loss_at_{record['sparsity']}/{record['ticket']}": record["loss"]}
        else:
            continue
        for name, value in values.items():
            if value is not None and np.isfinite(value):
                yield Scalar(group, name, step, float(value))


def _of_round(record: Mapping[str, Any]) -> dict[str, Any]:
    event = record["event"]
    if event == "prune":
        return {f"{name}/{record['ticket']}": record[name] for name in ("loss", "kept") if name in record}
    if event == "watch":
        return {name: record[name] for name in ("density", "kappa") if name in record}
    if event == "similarity" and (record["kind"], record.get("depth", "all")) == ("jaccard", "all"):
        matrix = np.asarray(record["matrix"], dtype=float)
        pairs = matrix[~np.eye(len(matrix), dtype=bool) & ~np.isnan(matrix)]
        return {"jaccard": pairs.mean()} if len(pairs) else {}
    return {}


class Events(ExitStack):
    """Writes what is new in some runs into a folder: ``FOLDER/RUN/GROUP``, curves as in `scalars`.

    A second conversion into the same folder takes the place of the first. Records hold no times: the wall
    time that TensorBoard shows is that of the conversion.
    """

    def __init__(self, folder: Path, runs: Sequence[Path]) -> None:
        super().__init__()
        with needs("tensorboard", "curves for TensorBoard"):
            from torch.utils.tensorboard import SummaryWriter
        self.folder, self.names, self._make = folder, run_names(runs), SummaryWriter
        self._written = dict.fromkeys(self.names, 0)
        self._writers: dict[str, SummaryWriter] = {}

    def look(self) -> int:
        """Write what was recorded since the last look; returns how many scalars."""
        count = 0
        for run, name in self.names.items():
            records = read_records(run) if (run / "records.jsonl").exists() else ()
            for scalar in islice(scalars(records), self._written[run], None):
                self._writer(f"{name}/{scalar.group}").add_scalar(scalar.name, scalar.value, scalar.step)
                self._written[run] += 1
                count += 1
        for writer in self._writers.values():
            writer.flush()
        return count

    def _writer(self, name: str) -> Any:
        if name not in self._writers:  # from step 0 on, what was written before is not shown any more
            self._writers[name] = self._make(str(self.folder / name), purge_step=0)
            self.callback(self._writers[name].close)
        return self._writers[name]


def run_names(runs: Sequence[Path]) -> dict[Path, str]:
    """What tells runs apart: their paths below the folder that they have in common.

    >>> list(run_names([Path("a/b/seed0"), Path("a/c/seed0")]).values())
    ['b/seed0', 'c/seed0']
    """
    common = os.path.commonpath([run.resolve().parent for run in runs])
    return {run: run.resolve().relative_to(common).as_posix() for run in runs}
