"""Data for one more ticket, from a file, a folder or Python, in the form that the tickets of a file take."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tombola._utils.errors import DataError, UnknownColumn, UsageError, readable, unknown
from tombola._utils.imported import imported
from tombola.data.dataset import Data
from tombola.data.table import TABLES, frame
from tombola.data.text import Text
from tombola.objectives import Objective
from tombola.tickets.growth import alike
from tombola.tickets.inputs import Inputs
from tombola.tickets.model import TicketModel
from tombola.tickets.quality import quality


def data_of(where: str, target: str | None, taken: Inputs) -> Data:
    """The data at a path, or by ``MODULE:NAME``, split as `tombola.Data` splits them.

    Args:
        where: a table (CSV, Parquet) with a column of targets; arrays ``x`` and ``y`` (.npz); a folder of
            pictures in folders of their classes; or the name of a `tombola.Data`, or of a function that
            makes one.
        target: the column of a table.
        taken: what the tickets take: names of columns, the size of pictures.

    Raises:
        UsageError: no column of this name, or none is named.
        DataError: nothing that can be read there.
    """
    path = Path(where)
    if path.is_dir():
        return _pictures(path, taken)
    if path.suffix.lower() in TABLES:
        if target is None:
            raise UsageError(f"{path} is a table: say with --target which column is asked for")
        return _table(path, target, taken)
    if path.suffix.lower() == ".npz":
        return _arrays(path)
    if ":" not in where or path.exists():
        raise DataError(
            f"{where} is no table (CSV, Parquet), no arrays x and y (.npz), no folder of pictures, and not "
            "MODULE:NAME of a tombola.Data"
        )
    return named_data(where)


def named_data(where: str) -> Data:
    """The `tombola.Data` at MODULE:NAME, or what a function of this name makes."""
    found: Any = imported(where, "--data")
    made = found() if callable(found) else found
    if not isinstance(made, Data):
        raise DataError(f"--data {where} gives {type(made).__name__}, not a tombola.Data")
    return made


def pictures_as(taken: Inputs, folder: Path) -> dict[str, Any]:
    """How pictures of a folder are read for tickets that take pictures: their size, and whether grey."""
    shape = (taken.stored or {}).get("tensor", ())
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise DataError(f"{folder} is a folder of pictures, but these tickets take {list(shape) or 'others'}")
    return {"size": shape[2], "grey": shape[0] == 1}


def _pictures(folder: Path, taken: Inputs) -> Data:
    data = Data.from_folder(folder, **pictures_as(taken, folder))
    # Prepared as the others, not as pictures usually are.
    return Data(data.train, data.validation, data.test, class_names=data.class_names)


def _table(path: Path, target: str, taken: Inputs) -> Data:
    table = frame(path)
    if target not in map(str, table.columns):
        raise UsageError(f"{path}: {unknown('column', target, map(str, table.columns))}")
    how: dict[str, Any] = {}
    if taken.text is not None:
        known = Text(**taken.text)
        how = {"text": known.column, "tokenizer": known.opened(), "length": known.length}
    elif taken.features is not None:
        how = {"inputs": taken.features}
    try:
        return Data.from_table(table, target=target, **how)
    except UnknownColumn as error:  # one that the tickets take
        raise DataError(f"{path}: {error}") from None


def _arrays(path: Path) -> Data:
    with readable(path, "array"), np.load(path, allow_pickle=False) as held:
        parts = dict(held)
    if not {"x", "y"} <= parts.keys():
        raise DataError(f"{path} holds {', '.join(parts) or 'nothing'}: arrays x and y are needed")
    return Data.of(parts["x"], parts["y"])


def judged(tickets: TicketModel, name: str, data: Data, objective: Objective) -> dict[str, float]:
    """The metrics of a ticket on the test split of its data, which are read as the tickets' own."""
    data, objective = alike(tickets, data, objective)
    return quality(partial(tickets, ticket=name), name, data, objective, tickets.bits_KM.device)
