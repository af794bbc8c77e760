"""What the names of tickets mean: from a table, from vectors, from WordNet or from a sentence encoder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tombola._utils.errors import UsageError, unknown
from tombola.data.partition.clusters import sentence_encoder
from tombola.lab.analysis.named import Named
from tombola.lab.analysis.wordnet import path_similarity
from tombola.lab.experiments.cifar100 import CLUSTERS, NAMES, SUPERCLASSES

MEANINGS = ("wordnet", "text")
_CIFAR10 = {"vehicle": "airplane automobile ship truck", "animal": "bird cat deer dog frog horse"}


def meaning(names: Sequence[str], source: str = "wordnet") -> tuple[Named, str]:
    """Similarity of the names of tickets, and what it is in words.

    Superclasses and clusters of CIFAR-100 mean what their classes mean: the mean over pairs of these.

    Args:
        names: of the tickets.
        source: a CSV table of similarities, an NPY file of vectors ``[K, D]`` in the order of the tickets (or
            of the 100 class names of CIFAR-100 in the order of their labels), ``wordnet`` (the extra
            ``tombola[semantics]``, first noun senses) or ``text`` (the extra ``tombola[text]``).

    Raises:
        UsageError: no such file, names without a meaning, or an extra that is missing.
    """
    members = _members(names)
    leaves = list(dict.fromkeys(leaf for group in members.values() for leaf in group))
    file = Path(source)
    if file.suffix == ".csv":
        found, what = Named.read(file), "the similarity of names in a table"
    elif file.suffix == ".npy":
        found, what = _vectors(file, names), "the cosine of name embeddings"
    elif source == "wordnet":
        found, what = path_similarity(leaves), "WordNet path similarity of names"
    elif source == "text":
        texts = [name.replace("_", " ") for name in leaves]
        found, what = Named.of_vectors(leaves, sentence_encoder()(texts)), "the cosine of name embeddings"
    else:
        known = [*MEANINGS, "FILE.csv", "FILE.npy"]
        raise UsageError(unknown("meaning of names", source, known))
    if "wordnet" in source:
        what = "WordNet path similarity of names"
    if set(names) <= set(found.names):
        return found.select(list(names)), what
    return found.merged(members), what


def _vectors(file: Path, names: Sequence[str]) -> Named:
    try:
        vectors = np.load(file, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UsageError(f"the vectors {file} cannot be read: {error}") from None
    if vectors.ndim == 2 and len(vectors) == len(names):
        return Named.of_vectors(names, vectors)
    if vectors.ndim == 2 and len(vectors) == len(NAMES):
        return Named.of_vectors(NAMES, vectors)
    raise UsageError(
        f"{file} holds an array of shape {vectors.shape}: one vector for each of {len(names)} tickets is "
        f"needed, or for each of the {len(NAMES)} classes of CIFAR-100"
    )


def _members(names: Sequence[str]) -> dict[str, list[str]]:
    """The classes behind each ticket: those of a superclass or cluster of CIFAR-100, else the name itself."""
    for known in (SUPERCLASSES, CLUSTERS):
        if set(names) <= set(known):
            return {name: known[name].split() for name in names}
    return {name: [name] for name in names}


def groups(names: Sequence[str], source: Path | None = None) -> tuple[dict[str, str], str] | None:
    """The known group of every ticket and what the groups are; None where none are known.

    Args:
        names: of the tickets.
        source: a JSON file, name to group. Without it: the superclasses of the classes of CIFAR-100, the
            clusters of its superclasses, and animals and vehicles of CIFAR-10.

    Raises:
        UsageError: a file that is no such mapping.
    """
    if source is not None:
        try:
            found = json.loads(source.read_text())
            return {str(name): str(group) for name, group in found.items()}, "the given groups"
        except (OSError, ValueError, AttributeError) as error:
            raise UsageError(f"{source} is no JSON object of name to group: {error}") from None
    parts: Sequence[tuple[Mapping[str, str], str]] = (
        (SUPERCLASSES, "the superclasses of CIFAR-100"),
        (_CIFAR10, "animals and vehicles"),
    )
    for known, what in parts:
        of = {name: group for group, members in known.items() for name in members.split()}
        if set(names) <= set(of):
            return {name: of[name] for name in names}, what
    if set(names) <= set(SUPERCLASSES):
        return {name: _cluster_of(name) for name in names}, "the eight clusters (ours, see cifar100)"
    return None


def _cluster_of(superclass: str) -> str:
    """The cluster that most classes of a superclass are in."""
    mine = set(SUPERCLASSES[superclass].split())
    return max(CLUSTERS, key=lambda cluster: len(mine & set(CLUSTERS[cluster].split())))
