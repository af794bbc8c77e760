"""A router for a ticket file without a run: data that name the ticket of each sample, the fit, how it does.

Shape letters: S samples, K tickets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tombola._utils import batch
from tombola._utils.errors import DataError, UnknownColumn, UsageError, unknown
from tombola.data import prepare
from tombola.data.dataset import Data
from tombola.data.images import SUFFIXES
from tombola.data.partition import Partition, by_column
from tombola.data.table import TABLES, frame, read_text
from tombola.lab.evaluation.inputs import columns_as
from tombola.lab.evaluation.new_data import named_data, pictures_as
from tombola.lab.evaluation.router_evaluator import over_test
from tombola.tickets.inputs import Inputs
from tombola.tickets.model import TicketModel
from tombola.tickets.routing import Router, router

LEVEL = "ticket"  # of folders of pictures


@dataclass(frozen=True)
class Fitted:
    """A router, and what it does with held-out samples.

    Attributes:
        router: fitted.
        samples: by split.
        accuracy: the share of held-out samples that are sent to their own ticket.
        each: the same of the samples of each ticket.
        confidence: mean.
    """

    router: Router
    samples: dict[str, int]
    accuracy: float
    each: dict[str, float]
    confidence: float


def samples_of(where: str, column: str | None, taken: Inputs, names: Sequence[str]) -> tuple[Data, Partition]:
    """Samples whose tickets are known, split as `tombola.Data` splits them.

    Args:
        where: a table (CSV, Parquet); a folder of pictures in folders that are called like the tickets; or
            MODULE:NAME of a `tombola.Data`, or of a function that makes one.
        column: that names the ticket; not for a folder.
        taken: what the tickets take.
        names: of the tickets.

    Raises:
        UsageError: no column is named, or there is none of this name.
        DataError: nothing that can be read there, or that these tickets take; a sample without a ticket, or
            with one that there is not; a ticket without a sample.
    """
    path = Path(where)
    if path.is_dir():
        if column is not None:
            raise UsageError(f"the folders in {path} name the tickets: leave --ticket-column out")
        data, column = _pictures(path, taken), LEVEL
    elif column is None:
        raise UsageError(f"say with --ticket-column which column of {where} names the ticket of each sample")
    elif path.suffix.lower() in TABLES:
        data = _table(path, column, taken, names)
    elif ":" in where and not path.exists():
        data = named_data(where)
    else:
        raise DataError(
            f"{where} is no table (CSV, Parquet), no folder of pictures, and not MODULE:NAME of a "
            "tombola.Data"
        )
    return data, by_column(data, column)


def _table(path: Path, column: str, taken: Inputs, names: Sequence[str]) -> Data:
    if taken.kind == "sound":
        raise DataError(f"{path} is a table, but these tickets take sounds: fit the router in Python")
    table = frame(path)
    if column not in map(str, table.columns):
        raise UsageError(f"{path}: {UnknownColumn(column, map(str, table.columns))}")
    if missing := int(table[column].isna().sum()):
        raise DataError(f"{path}: column {column!r} has {missing} missing value{'s' * (missing > 1)}")
    who = [str(value) for value in table[column]]
    if wrong := next(((i, name) for i, name in enumerate(who, 1) if name not in names), None):
        raise DataError(f"{path}: column {column!r}, row {wrong[0]}: {unknown('ticket', wrong[1], names)}")
    if lacking := [name for name in names if name not in who]:
        raise DataError(f"{path}: no row of column {column!r} is of the ticket {lacking[0]!r}")
    if taken.text is not None:
        x = taken.tokens(read_text(table, taken.text["column"]))
    else:
        others = [name for name in table.columns if str(name) != column]
        x = columns_as(str(path), table, others if taken.features is None else taken.features, taken)
    return Data.of(x, torch.zeros(batch.size(x)), {column: who}, prepare=prepare.restored(taken.prepare))


def _pictures(folder: Path, taken: Inputs) -> Data:
    how = pictures_as(taken, folder)
    here = any(file.suffix.lower() in SUFFIXES for file in folder.glob("*/*"))
    levels = (LEVEL,) if here else (LEVEL, "class")
    data = Data.from_folder(folder, levels=levels, target=LEVEL, **how)
    return replace(data, prepare=prepare.restored(taken.prepare))


def fitted(
    tickets: TicketModel, data: Data, partition: Partition, name: str, options: dict[str, Any]
) -> Fitted:
    """The router of this name, fitted on training and validation samples and judged on the others."""
    made = router(name, **options).fit(tickets, data, partition)
    routed = over_test(made, tickets, data)
    members_SK = partition.members["test"][:, [partition.names.index(name) for name in tickets.names]]
    right_S = members_SK[torch.arange(len(members_SK)), routed.index_B]
    each = {n: _share(right_S[mine_S]) for n, mine_S in zip(tickets.names, members_SK.T, strict=True)}
    counts = {split: len(data.split(split)) for split in ("train", "validation", "test")}
    return Fitted(made, counts, _share(right_S), each, float(routed.confidence_B.mean()))


def _share(right_S: Tensor) -> float:
    return float(right_S.double().mean())
