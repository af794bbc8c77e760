"""Text as tokens: by a tokenizer of `transformers`, cut and padded to one length, which a ticket file names.

Shape letters: S texts, L tokens.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tombola._utils import hub
from tombola._utils.errors import DataError, warn

# Texts by whose tokens a tokenizer is known, beside its vocabulary: case, accents, digits, signs, spaces.
KNOWN_BY = (
    "The quick brown fox",
    "don't STOP, e.g. at 3.14159 or 1,000,000!",
    "Ærøskøbing naïve façade",
    "  two  spaces\tand\na line",
    "日本語 и русский",
    "def f(x): return x**2",
)
_alone = threading.Lock()  # tokenizers keep options in themselves while they are at work
_PARTS = ("input_ids", "attention_mask")


@dataclass(frozen=True)
class Text:
    """A column of text, and how it becomes tokens.

    Attributes:
        column: the name of the column.
        tokenizer: where the tokenizer lies: a folder, a GGUF file, a name on a hub.
        digest: the hash of what it does (`digest`).
        length: tokens of a text, L: longer ones are cut, shorter ones padded at their end.
    """

    column: str
    tokenizer: str
    digest: str
    length: int

    @classmethod
    def of(cls, column: str, texts: Sequence[str], tokenizer: Any, length: int) -> tuple[Text, Any]:
        """What is to be known of these texts, and the tokenizer itself.

        L is ``length``, or what the longest text needs where that is less; a warning counts those to be cut.
        """
        if isinstance(length, bool) or not isinstance(length, int) or length < 2:
            raise DataError(f"length is a number of tokens, 2 or more: got {length!r}")
        found = opened(tokenizer)
        sizes = [len(ids) for ids in found(list(texts))["input_ids"]]
        if cut := sum(size > length for size in sizes):
            warn(f"{cut:,} of {len(sizes):,} texts are longer than {length} tokens and are cut: length=")
        name = tokenizer if isinstance(tokenizer, str | Path) else getattr(found, "name_or_path", "")
        place = Path(name).expanduser()
        where = str(place.resolve()) if name and place.exists() else str(name)
        return cls(column, where, digest(found), min(length, max(2, *sizes))), found

    def tokens(self, texts: Sequence[str], tokenizer: Any = None) -> dict[str, Tensor]:
        """``input_ids`` and ``attention_mask``, int64 ``[S, L]`` each.

        Args:
            texts: S strings.
            tokenizer: the tokenizer, or where it lies by now.

        Raises:
            DataError: what are no strings, or another tokenizer than that of training.
        """
        return made(self.opened(tokenizer), texts, self.length)

    def opened(self, tokenizer: Any = None) -> Any:
        """The tokenizer, by default from where it lay in training; `DataError` for another one."""
        if tokenizer is None:
            return _of_training(self)
        found = opened(tokenizer)
        if digest(found) != self.digest:
            where = getattr(found, "name_or_path", "") or type(found).__name__
            raise DataError(
                f"the tokenizer {where} is not that of training ({self.tokenizer}): it makes other tokens of "
                "the same text; pass the one that the tickets were trained with"
            )
        return found


@lru_cache(maxsize=4)  # to compare vocabularies takes longer than to use them
def _of_training(text: Text) -> Any:
    return text.opened(text.tokenizer)


def made(tokenizer: Any, texts: Sequence[str], length: int) -> dict[str, Tensor]:
    """Tokens of texts, cut and padded at their end to one length."""
    if wrong := [text for text in texts if not isinstance(text, str)]:
        raise DataError(f"texts are strings: got {type(wrong[0]).__name__}")
    if not len(texts):
        raise DataError("there are no texts")
    options = {"padding": "max_length", "truncation": True, "max_length": length}
    with _alone:
        found = tokenizer(list(texts), **options, padding_side="right")
    return {name: torch.tensor(found[name], dtype=torch.int64) for name in _PARTS}


def opened(tokenizer: Any) -> Any:
    """A tokenizer that pads: itself, or what lies at this place."""
    if tokenizer is None or not str(tokenizer):
        raise DataError("text becomes tokens by a tokenizer: pass tokenizer=, its folder, name or itself")
    found = _read(str(tokenizer)) if isinstance(tokenizer, str | Path) else tokenizer
    if not callable(found) or not hasattr(found, "get_vocab"):
        raise DataError(f"a tokenizer of transformers is needed: got {type(tokenizer).__name__}")
    if found.pad_token is None:
        found.pad_token = found.eos_token
    return found


@lru_cache(maxsize=4)
def _read(where: str) -> Any:
    return hub.loaded("AutoTokenizer", where)


def digest(tokenizer: Any) -> str:
    """The hash of a tokenizer's vocabulary and of what it makes of a few texts."""
    known = [sorted(tokenizer.get_vocab().items()), tokenizer.pad_token_id]
    with _alone:
        ids = [tokenizer(text)["input_ids"] for text in KNOWN_BY]
    return hashlib.sha256(json.dumps([known, ids]).encode()).hexdigest()


def strings(x: Any) -> list[str] | None:
    """Samples that are strings, as a list; None for all else.

    >>> strings(["a", "b"]), strings([1.0])
    (['a', 'b'], None)
    """
    if isinstance(x, str):
        raise DataError("a text alone is no batch of texts: pass [text]")
    if isinstance(x, list | tuple | np.ndarray) or hasattr(x, "tolist"):
        values = x.tolist() if hasattr(x, "tolist") else list(x)
        if isinstance(values, list) and values and all(isinstance(value, str) for value in values):
            return values
    return None
