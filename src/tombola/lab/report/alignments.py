"""Do tickets of related classes look alike? Runs against the meaning of their tickets' names.

Similarity comes from the records of a search (every round), and from ticket files where a run is older than
these. The matrices of several seeds are averaged before they are compared: one test, not one per seed.

Shape letters: K tickets.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tombola._utils.errors import RunError, TicketFileError
from tombola.lab.analysis.named import Measure, Named
from tombola.lab.analysis.semantics import Alignment, align
from tombola.lab.report.inspect import masks_of
from tombola.lab.report.rows import names_of
from tombola.lab.report.tables import Table, share
from tombola.masks.maskset import MaskSet
from tombola.masks.similarity import DEPTHS, compare
from tombola.runs.log import read_config, read_records

# Whose masks: the tickets, and the controls in which alignment should survive (twin) or vanish.
SOURCES = {
    "own": ("rtl", "the tickets"),
    "twin": ("twin", "twins: the same subsets, another data order"),
    "shuffled": ("shuffled_partition", "a shuffled partition"),
    "theta0": ("theta0_magnitude", "masks from |theta0|"),
}
AFTERWARDS = ("steps", "form", "shares", "statistics")  # settings of the training, which no mask depends on
_LAYERS = ("all", *DEPTHS)


@dataclass(frozen=True)
class Snapshot:
    """Masks of one source at one density and depth: mean similarity over seeds."""

    source: str
    depth: str
    removed: float
    round: int | None
    similarity: Named
    seeds: int

    @property
    def mean(self) -> float:
        """Over pairs."""
        return float(np.nanmean(self.similarity.pairs()))


@dataclass(frozen=True)
class Aligned:
    """A state and its alignment with the meaning of names."""

    state: Snapshot
    found: Alignment

    def plain(self) -> dict[str, Any]:
        """For machines."""
        s, values = self.state, asdict(self.found)
        low, high = values.pop("ci95")
        numbers = {**values, "low": low, "high": high, "mean": s.mean}
        known = {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in numbers.items()}
        return {
            "source": s.source,
            "depth": s.depth,
            "removed": s.removed,
            "round": s.round,
            "seeds": s.seeds,
        } | known


def states(
    paths: Sequence[Path], measure: Measure = "kappa", unread: list[str] | None = None
) -> dict[tuple[str, str], list[Snapshot]]:
    """What runs hold, by experiment and preset; sources in the order of `SOURCES`, the densest state first.

    Runs that differ in how masks were trained after the search are of one kind.

    Args:
        paths: run directories.
        measure: ``kappa`` or ``jaccard``.
        unread: gets why ticket files could not be read.

    Raises:
        RunError: no run holds tickets that could be compared.
    """
    groups: dict[tuple[str, str], dict[tuple, dict[Path, Named]]] = defaultdict(lambda: defaultdict(dict))
    for path in paths:
        head = names_of(path, _of_search(read_config(path)))
        names = _names(path)
        found = _recorded(path, names, measure) if names else {}
        for key, similarity in (found | _filed(path, measure, {k[0] for k in found}, unread)).items():
            groups[head][key][path] = similarity
    made = {head: _averaged(found) for head, found in groups.items()}
    made = {head: each for head, each in made.items() if each}
    if not made:
        raise RunError(
            "no run here holds three tickets or more: semantics compares pairs of them by their names"
        )
    return made


def _of_search(config: dict[str, Any]) -> dict[str, Any]:
    """A run's configuration without what only the training after the search depends on."""
    kept = {name: value for name, value in (config.get("settings") or {}).items() if name not in AFTERWARDS}
    return {**config, "settings": kept}


def _names(path: Path) -> list[str]:
    """Tickets of the search on the own subsets, in its order."""
    rows = (
        r
        for r in read_records(path)
        if r["event"] == "prune" and r.get("stage", "").startswith("search-own-")
    )
    return list(dict.fromkeys(row["ticket"] for row in rows))


def _recorded(path: Path, names: Sequence[str], measure: str) -> dict[tuple, Named]:
    found = {}
    for row in read_records(path):
        source = str(row.get("stage", "")).removeprefix("search-").rpartition("-")[0]
        asked = row["event"] == "similarity" and row["kind"] == measure and source in SOURCES
        if asked and len(row["matrix"]) == len(names) >= 3:
            values = np.array(row["matrix"], dtype=float)
            key = (source, row.get("depth", "all"), round(1 - row["density"], 4), row["round"])
            found[key] = Named.of(names, values)
    return found


def _filed(path: Path, measure: Measure, known: set[str], unread: list[str] | None) -> dict[tuple, Named]:
    """From ticket files, of the sources that the records say nothing of."""
    found: dict[tuple, Named] = {}
    for source, (method, _) in SOURCES.items():
        for file in sorted((path / "tickets").glob(f"{method}-*.tickets")) if source not in known else ():
            try:
                masks = masks_of(file)
            except TicketFileError as error:
                if unread is not None:
                    unread.append(str(error))
                continue
            if len(masks) >= 3:
                found |= {
                    (source, depth, round(1 - masks.density, 4), None): n
                    for depth, n in _by_depth(masks, measure)
                }
    return found


def _by_depth(masks: MaskSet, measure: Measure) -> list[tuple[str, Named]]:
    everything = compare(masks)
    parts = {"all": everything, **(everything.by_depth() if len(everything.layers) >= len(DEPTHS) else {})}
    return [(depth, Named.of_masks(part, masks.names, measure)) for depth, part in parts.items()]


def _averaged(found: Mapping[tuple, Mapping[Path, Named]]) -> list[Snapshot]:
    """Means over seeds; runs whose tickets have other names are left out of a mean with the first."""
    rounds = {key[:3]: key[3] for key in found if key[3] is not None}
    states: dict[tuple, dict[Path, Named]] = defaultdict(dict)
    for (*state, number), by_path in found.items():  # a ticket file does not know its round
        states[*state, rounds.get(tuple(state)) if number is None else number] |= by_path
    made = []
    for (source, depth, removed, number), by_path in states.items():
        first = next(iter(by_path.values()))
        same = [each for each in by_path.values() if each.names == first.names]
        values = np.mean([each.values_KK for each in same], axis=0)
        made.append(Snapshot(source, depth, removed, number, Named(first.names, values), len(same)))
    order = {source: i for i, source in enumerate(SOURCES)}
    return sorted(made, key=lambda s: (order[s.source], _LAYERS.index(s.depth), s.removed))


def aligned(
    found: Sequence[Snapshot], meaning: Named, permutations: int = 9999, seed: int = 0
) -> list[Aligned]:
    """The alignment of every state.

    Raises:
        UsageError: tickets whose names have no meaning.
    """
    return [Aligned(s, align(s.similarity, meaning, permutations, seed=seed)) for s in found]


def table(of: str, made: Sequence[Aligned], what: str) -> Table:
    """A row per source, depth and density, under a heading."""
    header = ["masks", "layers", "removed", "seeds", "mean similarity", "rho", "95%", "p"]
    body = []
    for each in made:
        s, f = each.state, each.found
        numbers = ["", "", ""]
        if not math.isnan(f.rho):
            low, high = f.ci95
            numbers = [f"{f.rho:+.2f}", f"{low:+.2f} to {high:+.2f}", f"{f.p:.4f}"]
        line = [
            SOURCES[s.source][1].partition(":")[0],
            s.depth,
            f"{s.removed:.1%}",
            str(s.seeds),
            share(s.mean),
        ]
        body.append([*line, *numbers])
    return Table(f"Spearman's rho of mask similarity and {what}", header, body, of)
