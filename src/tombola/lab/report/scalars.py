"""The records of a run as named curves, for programs that draw scalars over steps."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

_STAGE = re.compile(r"(?P<phase>\w+?)-(?P<what>.+?)-(?P<sparsity>\d[\d.]*(e-\d+)?)(-.+)?")


class Scalar(NamedTuple):
    """One point of a curve.

    Attributes:
        group: what is compared under equal names: ``search own``, ``rtl``.
        name: of the curve.
        step: where: round (from 1), training step, or weights removed in thousandths.
        value: how much.
    """

    group: str
    name: str
    step: int
    value: float


def scalars(records: Iterable[Mapping[str, Any]]) -> Iterator[Scalar]:
    """Curves from records, in their order.

    Of a search, over its rounds: ``loss/TICKET``, ``kept/TICKET``, ``density``, ``kappa`` and
    ``specialisation`` (where a twin is taken along), ``jaccard`` (mean over pairs). Of a training, over its
    steps: ``loss_at_SPARSITY/TICKET``. Of an outcome, over the weights removed, in thousandths: every metric,
    ``READING/METRIC/TICKET``.

    >>> row = {"event": "prune", "stage": "search-own-0.5", "round": 0, "ticket": "a", "kept": 9, "loss": 0.5}
    >>> [*scalars([row])][0]
    Scalar(group='search own', name='loss/a', step=1, value=0.5)
    """
    for record in records:
        made, named = _SORTS.get(record["event"]), _STAGE.fullmatch(record.get("stage", ""))
        found = made(record, named) if made and named else _metric(record) if "metric" in record else ()
        for group, name, step, value in found:
            if value is not None and np.isfinite(value):
                yield Scalar(group.replace("-", " "), name, step, float(value))


Points = Iterator[tuple[str, str, int, Any]]


def _prune(record: Mapping[str, Any], named: re.Match[str]) -> Points:
    for name in ("loss", "kept"):
        if name in record:
            yield f"search {named['what']}", f"{name}/{record['ticket']}", record["round"] + 1, record[name]


def _watch(record: Mapping[str, Any], named: re.Match[str]) -> Points:
    for name in ("density", "kappa", "specialisation", "drift"):
        if name in record:
            yield f"search {named['what']}", name, record["round"] + 1, record[name]


def _similarity(record: Mapping[str, Any], named: re.Match[str]) -> Points:
    matrix = np.asarray(record["matrix"], dtype=float)
    pairs = matrix[~np.eye(len(matrix), dtype=bool)]
    pairs = pairs[~np.isnan(pairs)]
    if len(pairs) and record["kind"] == "jaccard" and record.get("depth", "all") == "all":
        yield f"search {named['what']}", "jaccard", record["round"] + 1, pairs.mean()


def _retrain(record: Mapping[str, Any], named: re.Match[str]) -> Points:
    at = f"loss_at_{named['sparsity']}"
    yield named["what"], f"{at}/{record['ticket']}", record["step"], record["loss"]


def _metric(record: Mapping[str, Any]) -> Points:
    parts = [record.get("reading", "outcome"), record["metric"], record.get("ticket", "")]
    yield record["method"], "/".join(filter(None, parts)), round(1000 * record["sparsity"]), record["value"]


_SORTS = {
    "prune": _prune,
    "watch": _watch,
    "similarity": _similarity,
    "retrain": _retrain,
}
