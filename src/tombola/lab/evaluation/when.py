"""When do tickets pay? What is known of experiments beforehand, and what tickets gained in full runs.

Gains are of RTL over a rival, paired by seed (`tombola.lab.report.rows`); affinity and information are
measured before any search (`tombola.analysis`). Whether the one tells the other is a rank correlation over
experiments, and a threshold that is chosen on half of them and judged on the other half.
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
from tombola.lab.report.rows import Row
from tombola.lab.report.tables import Table, heading, mean_and_half, share
from tombola.methods.pipeline import Pipeline
from tombola.objectives.metrics import metric_info
from tombola.pruning.scores import parse as parse_score
from tombola.runs.cache import StageCache

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUBJECT, SPECIFIC, OVERLAP = "rtl", "specificity_of_", "overlap_of_"
GAINS = {suffix: f"gain_over_{name}" for name, suffix in (
    ("imp", "lead"), ("same_mask", "lead_same"), ("union_size_imp", "lead_union"),
    ("union_size", "lead_union_same"), ("told", "lead_told"), ("network_each", "lead_each"),
)}  # fmt: skip
LEAST = 4  # worlds of which a correlation is taken
NEAR = 0.05  # gains below are drawn to scale, larger ones by their logarithm
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
    """What RTL gained over each rival, of the metric that decides, at the sparsity nearest to one."""
    leads: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        metric, lead, suffix = row["metric"].partition("_lead")
        over_all = (
            lead and row["method"] == SUBJECT and not row.get("ticket") and row.get("reading") != "paper"
        )
        info = metric_info(metric)
        fair = row.get("reading") != "paper" and f"lead{suffix}" in GAINS
        if over_all and fair and info.primary and info.format == "share":
            leads.setdefault((row["experiment"], row.get("preset", ""), f"lead{suffix}"), []).append(row)
    found = []
    for (*_, suffix), each in leads.items():
        nearest = min(each, key=lambda row: abs(row["sparsity"] - sparsity))
        found.append({**nearest, "metric": GAINS[suffix]})
    return found


@dataclass(frozen=True)
class World:
    """One experiment: what was known beforehand, and what tickets gained."""

    name: str
    affinity: float
    information: float | None
    gains: Mapping[str, Row]
    predictors: Mapping[str, float] = field(default_factory=dict)  # all that was measured beforehand

    @property
    def least(self) -> Row:
        """The gain over the best of all rivals that store one mask, or are told."""
        rivals = [row for name, row in self.gains.items() if name != "gain_over_network_each"]
        return min(rivals, key=lambda row: row["mean"])


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
            found.append(World(heading(head), metrics["affinity"]["mean"], information, gained, known))
    return found


def _predicts(metric: str) -> bool:
    return metric in ("affinity", "information", "transference") or metric.startswith(OVERLAP)


def law(found: Sequence[World], against: str = "gain_over_imp", seed: int = 0) -> list[Row]:
    """Rank correlation of affinity and gain, and how well a threshold chosen on half of the worlds does.

    Rows of ``experiment: all``. ``threshold_right`` is the share of worlds of the other half of which a
    threshold says rightly whether tickets are ahead; ``always_right`` that of the more frequent answer.

    Raises:
        RunError: fewer than `LEAST` worlds.
    """
    known = [world for world in found if against in world.gains]
    if len(known) < LEAST:
        raise RunError(
            f"a rank correlation needs at least {LEAST} experiments with both sides: got {len(known)}"
        )
    x = np.array([world.affinity for world in known])
    y = np.array([world.gains[against]["mean"] for world in known])
    rng = np.random.default_rng(seed)
    draws = rng.integers(len(x), size=(2000, len(x)))
    resampled = [spearmanr(x[i], y[i]).statistic for i in draws if len(set(i)) > 2]
    low, high = np.nanquantile(resampled, [0.025, 0.975])
    right, always = _halves(x, y > 0, rng)
    values = {"rank_correlation": spearmanr(x, y).statistic, "threshold_right": right, "always_right": always}
    head = {"experiment": "all", "preset": against, "method": "affinity", "sparsity": 0.0}
    made = [{**head, "metric": name, "mean": float(value), "ci95": None} for name, value in values.items()]
    made[0] |= {"low": float(low), "high": float(high), "ci95": float(high - low) / 2, "experiments": len(x)}
    return made


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
            f"{world.affinity:.2f}",
            "" if world.information is None else f"{world.information:.3f}",
            *(mean_and_half(world.gains.get(name), metric_info("accuracy_lead").write) for name in shown),
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
    rivals = [name for name in GAINS.values() if all(name in world.gains for world in known)]
    if len(names) < 3 or len(known) < LEAST:  # affinity and information are measured anyway
        return []
    body = []
    for name in names:
        x = [world.predictors[name] for world in known]
        each = [spearmanr(x, [world.gains[rival]["mean"] for world in known]).statistic for rival in rivals]
        body.append([name.replace("_", " "), *(f"{value:.2f}" for value in each)])
    title = f"Which predictor orders the gains best? Rank correlations over {len(known)} experiments"
    heads = [f"over {name.removeprefix('gain_over_').replace('_', ' ')}" for name in rivals]
    return [Table(title, ["predictor", *heads], body)]


def figure(
    found: Sequence[World], against: Sequence[str] = ("gain_over_imp", "gain_over_same_mask")
) -> Figure:
    """Gain over affinity, a point per experiment with its interval, a panel per rival."""
    from matplotlib.figure import Figure

    made = Figure(figsize=(6.5 * len(against), 4.8), layout="constrained")
    for axes, name in zip(made.subplots(1, len(against), squeeze=False)[0], against, strict=True):
        known = [world for world in found if name in world.gains]
        for up, world in enumerate(sorted(known, key=lambda world: world.affinity)):
            row, right = world.gains[name], world.affinity > 0.8 * max(each.affinity for each in known)
            axes.errorbar(world.affinity, row["mean"], row["ci95"] or 0.0, fmt="o", color="C0", capsize=2)
            axes.annotate(
                world.name.partition(",")[0],
                (world.affinity, row["mean"]),
                (-4 if right else 4, 6 if up % 2 else -12),  # neighbours above and below
                ha="right" if right else "left",
                fontsize="small",
                textcoords="offset points",
            )
        axes.set_yscale("symlog", linthresh=NEAR)
        axes.yaxis.set_major_formatter("{x:g}")
        axes.axhline(0, color="grey", linewidth=0.8)
        axes.set(
            xlabel="affinity of the contexts", ylabel=name.replace("_", " ").replace("gain", "gain of RTL")
        )
        axes.grid(alpha=0.3)
    return made
