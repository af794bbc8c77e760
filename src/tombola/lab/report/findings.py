"""What a page needs beyond rows, from the records and ticket files of the runs of one comparison."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tombola._utils.errors import TicketFileError
from tombola.lab.report.inspect import describe
from tombola.lab.report.rows import Row, Spread, Unit, spread
from tombola.lab.results import values_of
from tombola.methods.table import METHODS, dense
from tombola.runs.log import full_settings, read_config, read_environment, read_records
from tombola.runs.stages import Stage

if TYPE_CHECKING:
    import pandas as pd

Arm = tuple[str, float]  # of an experiment: method, sparsity
Key = tuple[str, float, str, str, str]  # method, sparsity, reading, metric, ticket; "" where there is none
_READ = ("prune", "retrain", "similarity", "watch", "alarm")  # events that chapters are made of


@dataclass(frozen=True)
class Ran:
    """A run: where it lies, what was asked for, what it lacks."""

    path: Path
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    missing: tuple[Arm, ...]

    @property
    def unit(self) -> Unit:
        """Item and seed."""
        return self.config.get("item", ""), self.config["seed"]

    @property
    def label(self) -> str:
        """For readers."""
        return ", ".join(filter(None, [self.unit[0], f"seed {self.unit[1]}"]))


@dataclass
class Findings:
    """All that the records of the runs of one experiment and preset (``head``) hold."""

    head: tuple[str, str]
    runs: list[Ran] = field(default_factory=list)
    values: dict[Key, dict[Unit, float]] = field(default_factory=lambda: defaultdict(dict))
    records: list[Row] = field(default_factory=list)  # with the label of their run, and whose search it was
    files: dict[float, dict[str, Any]] = field(default_factory=dict)  # `describe`, by sparsity
    described: Ran | None = None  # whose ticket files those are
    notes: list[str] = field(default_factory=list)  # what could not be read

    @property
    def outcomes(self) -> list[Arm]:
        """Methods and sparsities that were judged, in the order of the methods."""
        order = list(METHODS)
        found = {(key[0], key[1]) for key in self.values}
        return sorted(found, key=lambda outcome: (order.index(outcome[0]), outcome[1]))

    @property
    def methods(self) -> list[str]:
        """Those that were judged."""
        return list(dict.fromkeys(method for method, _ in self.outcomes))

    @property
    def subject(self) -> str:
        """The method that a page is about: RTL if it is there."""
        return "rtl" if "rtl" in self.methods else next(iter(self.methods), "")

    @property
    def sparsities(self) -> list[float]:
        """Of the subject, the lowest first."""
        return [s for method, s in self.outcomes if method == self.subject]

    @property
    def middle(self) -> float:
        """The middle one of these; 0 without any."""
        found = self.sparsities
        return found[len(found) // 2] if found else 0.0

    @property
    def items(self) -> int:
        """How many items the runs are of."""
        return len({ran.unit[0] for ran in self.runs})

    def usual(self, control: bool = False) -> list[str]:
        """Methods that are no controls, or that are."""
        return [name for name in self.methods if METHODS[name].control == control]

    def level(self, method: str, sparsity: float) -> Arm:
        """The outcome of a method beside one of the subject: a dense network is at 0."""
        return method, sparsity if (method, sparsity) in self.outcomes else 0.0

    def spread(self, arm: Arm, reading: str, metric: str, ticket: str = "") -> Spread | None:
        """Mean and interval of a metric of an outcome; None where it was not measured."""
        return spread(self.values.get((*arm, reading, metric, ticket), {}))

    @cached_property
    def means(self) -> pd.DataFrame:
        """Means over seeds and items: a row per method, sparsity, reading, metric and ticket."""
        import pandas as pd  # only here: it takes half a second

        arms = self.outcomes
        rows = [(*key, each.mean) for key, by_unit in self.values.items() if (each := spread(by_unit))]
        rows.sort(key=lambda row: arms.index(row[:2]))
        return pd.DataFrame(rows, columns=["method", "sparsity", "reading", "metric", "ticket", "mean"])

    def of(self, *events: str, search: str | None = None) -> list[Row]:
        """Records of some events, of one search or of all."""
        return [row for row in self.records if row["event"] in events and search in (None, row["search"])]


def gather(head: tuple[str, str], paths: Sequence[Path]) -> Findings:
    """Read the runs of one comparison."""
    found = Findings(head)
    for path in paths:
        config, judged = read_config(path), set[Arm]()
        for v in values_of(path, config):
            if v["metric"] != "minutes":
                key = (v["method"], v["sparsity"], v["reading"], v["metric"], v["ticket"])
                found.values[key][v["item"], v["seed"]] = v["value"]
                judged.add(key[:2])
        missing = tuple(outcome for outcome in expected(config) if outcome not in judged)
        ran = Ran(path, config, read_environment(path), missing)
        found.runs.append(ran)
        for record in read_records(path):
            if record["event"] in _READ:
                stage = Stage.parse(record.get("stage", ""))
                found.records.append({**record, "run": ran.label, "search": stage.search if stage else ""})
    _read_tickets(found)
    return found


def expected(config: Mapping[str, Any]) -> list[Arm]:
    """Methods and sparsities that a config asks for."""
    sparsities = sorted(full_settings(dict(config))["sparsity"])
    named = [name for name in config.get("methods", []) if name in METHODS]
    return [(name, s) for name in named for s in ([0.0] if METHODS[name].masks is dense else sparsities)]


def _read_tickets(found: Findings) -> None:
    """What the subject's ticket files hold, of the first run whose files can be read."""
    if not found.subject or not METHODS[found.subject].shared:
        return
    for ran in found.runs:
        for sparsity in found.sparsities:
            name = f"{found.subject}-{sparsity}.tickets"
            try:
                found.files[sparsity] = describe(ran.path / "tickets" / name)
            except (TicketFileError, OSError) as error:
                reason = str(error).replace(str(ran.path / "tickets"), "").replace(f"/{name}", name)
                found.notes.append(f"{ran.label}: {reason}")
                break
        if found.files:
            found.described = ran
            return


@dataclass(frozen=True)
class Likeness:
    """Similarity of the tickets of one state of a search, a frame of their names ``[K, K]``."""

    name: str
    density: float
    frame: pd.DataFrame


def likenesses(found: Findings) -> dict[tuple[str, str], list[Likeness]]:
    """By kind of similarity and depth of the layers, the densest state first.

    As recorded round by round, of the search on the own subsets if that is there; else from ticket files.
    """
    import pandas as pd  # only here: it takes half a second

    made: dict[tuple[str, str], list[Likeness]] = defaultdict(list)
    records = found.of("similarity")
    first = [row for row in records if row["run"] == records[0]["run"]]
    searches = [row["search"] for row in first]
    chosen = "own" if "own" in searches else next(iter(searches), "")
    for row in first:
        matrix, stage = row["matrix"], row.get("stage", "")
        if row["search"] == chosen and len(matrix) > 1:
            names = list(dict.fromkeys(r["ticket"] for r in found.of("prune") if r.get("stage", "") == stage))
            names = names if len(names) == len(matrix) else [f"ticket {k + 1}" for k in range(len(matrix))]
            words = f"{1 - row['density']:.0%} removed, round {row['round'] + 1}"
            key = row["kind"], row.get("depth", "all")
            made[key].append(Likeness(words, row["density"], pd.DataFrame(matrix, names, names, dtype=float)))
    for sparsity, file in found.files.items() if not first else ():
        names = [*file["tickets"]]
        for kind in ("jaccard", "kappa") if len(names) > 1 else ():
            frame = pd.DataFrame(file[kind], names, names)
            made[kind, "all"].append(Likeness(f"{sparsity:.0%} removed", 1 - sparsity, frame))
    return {key: sorted(each, key=lambda state: -state.density) for key, each in made.items()}
