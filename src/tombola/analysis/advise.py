"""Do tickets pay here? An answer before anything long is computed, with its reasons and how sure it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from os import PathLike
from pathlib import Path
from typing import Any

from torch import nn

from tombola._utils.errors import UsageError
from tombola._utils.words import matrix, table
from tombola.analysis.affinity import Affinity
from tombola.analysis.trials import ARMS, Arm, Trials
from tombola.data.dataset import Data
from tombola.data.partition import Partition
from tombola.data.partition.partition import marks
from tombola.methods.pipeline import Pipeline
from tombola.objectives import Objective
from tombola.objectives.metrics import metric_info
from tombola.runs.cache import StageCache
from tombola.runs.progress import progress_bar
from tombola.settings import Settings, settings_of
from tombola.training.parallel import Parallel

SURE = 0.8  # the level at which one arm is taken to be ahead of another
NEGLIGIBLE = 0.01  # of the best value: a lead so small is no reason to store more
SHORT = 0.1  # of the steps: what shorter runs show is not what long ones do
LOSS = 0.01  # of the value of the lowest sparsity: what a higher one may cost


def advise(
    backbone: nn.Module,
    objective: Objective,
    data: Data,
    partition: Partition,
    *,
    sparsity: float | Sequence[float] | None = None,
    settings: Settings | None = None,
    seed: int = 0,
    minutes: float = 5.0,
    out: Path | str | None = None,
    parallel: Parallel = "auto",
    progress: bool | None = None,
    **changes: Any,
) -> Advice:
    """Whether tickets pay: affinity of the subsets, then short runs of what could serve them.

    The test split is not read. First the affinity of all pairs is measured (`tombola.affinity`). Then all
    arms (one mask, one mask told the context, one mask with private parts, tickets, a network for each
    subset) are trained a little, and the better half of them longer and with more seeds. The answer is the
    arm that stores least among those that are not surely behind the best.

    Args:
        backbone: the dense network; it is not changed.
        objective: what tickets are to be trained and judged by.
        data: its training and validation samples are read.
        partition: the subsets.
        sparsity: share of weights removed; several are all tried.
        settings: those of the long run; ``changes`` are single fields of them. Steps are cut to the budget.
        seed: the first of the seeds.
        minutes: the budget, which is kept to about a tenth; it takes less where all is run in full. What is
            needed beside it (reading data) comes on top.
        out: a folder to keep runs in; interrupted, the same call goes on there.
        parallel: see `tombola.find`.
        progress: see `tombola.find`.

    Raises:
        UsageError: one subset, for which there is nothing to choose, or an argument of the wrong kind.

    >>> import tombola as tb, torch
    >>> x, y = torch.randn(600, 8), torch.arange(600) % 2
    >>> data = tb.Data.of(x, (x[:, 0] > 0).long() ^ y, {"camera": y.numpy()})
    >>> net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    >>> cameras = tb.partition.by_column(data, "camera")
    >>> advice = advise(net, tb.objectives.Classification(), data, cameras, sparsity=0.5, minutes=0.05)
    >>> advice.method == "imp", advice.affinity.mean < 0  # the second camera answers the other way
    (False, True)
    """
    if len(partition) < 2:
        raise UsageError("there is one subset, and so nothing to choose: one mask (imp) is all there is")
    if not minutes > 0:
        raise UsageError(f"minutes must be above 0: got {minutes}")
    if not isinstance(out, str | PathLike | None):
        raise UsageError(f"out is the path of a directory, or None: got {type(out).__name__}")
    settings = settings_of(settings, sparsity, changes)
    given = _judged_on_validation(data, partition)
    pipeline = Pipeline(backbone, objective, *given, settings, seed, StageCache())
    with progress_bar("advise", progress) as bar:
        trials = Trials(pipeline, minutes, None if out is None else Path(out), parallel, bar)
        return _advice(trials)


def _judged_on_validation(data: Data, partition: Partition) -> tuple[Data, Partition]:
    """The same without the test split: validation takes its place."""
    judged = replace(data, test=data.validation)
    members = {**partition.members, "test": partition.members["validation"]}
    made_of = marks(judged) if partition.made_of == marks(data) else partition.made_of  # others are refused
    return judged, replace(partition, members=members, made_of=made_of)


def _advice(trials: Trials) -> Advice:
    affinity, sparsities = trials.affinity(), sorted(trials.pipeline.settings.sparsity)
    middle = sparsities[len(sparsities) // 2]
    first, whole = trials.first(middle)
    second, whole = trials.second(trials.going(first, affinity), middle, whole)
    others = trials.third(_enough(second).method, whole) if len(sparsities) > 1 else []
    found = tuple(first), tuple(second), tuple(others)
    return Advice(affinity, trials.information, *found, trials.closed, trials.share)


def _ranked(arms: Sequence[Arm]) -> list[Arm]:
    """Best first."""
    return sorted(arms, key=lambda arm: -metric_info(arm.metric).ahead(arm.mean, 0.0))


def _enough(arms: Sequence[Arm]) -> Arm:
    """The arm that stores least of those that are not behind the best."""
    best = _ranked(arms)[0]
    enough = [arm for arm in arms if arm is best or not _behind(arm, best)]
    return min(enough, key=lambda arm: list(ARMS).index(arm.method))


@dataclass(frozen=True)
class Advice:
    """The answer of `advise`; printed, it says all that it is made of.

    Attributes:
        affinity: how much the subsets agree.
        information: what the context tells beyond the input, in units of the loss; None where unknown.
        first: all arms after a little training, with one seed.
        second: the better half of them after more, with several seeds.
        others: the one that is chosen at all sparsities, with one seed.
        closed: arms that could not be run, and why.
        share: of the steps of the long run that the second rung made.
    """

    affinity: Affinity
    information: float | None
    first: tuple[Arm, ...]
    second: tuple[Arm, ...]
    others: tuple[Arm, ...]
    closed: dict[str, str]
    share: float = 1.0

    @property
    def arms(self) -> list[Arm]:
        """The arms of the second rung, best first."""
        return _ranked(self.second)

    @property
    def arm(self) -> Arm:
        """The arm that stores least of those that are not behind the best (`SURE`, `NEGLIGIBLE`)."""
        return _enough(self.second)

    @property
    def method(self) -> str:
        """The method to run."""
        return self.arm.method

    @property
    def sparsity(self) -> float:
        """The highest sparsity that costs this method next to nothing."""
        mine = sorted(self.others or [self.arm], key=lambda arm: arm.sparsity)
        ahead = metric_info(self.arm.metric).ahead
        values = [ahead(arm.mean, 0.0) for arm in mine]
        least = max(values) - LOSS * max(map(abs, values))
        return [arm.sparsity for arm, value in zip(mine, values, strict=True) if value >= least][-1]

    @property
    def answer(self) -> str:
        """One sentence: which arm, how far ahead or behind, what it stores."""
        chosen, info = self.arm, metric_info(self.arm.metric)
        words = ARMS[chosen.method]
        if self.share < SHORT:
            head = f"Too short to tell, give it more minutes; after {self.share:.0%} of the steps {words}"
        else:
            head = "One mask is enough" if chosen.method == "imp" else f"{words[:1].upper()}{words[1:]}"
        said = [f"{head} ({chosen.method}): {info.inside} {info.write(chosen.mean)}"]
        if (best := self.arms[0]) is not chosen:
            said.append(f"{_lead(best, chosen)} with {_named(best)}, which stores {_times(best, chosen)}")
        elif rivals := [arm for arm in self.arms if arm is not chosen]:
            said.append(f"{_lead(chosen, rivals[0])} over {_named(rivals[0])}")
        return "; ".join(said)

    @property
    def reasons(self) -> list[str]:
        """What speaks for the answer, a sentence each."""
        low, high = self.affinity.interval()
        words = "agree" if high >= 1 else "disagree" if high < 0.5 else "agree in part"
        found = [
            f"The contexts {words}: affinity {self.affinity.mean:.2f} ({low:.2f} to {high:.2f}), where 1 is "
            f"full agreement, 0 none and -1 opposition{self._least()}."
        ]
        if self.information is not None:
            change = "lowers" if self.information > 0 else "raises"
            found.append(
                f"Being told the context {change} the loss of one network by {abs(self.information):.3f}."
            )
        seeds = len({seed for seed, _ in self.arm.values})
        found.append(
            f"Compared on validation data at sparsity {self.arm.sparsity:g}, {_counted(seeds)}, "
            f"{self.share:.0%} of the steps; in brackets the 95% interval of differences within seeds and "
            "subsets."
        )
        return found

    def _least(self) -> str:
        """The pair of subsets that agree least, where there are several pairs."""
        found = self.affinity.least() if len(self.affinity.names) > 2 else None
        return "" if found is None else f"; least between {found[0]} and {found[1]}, {found[2]:.2f}"

    def rows(self) -> list[dict[str, Any]]:
        """What each arm reached and stores, in which run: ``long``, ``short``, other sparsities."""
        going = {arm.method for arm in self.second}
        out = [arm for arm in _ranked(self.first) if arm.method not in going]
        return [
            {"arm": ARMS[arm.method], "method": arm.method, "run": run, "sparsity": arm.sparsity}
            | {"metric": arm.metric, "mean": arm.mean, "per_ticket": arm.per_ticket, "stored": arm.stored}
            for run, arms in (("long", self.arms), ("short", out), ("others", self.others))
            for arm in arms
        ]

    def plain(self) -> dict[str, Any]:
        """All of it for JSON."""
        return {
            "answer": self.answer,
            "method": self.method,
            "sparsity": self.sparsity,
            "reasons": self.reasons,
            "affinity": self.affinity.mean,
            "affinity_interval": list(self.affinity.interval()),
            "information": self.information,
            "share": self.share,
            "names": list(self.affinity.names),
            "matrix": self.affinity.matrix().tolist(),
            "by_layer": self.affinity.by_layer(),
            "arms": self.rows(),
            "closed": self.closed,
        }

    def __str__(self) -> str:
        pairs = matrix(self.affinity.names, self.affinity.matrix().tolist(), ".affinity.matrix()")
        return "\n".join([self.brief, "", *self._table(), "", "Affinity of subsets", *pairs])

    def __repr__(self) -> str:
        return f"Advice(method={self.method!r}, sparsity={self.sparsity:g}, arms={len(self.first)})"

    @property
    def brief(self) -> str:
        """The answer and its reasons, a line each."""
        return "\n".join([self.answer + ".", *self.reasons])

    def _table(self) -> Iterator[str]:
        info, marks = metric_info(self.arm.metric), {"long": "", "short": " *", "others": " **"}
        rows = self.rows()
        body = [
            [row["arm"] + marks[row["run"]], f"{row['sparsity']:g}", info.write(row["mean"])]
            + [f"{row[name]:,.0f}" for name in ("per_ticket", "stored")]
            for row in rows
        ]
        yield from table(["", "sparsity", info.inside, "per answer", "stored"], body)
        if any(row["run"] == "short" for row in rows):
            yield "* after a first, shorter run with one seed, and no further"
        if self.others:
            yield "** one seed, at all sparsities"
        for method, why in self.closed.items():
            yield f"{ARMS[method]}: not run ({why})"


def _counted(seeds: int) -> str:
    return f"{seeds} seeds" if seeds > 1 else "one seed"


def _behind(arm: Arm, best: Arm) -> bool:
    lead, half = best.ahead(arm, SURE)
    return lead > half and lead > NEGLIGIBLE * abs(best.mean)


def _lead(arm: Arm, other: Arm) -> str:
    lead, half = arm.ahead(other)
    write = metric_info(arm.metric).write_difference
    if not isfinite(half):  # of one seed and one number there is none
        return f"{write(lead)} (one difference, no interval)"
    return f"{write(lead)} ({write(lead - half)} to {write(lead + half)})"


def _named(arm: Arm) -> str:
    return f"{ARMS[arm.method]} ({arm.method})"


def _times(arm: Arm, other: Arm) -> str:
    return f"{arm.stored / other.stored:.1f} times as much"
