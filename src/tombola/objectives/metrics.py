"""The table of metrics: how each one is called, written, ordered and judged.

All that prints, orders, draws or compares metrics reads it, so a new metric is one entry. An objective
registers its own beside its class, at the level of the module.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from tombola._utils.errors import UsageError, warn

LIKE_FOR_LIKE = "like_for_like"
READINGS = {"paper": "the paper's reading", LIKE_FOR_LIKE: "like for like", "": ""}  # in the order of pages

_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")


def share(value: float) -> str:
    """Write a share with three digits.

    >>> share(0.7813), share(1.0), share(-0.2)
    ('0.781', '1.000', '-0.200')
    """
    return f"{value:.3f}"


def decibel(value: float) -> str:
    """Write two decimals."""
    return f"{value:.2f}"


def decimal(value: float) -> str:
    """Write one decimal."""
    return f"{value:.1f}"


def whole(value: float) -> str:
    """Write a count, thousands separated."""
    return f"{value:,.0f}"


def number(value: float) -> str:
    """Write four digits of a number in any unit, or all before the point.

    >>> number(312345.6), number(0.0123456), number(-2.5)
    ('312,346', '0.01235', '-2.500')
    """
    return f"{value:,.0f}" if abs(value) >= 999.95 else f"{value:#.4g}"


FORMATS = {"share": share, "decibel": decibel, "decimal": decimal, "whole": whole, "number": number}


@dataclass(frozen=True)
class MetricInfo:
    """One metric: how it is called, written, ordered and judged."""

    name: str  # as in records; _at_* stands for a family, as si_snri_at_* for si_snri_at_-5
    label: str  # for captions and axes; {} is the condition of a family
    short: str = ""  # heading of a column; the label in lower case by default
    format: Literal["share", "decibel", "decimal", "whole", "number"] = "share"
    higher_is_better: bool = True
    table: Literal["", "quality", "stored", "cost"] = ""  # where comparisons show it
    readings: tuple[str, ...] = ()  # those whose table of quality shows it; all by default
    headline: tuple[str, ...] = ()  # readings in which it decides comparisons; any: compared within seeds
    primary: bool = False  # whether it stands for the whole task where there is room for one metric
    by_subset: bool = False  # whether each ticket is judged on its own subset, so its values are shown too

    @property
    def inside(self) -> str:
        """The label in the middle of a sentence: ``accuracy``, but ``AUC``."""
        return self.label if self.label[:2].isupper() else self.label[0].lower() + self.label[1:]

    @property
    def column(self) -> str:
        """The heading of a column."""
        return self.short or self.inside

    @property
    def spread(self) -> bool:
        """Whether a mean is printed with its interval; counts and costs are not."""
        return self.format in ("share", "decibel", "number")

    def write(self, value: float) -> str:
        """Write a value.

        >>> metric_info("auc").write(0.5), metric_info("psnr").write(24.0)
        ('0.500', '24.00')
        """
        return FORMATS[self.format](value)

    def write_difference(self, value: float) -> str:
        """Write a difference of two values; the sign is always shown.

        >>> metric_info("auc").write_difference(0.0213), metric_info("auc").write_difference(-0.2)
        ('+0.021', '-0.200')
        """
        return ("-" if math.copysign(1, value) < 0 else "+") + self.write(abs(value))

    def ahead(self, ours: float, theirs: float) -> float:
        """By how much the first of two values is the better one."""
        return ours - theirs if self.higher_is_better else theirs - ours


METRICS: dict[str, MetricInfo] = {}  # in the order of columns
SHIPPED: set[str] = set()  # those of Tombola itself, which whoever reads records knows


def register_metric(info: MetricInfo) -> None:
    """Add a metric to `METRICS`.

    Raises:
        UsageError: another metric has the name.

    >>> register_metric(MetricInfo("perplexity", "Perplexity", format="decimal", higher_is_better=False))
    >>> metric_info("perplexity").write(12.34), METRICS.pop("perplexity").column
    ('12.3', 'perplexity')
    """
    if METRICS.setdefault(info.name, info) != info:
        raise UsageError(f"there is a metric {info.name!r} already: {METRICS[info.name].label}")


def metric_info(name: str) -> MetricInfo:
    """The entry of a metric, or of its family; one that is not registered is taken for a share.

    >>> metric_info("si_snri_at_-5").label, metric_info("my_metric").label
    ('SI-SNRi at -5 dB', 'My metric')
    """
    info = _registered(name)
    if info is None:
        words = name.replace("_", " ")
        return MetricInfo(name, words[:1].upper() + words[1:])
    if info.name == name:
        return info
    condition = name.partition("_at_")[2]
    return replace(info, name=name, label=info.label.format(condition), short=info.short.format(condition))


def _registered(name: str) -> MetricInfo | None:
    """The entry of a metric, or of its family."""
    stem, at, _ = name.partition("_at_")
    return METRICS.get(name) or METRICS.get(f"{stem}{at}*")


def of_own(name: str, reading: str = "") -> MetricInfo:
    """The entry of a metric that is shown, and decides comparisons, though nothing is known but its name.

    >>> of_own("hit_rate").label, of_own("hit_rate").write(0.25)
    ('Hit rate', '0.2500')
    """
    plain, by = metric_info(name), (reading,)
    return replace(plain, format="number", table="quality", headline=by, by_subset=True)


def introduced(readings: Mapping[str, str]) -> list[MetricInfo]:
    """The entries of those of these metrics that are the user's own, which no reader of records knows.

    One that nobody registered is from now on; what is then taken for granted is said in a warning.

    Args:
        readings: by the name of each metric.
    """
    found = {}
    for name, reading in readings.items():
        info = _registered(name)
        if info is None:
            info = of_own(name, reading)
            register_metric(info)
            warn(
                f"metric {name!r} is compared as if higher were better: say what is, with "
                f"Custom(..., better={{{name!r}: 'lower'}}) or tombola.objectives.register_metric"
            )
        if info.name not in SHIPPED:
            found[info.name] = info
        elif info.table != "quality":
            warn(f"metric {name!r} is called like one of Tombola's own, so tables do not show it: rename it")
    return list(found.values())


def ordered(names: Iterable[str]) -> list[MetricInfo]:
    """The entries of those names that are registered, in the order of `METRICS`; a family by condition.

    >>> [info.name for info in ordered(["psnr", "si_snri_at_10", "si_snri_at_-5", "mine", "auc"])]
    ['auc', 'psnr', 'si_snri_at_-5', 'si_snri_at_10']
    """
    order = list(METRICS)
    found = {}
    for name in dict.fromkeys(names):
        stem, at, condition = name.partition("_at_")
        entry = name if name in METRICS else f"{stem}{at}*"
        if entry in METRICS:
            number = float(condition) if _NUMBER.fullmatch(condition) else math.inf
            found[name] = order.index(entry), number, condition
    return [metric_info(name) for name in sorted(found, key=found.__getitem__)]


_quality = partial(MetricInfo, table="quality")
_decibels = partial(MetricInfo, table="quality", format="decibel")
_count = partial(MetricInfo, table="stored", format="whole", higher_is_better=False)
_cost = partial(MetricInfo, table="cost")
for _info in (
    _quality("auc", "AUC", headline=(LIKE_FOR_LIKE,)),
    _quality("average_precision", "Average precision", "avg. precision"),
    _quality("accuracy", "Accuracy", headline=(LIKE_FOR_LIKE,), primary=True, by_subset=True),
    _quality("accuracy_argmax", "Accuracy of the argmax", "acc. (argmax)"),
    _quality("accuracy_open", "Accuracy among all classes", "acc. (all classes)"),
    _quality("balanced_accuracy", "Balanced accuracy", "bal. acc.", headline=("paper",), primary=True),
    _quality("precision", "Precision", readings=("paper",)),
    _quality("recall", "Recall", readings=("paper",)),
    _decibels("psnr", "PSNR in dB", "PSNR", headline=("",), primary=True),
    _decibels("psnr_region", "PSNR in dB, mean of regions", "PSNR, mean of regions", headline=("",)),
    _decibels("psnr_floor", "PSNR in dB, one colour per region", "one colour per region"),
    _decibels("si_snri", "SI-SNRi in dB", "SI-SNRi", headline=("",), primary=True, by_subset=True),
    _decibels("si_snri_at_*", "SI-SNRi at {} dB", "at {} dB"),
    _decibels("si_snr_noisy", "SI-SNR of the input in dB", "SI-SNR of the input"),
    _count("per_ticket", "Numbers per ticket", "per ticket"),
    _count("union", "Union"),
    _count("core", "Core", higher_is_better=True),
    _count("private", "Private"),
    _count("dense_rest", "Dense remainder", "rest"),
    _count("mask_bytes", "Mask bytes"),
    _count("file_bytes", "File bytes"),
    _cost("jaccard", "Mean Jaccard similarity", "mean J"),
    _cost("kappa", "Kappa"),
    _cost("kappa_twin", "Kappa of twins", "kappa, twins"),
    _count("samples_search", "Samples of the search", "samples: search", table="cost"),
    _count("samples_train", "Samples of the training", "training", table="cost"),
    _cost("minutes", "Minutes", format="decimal", higher_is_better=False),
    # Of routers and of probabilities.
    MetricInfo("gap_closed", "Gap closed"),
    MetricInfo("routing_accuracy", "Right ticket"),
    MetricInfo("confidence", "Confidence"),
    MetricInfo("ece", "Calibration error", higher_is_better=False),
    MetricInfo("brier", "Brier score", "Brier score", higher_is_better=False),
    MetricInfo("set_size", "Answers in a set", format="decibel", higher_is_better=False),
):
    register_metric(_info)
