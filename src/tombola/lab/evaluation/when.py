"""When do tickets pay? What is known of experiments beforehand, and what tickets gained in full runs.

Gains are of RTL over a rival, paired by seed (`tombola.lab.report.rows`); affinity and information are
measured before any search (`tombola.analysis`). Whether the one tells the other is a rank correlation over
experiments, and a threshold that is chosen on half of them and judged on the other half. Experiments that
are measured in accuracy and in dB are compared by the share of the rival's error that tickets remove.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import spearmanr

from tombola._utils.device import parse
from tombola._utils.errors import RunError
from tombola._utils.rng import generator
from tombola._utils.statistics import interval
from tombola.analysis.affinity import affinity
from tombola.analysis.specificity import specificity
from tombola.analysis.trials import information
from tombola.data.dataset import Data
from tombola.lab.evaluation.transference import transference
from tombola.lab.launch import Order
from tombola.lab.report.points import Points, label_points
from tombola.lab.report.rows import Row
from tombola.lab.report.tables import Table, heading, mean_and_half, share
from tombola.methods.pipeline import Pipeline
from tombola.objectives.metrics import MetricInfo, metric_info
from tombola.pruning.scores import parse as parse_score
from tombola.runs.cache import StageCache

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUBJECT, SPECIFIC, OVERLAP = "rtl", "specificity_of_", "overlap_of_"
GAINS = {suffix: f"gain_over_{name}" for name, suffix in (
    ("imp", "lead"), ("same_mask", "lead_same"), ("union_size_imp", "lead_union"),
    ("union_size", "lead_union_same"), ("told", "lead_told"), ("network_each", "lead_each"),
    ("adapters", "lead_adapters"),
)}  # fmt: skip
LEAST = 4  # worlds of which a correlation is taken
SURE = 1.0  # a wider half interval over seeds than from contexts that agree to unrelated ones says nothing
LOWEST = -0.5  # of the figure: below stands an arrow with its value
SPLITS = 500  # random halves of the experiments


def measure(
    order: Order, seeds: Sequence[int], steps: int, scores: Sequence[str] = (), lookahead: bool = False
) -> list[Row]:
    """Affinity and information of one experiment: rows of mean and interval over seeds.

    Args:
        order: experiment, preset, source.
        seeds: of initial weights and orders.
        steps: per subset, of the two dense networks that information is read off; 0 leaves it out.
        scores: whose one-shot masks are compared with those of twins (`tombola.analysis.specificity`).
        lookahead: whether steps on the gradients of others are tried, too (`transference`).
    """
    found: dict[str, list[float]] = {}
    for data in order.load().values():
        for seed in seeds:
            for name, value in _measured(order, data, seed, steps, scores, lookahead).items():
                found.setdefault(name, []).append(value)
    head = {
        "experiment": order.experiment.name,
        "preset": order.preset,
        "method": "affinity",
        "sparsity": 0.0,
    }
    return [
        {
            **head,
            "metric": name,
            "mean": float(np.mean(values)),
            "ci95": interval(values),
            "seeds": len(seeds),
        }
        for name, values in found.items()
    ]


def _measured(
    order: Order, data: Data, seed: int, steps: int, scores: Sequence[str], lookahead: bool
) -> dict[str, float]:
    of = order.experiment
    given = of.backbone(generator(seed, "theta0")).to(parse(order.device or "cpu")), of.objective, data
    partition, settings = of.partition(data), replace(order.settings, steps=steps, rewind=0)
    found = {"affinity": affinity(*given, partition, settings=settings, seed=seed).mean}
    if lookahead:
        found["transference"] = transference(Pipeline(*given, partition, settings, seed, StageCache("no")))
    for score in scores:
        trained = not parse_score(score).batches  # others read data where all tickets start
        settings_of = replace(settings, selection="row" if score.startswith("wanda") else "layer")
        how: dict[str, Any] = {"settings": settings_of, "seed": seed, "T": settings.T if trained else 0}
        masks = specificity(*given, partition, score, **how)
        found |= {f"{SPECIFIC}{score}": masks.difference, f"{OVERLAP}{score}": masks.overlap}
    if not steps:
        return found
    told = information(Pipeline(*given, partition, settings, seed, StageCache()))
    return found if told is None else {**found, "information": told}


def gains(rows: Iterable[Row], sparsity: float) -> list[Row]:
    """What RTL gained over each rival, of the metric that decides, at the sparsity nearest to one.

    Beside the ``mean`` of the gain a row has ``removed``, the share of the rival's error that this is, and
    ``of``, the metric.
    """
    leads: dict[tuple[str, str, str], list[Row]] = {}
    values: dict[tuple[str, str, float, str], float] = {}
    for row in rows:
        if row["method"] != SUBJECT or row.get("ticket") or row.get("reading") == "paper":
            continue
        metric, lead, suffix = row["metric"].partition("_lead")
        if not lead:
            values[row["experiment"], row.get("preset", ""), row["sparsity"], metric] = row["mean"]
        elif metric_info(metric).primary and f"lead{suffix}" in GAINS:
            leads.setdefault((row["experiment"], row.get("preset", ""), f"lead{suffix}"), []).append(row)
    found = []
    for (*head, suffix), each in leads.items():
        nearest = min(each, key=lambda row: abs(row["sparsity"] - sparsity))
        metric = nearest["metric"].partition("_lead")[0]
        value = values.get((head[0], head[1], nearest["sparsity"], metric))
        removed = error_removed(metric, value, nearest["mean"])
        found.append({**nearest, "metric": GAINS[suffix], "of": metric, "removed": removed})
    return found


def error_removed(metric: str, value: float | None, gain: float) -> float | None:
    """The share of a rival's error that a gain over it removes; None where its error is not known.

    The error is one less a share, and the noise or squared error behind a ratio in dB.

    >>> round(error_removed("accuracy", 0.9, 0.1), 2), round(error_removed("psnr", None, 3.0), 2)
    (0.5, 0.5)
    """
    form = metric_info(metric).format
    if form == "decibel":
        return float(1 - 10 ** (-gain / 10))
    if form != "share" or value is None or value - gain >= 1:
        return None
    return gain / (1 - (value - gain))


@dataclass(frozen=True)
class World:
    """One experiment: what was known beforehand, and what tickets gained."""

    name: str
    affinity: float
    information: float | None
    gains: Mapping[str, Row]
    half: float | None = None  # interval of the affinity over seeds
    predictors: Mapping[str, float] = field(default_factory=dict)  # all that was measured beforehand

    def removed(self, gain: str) -> float | None:
        """The share of a rival's error that tickets remove; None where that or the affinity is not known."""
        return self.gains.get(gain, {}).get("removed") if (self.half or 0.0) <= SURE else None

    @property
    def metric(self) -> MetricInfo:
        """What its gains are in, such as accuracy, which all gains of older pages are in."""
        return metric_info(next(iter(self.gains.values())).get("of", "accuracy"))


def worlds(rows: Iterable[Row]) -> list[World]:
    """Experiments of which both sides are known."""
    by_head: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows:
        by_head.setdefault(_head(row), {})[row["metric"]] = row
    found = []
    for head, metrics in by_head.items():
        gained = {name: metrics[name] for name in GAINS.values() if name in metrics}
        if gained and "affinity" in metrics:
            told = metrics.get("information")
            information = None if told is None else float(told["mean"])
            known = {name: float(row["mean"]) for name, row in metrics.items() if _predicts(name)}
            agree = metrics["affinity"]
            found.append(
                World(heading(head), agree["mean"], information, gained, agree.get("ci95"), predictors=known)
            )
    return found


def _predicts(metric: str) -> bool:
    return metric in ("affinity", "information", "transference") or metric.startswith(OVERLAP)


def law(found: Sequence[World], against: str = "gain_over_imp", seed: int = 0) -> list[Row]:
    """Rank correlation of affinity and gain, and how well a threshold chosen on half of the worlds does.

    Rows of ``experiment: all``. ``rank_correlation`` is with the share of the rival's error that tickets
    remove; ``rank_correlation_accuracy`` with the gain itself, where that is in accuracy.
    ``threshold_right`` is the share of worlds of the other half of which a threshold says rightly whether
    tickets are ahead; ``always_right`` that of the more frequent answer.

    Raises:
        RunError: fewer than `LEAST` worlds.
    """
    known = [world for world in found if world.removed(against) is not None]
    if len(known) < LEAST:
        raise RunError(
            f"a rank correlation needs at least {LEAST} experiments with both sides: got {len(known)}"
        )
    rng, plain = np.random.default_rng(seed), [world for world in known if world.metric.format == "share"]
    made = [_correlation("rank_correlation", known, [w.removed(against) for w in known], rng)]
    if len(plain) >= LEAST:
        gained = [world.gains[against]["mean"] for world in plain]
        made += [_correlation("rank_correlation_accuracy", plain, gained, rng)]
    pays = np.array([world.gains[against]["mean"] > 0 for world in known])
    right, always = _halves(np.array([world.affinity for world in known]), pays, rng)
    made += [{"metric": "threshold_right", "mean": right, "ci95": None}]
    made += [{"metric": "always_right", "mean": always, "ci95": None}]
    head = {"experiment": "all", "preset": against, "method": "affinity", "sparsity": 0.0}
    return [{**head, **row} for row in made]


def _correlation(metric: str, found: Sequence[World], gained: Sequence[Any], rng: np.random.Generator) -> Row:
    """The rank correlation of affinity and what is gained, with its interval by resampling worlds."""
    x, y = np.array([world.affinity for world in found]), np.array(gained)
    draws = rng.integers(len(x), size=(2000, len(x)))
    resampled = [spearmanr(x[i], y[i]).statistic for i in draws if len(set(i)) > 2]
    low, high = map(float, np.nanquantile(resampled, [0.025, 0.975]))
    about = {"low": low, "high": high, "ci95": (high - low) / 2, "experiments": len(x)}
    return {"metric": metric, "mean": float(spearmanr(x, y).statistic), **about}


def _halves(x: np.ndarray, pays: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """The threshold below which tickets pay, chosen on one half and judged on the other, over many halves."""
    right, always = [], []
    for _ in range(SPLITS):
        order = rng.permutation(len(x))
        one, other = order[: len(x) // 2], order[len(x) // 2 :]
        cuts = np.concatenate([[-np.inf], np.sort(x[one]) + 1e-9])
        best = max(cuts, key=lambda cut: np.mean((x[one] <= cut) == pays[one]))
        right.append(np.mean((x[other] <= best) == pays[other]))
        always.append(np.mean((pays[one].mean() >= 0.5) == pays[other]))
    return float(np.mean(right)), float(np.mean(always))


# -- tables and the figure -----------------------------------------------------------------------------------


def tables(rows: Sequence[Row], against: str) -> list[Table]:
    """A line per experiment, by affinity; and whether it tells the gain, where there are enough of them."""
    found = sorted(worlds(rows), key=lambda world: world.affinity)
    by_name = {name: name.removeprefix("gain_over_").replace("_", " ") for name in GAINS.values()}
    shown = [name for name in by_name if any(name in world.gains for world in found)]
    body = [
        [
            world.name,
            mean_and_half({"mean": world.affinity, "ci95": world.half}, "{:.2f}".format),
            "" if world.information is None else f"{world.information:.3f}",
            *(mean_and_half(world.gains.get(name), world.metric.write) for name in shown),
        ]
        for world in found
    ]
    title = "What RTL gains, by how much the contexts agree"
    heads = ["experiment", "affinity", "information", *(f"over {by_name[n]}" for n in shown)]
    made = [*_beforehand(rows, found), *([Table(title, heads, body)] if body else [])]
    made += [*_specificities(rows), *_predictors(found)]
    if sum(against in world.gains for world in found) < LEAST:
        return made
    lines = [
        [
            row["metric"].replace("_", " "),
            f"{row['mean']:.2f}" + (f" ({row['low']:.2f} to {row['high']:.2f})" if "low" in row else ""),
        ]
        for row in law(found, against)
    ]
    return [*made, Table(f"Does affinity tell the {against.replace('_', ' ')}?", ["", "value"], lines)]


def _beforehand(rows: Sequence[Row], gained: Sequence[World]) -> list[Table]:
    """A line per experiment of which no gain is known, with its half interval over seeds."""
    known = {world.name for world in gained}
    cells: dict[str, dict[str, Row]] = {}
    for row in rows:
        if (name := heading(_head(row))) not in known and row["metric"] in ("affinity", "information"):
            cells.setdefault(name, {})[row["metric"]] = row
    body = [
        [
            name,
            mean_and_half(of.get("affinity"), "{:.2f}".format),
            mean_and_half(of.get("information"), "{:.3f}".format),
        ]
        for name, of in cells.items()
    ]
    title = "How much the contexts agree (affinity 1), and what being told them is worth (information, nats)"
    return [Table(title, ["experiment", "affinity", "information"], body)] if body else []


def _head(row: Row) -> tuple[str, str]:
    return row["experiment"], row.get("preset", "").partition(" ")[0]


def _specificities(rows: Sequence[Row]) -> list[Table]:
    """A line per score, a column per experiment."""
    mine = [row for row in rows if row["metric"].startswith(SPECIFIC)]
    scores = list(dict.fromkeys(row["metric"] for row in mine))
    names = list(dict.fromkeys(row["experiment"] for row in mine))
    cells = {(row["metric"], row["experiment"]): row for row in mine}
    body = [
        [score.removeprefix(SPECIFIC), *(mean_and_half(cells.get((score, n)), share) for n in names)]
        for score in scores
    ]
    title = "κ of the masks of twins less that of different contexts, by score"
    return [Table(title, ["score", *names], body)] if body else []


def _predictors(found: Sequence[World]) -> list[Table]:
    """A line per predictor: its rank correlation with every gain, over worlds where all are known."""
    names = list(dict.fromkeys(name for world in found for name in world.predictors))
    known = [world for world in found if set(world.predictors) == set(names)]
    rivals = [name for name in GAINS.values() if all(w.removed(name) is not None for w in known)]
    if len(names) < 3 or len(known) < LEAST:  # affinity and information are measured anyway
        return []
    body = []
    for name in names:
        x = [world.predictors[name] for world in known]
        each = [spearmanr(x, [world.removed(rival) for world in known]).statistic for rival in rivals]
        body.append([name.replace("_", " "), *(f"{value:.2f}" for value in each)])
    title = f"Which predictor orders the gains best? Rank correlations over {len(known)} experiments"
    heads = [f"over {name.removeprefix('gain_over_').replace('_', ' ')}" for name in rivals]
    return [Table(title, ["predictor", *heads], body)]


def figure(
    found: Sequence[World], against: Sequence[str] = ("gain_over_imp", "gain_over_same_mask")
) -> Figure:
    """The share of a rival's error that tickets remove, over affinity: a point per experiment (those in dB in
    another colour), a panel per rival."""
    from matplotlib.figure import Figure

    made, panels = Figure(figsize=(6.5 * len(against), 4.8), layout="constrained"), []
    for axes, name in zip(made.subplots(1, len(against), squeeze=False)[0], against, strict=True):
        points, colours = Points(), dict[str, str]()
        for world in found:
            if (removed := world.removed(name)) is None:
                continue
            off, label = removed < LOWEST, world.name.partition(",")[0]
            label += f" ({removed:.1f})" if off else ""
            points[label] = world.affinity, max(removed, LOWEST)
            colours[label] = "C0" if world.metric.format == "share" else "C1"
            axes.plot(*points[label], "v" if off else "o", color=colours[label])
        axes.axhline(0, color="grey", linewidth=0.8)
        rival = name.removeprefix("gain_over_").replace("_", " ")
        axes.set(xlabel="affinity of the contexts", ylabel=f"share of the error of {rival} that RTL removes")
        axes.grid(alpha=0.3)
        panels.append((axes, points, colours))
    made.draw_without_rendering()
    for axes, points, colours in panels:
        label_points(axes, points, colours)
    return made
