"""Values of JSON as inputs of tickets: samples in nested lists, rows of a table, texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tombola._utils.batch import Batch
from tombola._utils.errors import DataError
from tombola.data.table import needed
from tombola.lab.evaluation.inputs import Form, arrays_as, columns_as, finished
from tombola.tickets.inputs import Inputs

NAME = "inputs"
LARGEST = 2.0**63  # whole numbers are of 64 bits


def inputs_among(values: Any, taken: Inputs, on_progress: Callable[[str], None] = lambda _: None) -> Batch:
    """The network's inputs in values of JSON, ``[B, ...]``; one sample or several, as tickets take them.

    Args:
        values: numbers in nested lists; of several parts a mapping of such; of a table a mapping from columns
            to values, or a list of those; of text a string, or a list of those.
        taken: what the tickets take.
        on_progress: is told where numbers are of another scale than in training.

    Raises:
        DataError: values that these tickets do not take.

    >>> rows = Inputs({"tensor": [2], "dtype": "float32", "range": None}, features=["area", "rooms"])
    >>> inputs_among({"rooms": 3, "area": 80.5}, rows)
    tensor([[80.5000,  3.0000]])
    >>> inputs_among([[1, 2], [3, 4]], rows)
    tensor([[1., 2.],
            [3., 4.]])
    """
    if taken.text is not None:
        return taken.prepared(taken.tokens(_texts(values, taken.text["column"])))
    if taken.kind == "sound":
        raise DataError("these tickets take sounds: send one as the body, such as audio/wav")
    rows = _rows(values)
    if rows is not None and taken.features is not None:
        x = columns_as(NAME, _columns(rows, taken.features), taken.features, taken)
        return finished(NAME, x, taken, on_progress)
    form = taken.stored
    if "tensor" in form:
        parts = {"": _exact(NAME, values, form)}
    elif isinstance(values, Mapping) and values.keys() == form.get("dict", {}).keys():
        parts = {name: _exact(name, part, form["dict"][name]) for name, part in values.items()}
    else:
        names = ", ".join(form.get("dict", ())) or "parts that have no names, which only Python can give"
        raise DataError(f"{NAME}: these tickets take a mapping of {names}")
    return finished(NAME, arrays_as(NAME, parts, form), taken, on_progress)


def _texts(values: Any, column: str) -> list[str]:
    rows = _rows(values)
    if rows is not None:
        values = [row.get(column) for row in rows]
    texts = [values] if isinstance(values, str) else values
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise DataError(f"these tickets take text: a string, a list of strings, or rows with {column!r}")
    return texts


def _rows(values: Any) -> list[Mapping[str, Any]] | None:
    """Rows of a table, or one; None where the values are something else."""
    rows = [values] if isinstance(values, Mapping) else values
    mappings = isinstance(rows, list) and rows and all(isinstance(row, Mapping) for row in rows)
    return rows if mappings else None


def _columns(rows: list[Mapping[str, Any]], features: Any) -> dict[str, list[Any]]:
    """The columns that are needed."""
    names = needed(features)
    if missing := [name for name in names if not any(name in row for row in rows)]:
        raise DataError(f"{NAME}: there is no {missing[0]!r}: a row needs {', '.join(names)}")
    found = {name: [row.get(name) for row in rows] for name in names}
    for name, values in found.items():
        if any(not isinstance(v, int | float | None) or abs(v or 0) >= LARGEST for v in values):
            raise DataError(f"{NAME}: column {name!r} needs one number in each row")
    return found


def _exact(name: str, values: Any, form: Form) -> np.ndarray:
    """Numbers as an array of the form's kind, which has no numbers but whole ones if that is its kind."""
    try:
        found = np.asarray(values)
    except (ValueError, OverflowError):
        raise DataError(f"{name}: all samples need one shape, {form['tensor']}") from None
    if found.dtype.kind not in "biuf":
        raise DataError(f"{name}: numbers are needed, in lists of shape {form['tensor']} or [B, ...]")
    if form["dtype"].startswith(("float", "bfloat")):
        return found
    with np.errstate(invalid="ignore"):
        whole = found.astype(form["dtype"])
    if not np.array_equal(whole, found):
        raise DataError(f"{name}: some numbers are no {form['dtype']}, on which these tickets were trained")
    return whole
