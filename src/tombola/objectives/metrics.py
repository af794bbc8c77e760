"""Metrics by their names: how each is labelled and formatted, and whether more of it is better."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MetricInfo:
    """How a metric is shown: its ``name`` in records, its label in tables, and the format of its values."""

    name: str
    label: str
    format: str = "number"
    higher_is_better: bool | None = None


METRICS: dict[str, MetricInfo] = {}


def register_metric(info: MetricInfo) -> None:
    """Add a metric to `METRICS`."""
    METRICS[info.name] = info
