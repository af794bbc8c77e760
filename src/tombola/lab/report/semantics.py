"""Do tickets of related classes look alike? Runs against the meaning of their tickets' names.

Similarity comes from the records of a search (every round), and from ticket files where a run is older than
these. The matrices of several seeds are averaged before they are compared: one test, not one per seed.

Shape letters: K tickets.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tombola._utils.errors import DataError, RunError, TicketFileError, UsageError, unknown
from tombola.data.partition.clusters import sentence_encoder
from tombola.lab.analysis.semantics import Measure, Named, agreement, align, by_depth, path_similarity
from tombola.lab.experiments.cifar100 import CLUSTERS, NAMES, SUPERCLASSES
from tombola.lab.report.blocks import Block, Charts, Tabled, Words
from tombola.lab.report.charts import REMOVED, Axis, Chart, Point, heat, lines, save
from tombola.lab.report.findings import Findings
from tombola.lab.report.inspect import masks_of
from tombola.lab.report.kept import contents
from tombola.lab.report.rows import Row
from tombola.lab.report.tables import Table, share
from tombola.lab.results import names_of
from tombola.masks.similarity import DEPTHS
from tombola.runs.log import read_config, read_records

# Whose masks: the tickets, and the controls in which alignment should survive (twin) or vanish.
SOURCES = {
    "own": ("rtl", "the tickets"),
    "twin": ("twin", "twins"),  # the same subsets, another data order
    "shuffled": ("shuffled_partition", "a shuffled partition"),
    "theta0": ("theta0_magnitude", "masks from |theta0|"),
}
AFTERWARDS = ("steps", "form", "shares", "statistics")  # settings of the training, which no mask depends on
_FORMATS = (".svg", ".png", ".pdf")
_LAYERS = ("all", *DEPTHS)
_CIFAR10 = {"vehicle": "airplane automobile ship truck", "animal": "bird cat deer dog frog horse"}


# -- masks ------------------------------------------------------------------------------------------------


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

    def row(self, meaning: Named, permutations: int) -> Row:
        """Its alignment with the meaning of names, for machines."""
        numbers = asdict(align(self.similarity, meaning, permutations, bootstraps=min(permutations, 1000)))
        low, high = numbers.pop("ci95")
        numbers |= {"low": low, "high": high, "mean": self.mean}
        where = {name: getattr(self, name) for name in ("source", "depth", "removed", "round", "seeds")}
        return where | {name: None if math.isnan(value) else value for name, value in numbers.items()}


def states(
    paths: Sequence[Path], measure: Measure = "kappa", unread: list[str] | None = None
) -> dict[tuple[str, str], list[Snapshot]]:
    """What runs hold, by experiment and preset; sources in the order of `SOURCES`, the densest state first.

    Runs that differ in how masks were trained after the search are of one kind. ``unread`` gets why ticket
    files could not be read.
    """
    groups: dict[tuple[str, str], dict[tuple, dict[Path, Named]]] = defaultdict(lambda: defaultdict(dict))
    for path in paths:
        config = read_config(path)
        kept = {k: value for k, value in (config.get("settings") or {}).items() if k not in AFTERWARDS}
        head, found = names_of(path, {**config, "settings": kept}), _recorded(path, measure)
        for key, similarity in (found | _filed(path, measure, {k[0] for k in found}, unread)).items():
            groups[head][key][path] = similarity
    if made := {head: each for head, found in groups.items() if (each := _averaged(found))}:
        return made
    raise RunError("no run here holds three tickets or more: semantics compares pairs of them by their names")


def _recorded(path: Path, measure: str) -> dict[tuple, Named]:
    names: dict[str, None] = {}  # tickets of the search on the own subsets, in its order
    rows = []
    for row in read_records(path):
        if row.get("phase") == "search" and not {"method", "conditioned"} & row.keys():
            if row["event"] == "prune" and row["view"] == "own":
                names[row["ticket"]] = None
            elif row["event"] == "similarity" and row["kind"] == measure and row["view"] in SOURCES:
                rows.append(row)
    found = {}
    for row in rows if len(names) >= 3 else ():
        if len(row["matrix"]) == len(names):
            key = row["view"], row.get("depth", "all"), round(1 - row["density"], 4), row["round"]
            found[key] = Named.of(list(names), np.array(row["matrix"], dtype=float))
    return found


def _filed(path: Path, measure: Measure, known: set[str], unread: list[str] | None) -> dict[tuple, Named]:
    found: dict[tuple, Named] = {}
    for source, (method, _) in SOURCES.items():
        for file in sorted((path / "tickets").glob(f"{method}-*.tickets")) if source not in known else ():
            try:
                masks = masks_of(file)
            except TicketFileError as error:
                if unread is not None:
                    unread.append(str(error))
                continue
            parts = by_depth(masks, measure) if len(masks) >= 3 else {}
            removed = round(1 - masks.density, 4)
            found |= {(source, depth, removed, None): part for depth, part in parts.items()}
    return found


def _averaged(found: Mapping[tuple, Mapping[Path, Named]]) -> list[Snapshot]:
    """Means over seeds, of the runs whose tickets have the names of the first."""
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
    order = list(SOURCES)
    return sorted(made, key=lambda s: (order.index(s.source), _LAYERS.index(s.depth), s.removed))


def grouped(states: Sequence[Snapshot], known: Path | None, permutations: int = 199) -> list[Row]:
    """Clusters of tickets against known groups (`groups`), over all layers and in the deep third."""
    of_names, what = groups(states[0].similarity.names, known)
    rows: list[Row] = []
    for state in states if of_names else ():
        if state.depth in ("all", "deep") and state.source != "theta0":  # one mask has no clusters
            row = {"source": state.source, "depth": state.depth, "removed": state.removed, "what": what}
            with suppress(UsageError):  # no kappa between some of them
                found = agreement(state.similarity, of_names, min(permutations, 199))
                rows.append(row | {"ami": found.ami, "chance95": found.chance95, "p": found.p})
    return rows


# -- names ------------------------------------------------------------------------------------------------


def meaning(names: Sequence[str], source: str = "wordnet") -> tuple[Named, str]:
    """Similarity of the names of tickets, and what it is in words.

    The source is a CSV table of similarities, an NPY file of vectors ``[K, D]`` in the order of the tickets
    (or of the 100 class names of CIFAR-100 in the order of their labels), ``wordnet`` (the extra
    ``semantics``, first noun senses) or ``text`` (the extra ``text``). Superclasses and
    clusters of CIFAR-100 mean what their classes mean: the mean over pairs of these.
    """
    behind = next((known for known in (SUPERCLASSES, CLUSTERS) if set(names) <= set(known)), {})
    members = {name: behind[name].split() if behind else [name] for name in names}  # the classes of each
    leaves = list(dict.fromkeys(leaf for group in members.values() for leaf in group))
    file, what = Path(source), "the cosine of name embeddings"
    if file.suffix == ".csv":
        found, what = Named.read(file), "the similarity of names in a table"
    elif file.suffix == ".npy":
        found = _vectors(file, names)
    elif source == "wordnet":
        found = path_similarity(leaves)
    elif source == "text":
        found = Named.of_vectors(leaves, sentence_encoder()([name.replace("_", " ") for name in leaves]))
    else:
        raise UsageError(unknown("meaning of names", source, ["wordnet", "text", "FILE.csv", "FILE.npy"]))
    if "wordnet" in source:
        what = "WordNet path similarity of names"
    if set(names) <= set(found.names):
        return found.select(names), what
    return found.merged(members), what


def _vectors(file: Path, names: Sequence[str]) -> Named:
    try:
        vectors = np.load(file, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"the vectors {file} cannot be read: {error}") from None
    for each in (names, NAMES):
        if vectors.ndim == 2 and len(vectors) == len(each):
            return Named.of_vectors(each, vectors)
    raise DataError(
        f"{file} holds an array of shape {vectors.shape}: one vector for each of {len(names)} tickets is "
        f"needed, or for each of the {len(NAMES)} classes of CIFAR-100"
    )


def groups(names: Sequence[str], source: Path | None = None) -> tuple[dict[str, str], str]:
    """The known group of every ticket and what the groups are; none where none are known.

    They are those of a JSON file, name to group. Without it: the superclasses of the classes of CIFAR-100,
    the clusters of its superclasses, and animals and vehicles of CIFAR-10.
    """
    if source is not None:
        try:
            found = json.loads(source.read_text())
            return {str(name): str(group) for name, group in found.items()}, "the given groups"
        except (OSError, ValueError, AttributeError) as error:
            raise DataError(f"{source} is no JSON object of name to group: {error}") from None
    parts = ((SUPERCLASSES, "the superclasses of CIFAR-100"), (_CIFAR10, "animals and vehicles"))
    for known, what in parts:
        of = {name: group for group, members in known.items() for name in members.split()}
        if set(names) <= set(of):
            return {name: of[name] for name in names}, what
    if not set(names) <= set(SUPERCLASSES):
        return {}, ""
    of = {}
    for name in names:  # the cluster that most classes of a superclass are in
        mine = set(SUPERCLASSES[name].split())
        of[name] = max(CLUSTERS, key=lambda cluster: len(mine & set(CLUSTERS[cluster].split())))
    return of, "the eight clusters (ours, see cifar100)"


# -- tables and the chapter -------------------------------------------------------------------------------


def table(rows: Sequence[Row], title: str, of: str = "") -> Table:
    """A row per source, depth and density, under a heading."""
    forms = ("{rho:+.2f}", "{low:+.2f} to {high:+.2f}", "{p:.4f}")
    body = []
    for row in rows:
        numbers = ["" if row["rho"] is None else form.format(**row) for form in forms]
        body.append([*_head(row), str(row["seeds"]), share(row["mean"]), *numbers])
    header = ["masks", "layers", "removed", "seeds", "mean similarity", "rho", "95%", "p"]
    return Table(title, header, body, of)


def group_tables(rows: Sequence[Row], of: str = "") -> list[Table]:
    """One table of `grouped`, none without rows."""
    forms = ("{ami:+.2f}", "{chance95:+.2f}", "{p:.3f}")
    body = [[*_head(row), *(form.format(**row) for form in forms)] for row in rows]
    header = ["masks", "layers", "removed", "AMI", "95% of chance", "p"]
    return [Table(f"Clusters of tickets against {rows[0]['what']}", header, body, of)] if rows else []


def _head(row: Row) -> list[str]:
    return [SOURCES[row["source"]][1], row["depth"], f"{row['removed']:.1%}"]


def chapter(found: Findings) -> list[Block]:
    """What `tombola semantics` kept beside these runs, if it did."""
    for content in contents(found, "semantics.json"):
        if isinstance(content, dict) and (content.get("experiment"), content.get("preset")) == found.head:
            return _kept(content)
    return []


def _kept(content: dict[str, Any]) -> list[Block]:
    rows = [row for row in content["rows"] if row["rho"] is not None]
    if not rows:
        return [Words(["No rank correlation is defined: all pairs are equally alike."], "missing")]
    names = Named.of(content["names"]["tickets"], np.array(content["names"]["matrix"], dtype=float))
    made = [table(rows, "Masks against names, all states"), *group_tables(content["groups"])]
    charts = Charts([_correlation(rows), _matrix(content["what"], names)])
    return [Words(_words(content, rows)), charts, *map(Tabled, made)]


def _words(content: dict[str, Any], rows: Sequence[Row]) -> list[str]:
    own = [row for row in rows if row["source"] == "own"]
    small = sum(row["p"] <= 0.05 for row in own)
    chances = ", ".join(f"{share:.0%} at {rho}" for rho, share in content["power"].items())
    return [
        f"Spearman's rank correlation between the similarity of masks ({content['measure']}) and "
        f"{content['what']}, over {rows[0]['pairs']} pairs of {rows[0]['names']} names. p is that of a "
        f"permutation of the names (Mantel); of {len(own)} tests on the tickets {small} are at 0.05 or "
        "below, uncorrected: some are by chance.",
        f"What a test of this size finds, by the true correlation: {chances}.",
        "Twins should show the same, a shuffled partition nothing.",
    ]


def _correlation(rows: Sequence[Row], title: str = "Masks against names") -> Chart:
    """Over sparsity: of the tickets per depth of the layers, of the controls over all layers."""
    points: list[Point] = []
    controls = [(source, "all") for source in SOURCES if source != "own"]
    for source, depth in [*(("own", depth) for depth in _LAYERS), *controls]:
        name, kind = f"{SOURCES[source][1]}, {depth} layers", "measured" if source == "own" else "control"
        mine = [row for row in rows if (row["source"], row["depth"]) == (source, depth)]
        for row in mine:
            ends = (row["low"], row["high"]) if depth in DEPTHS and row["low"] is not None else None
            points.append((name, kind, row["removed"], row["rho"], ends))
    return lines(title, points, REMOVED, Axis("Spearman's rho", "{:+.2f}".format))


def _matrix(title: str, named: Named) -> Chart:
    matrix = pd.DataFrame(named.values_KK, list(named.names), list(named.names))
    return heat(title, {"": matrix}, Axis("similarity", share))


def check_figure(file: Path) -> None:
    """Raise `UsageError` for the name of a figure that cannot be drawn, before there is one."""
    if file.suffix.lower() not in _FORMATS:
        raise UsageError(f"--figure takes {', '.join('NAME' + each for each in _FORMATS)}: got {file}")


def draw(states: Sequence[Snapshot], rows: Sequence[Row], meaning: Named, what: str, file: Path) -> None:
    """Five panels in one file, after Figure 3 of RTL (arXiv 2601.22141): do related classes share weights?

    A, B: similarity of the masks in shallow and in deep layers, at the sparsity nearest to 50%. C: that of
    the names. D: their rank correlation over sparsity, a line per third of the depth, dashed the controls
    over all layers. E: mean similarity over sparsity per third of the depth.
    """
    check_figure(file)
    above = []
    for letter, depth in (("A", "shallow"), ("B", "deep")):
        mine = [[s for s in states if (s.source, s.depth) == ("own", each)] for each in (depth, "all")]
        if chosen := min(mine[0] or mine[1], key=lambda s: abs(s.removed - 0.5), default=None):
            title = f"{letter}  masks, {chosen.depth} layers, {chosen.removed:.0%} removed"
            above.append(_matrix(title, chosen.similarity))
    means: list[Point] = [
        (f"{row['depth']} layers", "measured", row["removed"], row["mean"], None)
        for row in rows
        if row["source"] == "own" and row["depth"] in DEPTHS
    ]
    below = [_correlation(rows, "D  rank correlation with the names")]
    below.append(lines("E  mean similarity of the masks", means, REMOVED, Axis("mean over pairs", share)))
    save([[*above, _matrix(f"C  {what}", meaning)], below], file)
