"""What a page needs beyond rows, from the records and ticket files of the runs of one comparison."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tombola._utils.errors import TicketFileError
from tombola.lab.report.inspect import describe
from tombola.lab.report.rows import Unit, spread
from tombola.lab.results import introduce
from tombola.methods.table import METHODS, dense
from tombola.runs.log import full_settings, read_config, read_environment, read_records
from tombola.runs.stages import Stage
from tombola.training.callbacks.collapse import alarms

Arm = tuple[str, float]  # of an experiment: method, sparsity
Key = tuple[str, float, str, str, str]  # method, sparsity, reading, metric, ticket; "" where there is none
Curve = list[tuple[float, float]]


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


@dataclass(frozen=True)
class Likeness:
    """Similarity of the tickets of one state of a search, ``[K][K]``."""

    name: str
    density: float
    tickets: Sequence[str]
    matrix: Sequence[Sequence[float]]


@dataclass
class Findings:
    """All that the records of the runs of one experiment and preset (``head``) hold."""

    head: tuple[str, str]
    runs: list[Ran]
    values: dict[Key, dict[Unit, float]] = field(default_factory=lambda: defaultdict(dict))
    # Loss over steps of each ticket, by outcome, of the first run that has it; and at the end of each round.
    courses: dict[Arm, dict[str, Curve]] = field(default_factory=dict)
    rounds: dict[str, Curve] = field(default_factory=dict)
    # By kind of similarity and depth of the layers, the densest state first.
    likenesses: dict[tuple[str, str], list[Likeness]] = field(default_factory=dict)
    layers: dict[float, dict[str, dict[str, float]]] = field(default_factory=dict)  # share of weights kept
    alarms: dict[Unit, list[str]] = field(default_factory=dict)  # for collapse, in words
    watched: dict[Unit, list[dict[str, Any]]] = field(default_factory=dict)  # measured round by round
    described: Ran | None = None  # whose ticket files those come from
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
    def items(self) -> int:
        """How many items the runs are of."""
        return len({ran.unit[0] for ran in self.runs})

    @property
    def tickets(self) -> list[str]:
        """Names, in the order of the records."""
        return list(dict.fromkeys(key[4] for key in self.values if key[4]))

    def mean(self, key: Key) -> float | None:
        """Over items, each the mean over its seeds."""
        found = spread(self.values.get(key, {}))
        return None if found is None else found.mean


def gather(head: tuple[str, str], paths: Sequence[Path]) -> Findings:
    """Read the runs of one comparison, each once."""
    found = Findings(head, [])
    states: list[dict[str, Any]] = []
    searched: dict[str, list[str]] = {}  # tickets by stage
    for path in paths:
        config = read_config(path)
        unit, done = (config.get("item", ""), config["seed"]), set()
        losses: dict[Arm, dict[str, Curve]] = defaultdict(lambda: defaultdict(list))
        rounds: dict[str, Curve] = defaultdict(list)
        mine: list[dict[str, Any]] = []
        for record in read_records(path):
            event = record["event"]
            introduce(record, path)
            if event == "metric":
                key = (record["method"], record["sparsity"], record.get("reading", ""), record["metric"])
                found.values[(*key, record.get("ticket", ""))][unit] = record["value"]
                done.add(key[:2])
            elif event == "retrain" and record.get("phase") == "train":
                outcome = record["method"], record["sparsity"]
                losses[outcome][record["ticket"]].append((record["step"], record["loss"]))
            elif event == "prune" and "loss" in record:
                searched.setdefault(record.get("stage", ""), []).append(record["ticket"])
                if _search(record) == "own":
                    rounds[record["ticket"]].append((record["round"] + 1, record["loss"]))
            elif event == "similarity":
                mine.append(record)
            elif event == "watch" and _search(record) == "own":
                found.watched.setdefault(unit, []).append(record)
            elif event == "alarm":
                found.alarms.setdefault(unit, []).extend(alarms([record]))
        found.courses = {**{k: dict(v) for k, v in losses.items()}, **found.courses}
        found.rounds = found.rounds or dict(rounds)
        states = states or mine
        missing = tuple(outcome for outcome in expected(config) if outcome not in done)
        found.runs.append(Ran(path, config, read_environment(path), missing))
    _read_tickets(found)
    if states:
        found.likenesses = _from_records(states, searched)
    return found


def expected(config: Mapping[str, Any]) -> list[Arm]:
    """Methods and sparsities that a config asks for."""
    sparsities = sorted(full_settings(dict(config))["sparsity"])
    named = [name for name in config.get("methods", []) if name in METHODS]
    return [(name, s) for name in named for s in ([0.0] if METHODS[name].masks is dense else sparsities)]


def _search(record: Mapping[str, Any]) -> str:
    """Whose search a record is of: ``own`` for that of the tickets."""
    stage = Stage.parse(record.get("stage", ""))
    return stage.search if stage else ""


def _read_tickets(found: Findings) -> None:
    """Layers and similarity of the subject's tickets, from the first run whose files can be read."""
    if not found.subject or not METHODS[found.subject].shared:
        return
    for ran in found.runs:
        metadata: dict[float, dict[str, Any]] = {}
        for sparsity in found.sparsities:
            name = f"{found.subject}-{sparsity}.tickets"
            try:
                metadata[sparsity] = describe(ran.path / "tickets" / name)
            except (TicketFileError, OSError) as error:
                reason = str(error).replace(str(ran.path / "tickets"), "").replace(f"/{name}", name)
                found.notes.append(f"{ran.label}: {reason}")
                break
        if metadata:
            found.described, found.layers = ran, {s: f["layers"] for s, f in metadata.items()}
            for kind in ("kappa", "jaccard") if all(len(f["tickets"]) > 1 for f in metadata.values()) else ():
                states = ((s, list(f["tickets"]), f[kind]) for s, f in metadata.items())
                found.likenesses[kind, "all"] = [
                    Likeness(f"{s:.0%} removed", 1 - s, tickets, matrix) for s, tickets, matrix in states
                ]
            return


def _from_records(
    states: Sequence[Mapping[str, Any]], searched: Mapping[str, Sequence[str]]
) -> dict[tuple[str, str], list[Likeness]]:
    """Similarity as recorded round by round: of the search on the own subsets, if that is there."""
    sources = [_search(record) for record in states]
    chosen = "own" if "own" in sources else sources[0]
    found: dict[tuple[str, str], list[Likeness]] = defaultdict(list)
    for source, record in zip(sources, states, strict=True):
        matrix = record["matrix"]
        if source != chosen or len(matrix) < 2:
            continue
        names = list(dict.fromkeys(searched.get(record.get("stage", ""), ())))
        if len(names) != len(matrix):
            names = [f"ticket {k + 1}" for k in range(len(matrix))]
        words = f"round {record['round'] + 1}, {1 - record['density']:.0%} removed"
        likeness = Likeness(words, record["density"], names, matrix)
        found[record["kind"], record.get("depth", "all")].append(likeness)
    return {key: sorted(each, key=lambda state: -state.density) for key, each in found.items()}
