"""What tickets take, by their file: the form of stored samples, names of columns, how they are prepared.

The form is that of `tombola.tickets.probe`: shape, dtype and range of each tensor, and nobody's numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch

from tombola._utils import batch
from tombola._utils.batch import Batch
from tombola._utils.errors import DataError, TombolaError
from tombola.data import prepare
from tombola.data.dataset import Data
from tombola.data.stored import Request
from tombola.data.values import check_batch
from tombola.objectives.objective import Objective
from tombola.tickets import probe

ROWS = 16  # samples that are looked at, evenly spaced


@dataclass(frozen=True)
class Inputs:
    """The inputs of tickets, before they are prepared.

    Attributes:
        stored: the form of samples as data hold them (`probe.described`); None where it is not known.
        prepare: the steps from there to what the network takes (`tombola.prepare`).
        features: names of the columns of a table, in order: one, several, or those of each part of a
            dictionary. None where there was no table.
        kind: ``values``, or ``sound`` for spectrograms.
        text: how text became tokens (`tombola.data.text.Text`), before anything is prepared; None where it
            was no text.
    """

    stored: Any = None
    prepare: list[dict[str, Any]] = field(default_factory=list)
    features: Any = None
    kind: str = "values"
    text: dict[str, Any] | None = None

    def tokens(self, texts: Sequence[str], tokenizer: Any = None) -> Batch:
        """Tokens of texts, by the tokenizer of training.

        Raises:
            TombolaError: there was no text in training, or this is another tokenizer.
        """
        if self.text is None:
            raise DataError("x holds text, but these tickets were not trained on text")
        from tombola.data.text import Text

        return Text(**self.text).tokens(texts, tokenizer)

    def own(self) -> str:
        """Why inputs cannot be prepared: a function of the user's own did it; empty where they can."""
        try:
            prepare.restored(self.prepare)
        except DataError as error:
            return str(error)
        return ""

    def prepared(self, x: Batch) -> Batch:
        """The network's input from samples as they are stored.

        Raises:
            TombolaError: a function of the user's own prepared them.
        """
        try:
            return prepare.restored(self.prepare)(x)
        except (RuntimeError, TypeError, ValueError, AttributeError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            form = "samples as they were stored in training"
            raise TombolaError(f"inputs cannot be prepared as in training ({reason}): pass {form}") from None


def described(data: Data, objective: Objective) -> dict[str, Any]:
    """What the network takes, as metadata of a ticket file.

    >>> from tombola.objectives import OneVsRest
    >>> described(Data.of((torch.arange(160.0) % 2).view(20, 8), torch.arange(20) % 2), OneVsRest())["stored"]
    {'tensor': [8], 'dtype': 'float32', 'range': [0.0, 1.0]}
    """
    steps = prepare.described(data.prepare)
    if data.contexts is not None:
        steps.append({"own": "the context, which is an input of this network"})
    if objective.sound:
        return {n: v for n, v in asdict(Inputs(prepare=steps, kind="sound")).items() if n != "text"}
    S = len(data.train)
    spread = torch.linspace(0, S - 1, min(ROWS, S)).long()
    x = next(data.train.read([Request(spread)]))
    found = asdict(Inputs(probe.described(x), steps, data.features))
    found.pop("text")
    return found if data.text is None else {**found, "text": asdict(data.text)}


def known(metadata: Mapping[str, Any]) -> Inputs:
    """What the metadata of tickets say of their inputs; older files say less, and are read."""
    said = metadata.get("input")
    if said is None:  # what the network takes is all that is known
        unsaid = [{"own": "a function that an older version did not name"}] if "input" in metadata else []
        return Inputs(as_taken(metadata), unsaid)
    if "bytes" not in said:
        return Inputs(**{name: said[name] for name in Inputs.__dataclass_fields__ if name in said})
    # A version before steps were data: one tensor, as it is or normalised.
    dtype = "uint8" if said["bytes"] else "float32"
    steps = [{"step": "normalise", "mean": said["mean"], "std": said["std"]}] if said.get("mean") else []
    return Inputs({"tensor": said["shape"], "dtype": dtype, "range": said.get("range")}, steps)


def as_taken(metadata: Mapping[str, Any]) -> Any:
    """The form of what the network itself takes, after any preparation; None where it is not known."""
    if metadata.get("probe") is None and "shape" in metadata:
        return {"tensor": metadata["shape"], "dtype": "float32", "range": None}
    return metadata.get("probe")


def check_finite(x: Batch, metadata: Mapping[str, Any]) -> None:
    """Raise `DataError` where inputs of the network hold NaN or infinite values; it names the first."""
    if not all(t.isfinite().all() for t in batch.tensors(x).values() if t.is_floating_point()):
        check_batch("x", x, known(metadata).features)


def is_known(value: Any) -> bool:
    """Whether a value in a file, of whatever origin, can be read as what tickets take."""
    try:
        said = known({"input": value})
    except (AttributeError, KeyError, TypeError):
        return False
    form = said.stored is None or isinstance(said.stored, dict)
    if said.text is not None:
        from tombola.data.text import Text

        names = {f.name: f.type for f in fields(Text)}
        values = said.text if isinstance(said.text, dict) else {}
        kinds = {name: type(value).__name__ for name, value in values.items()}
        form = form and kinds == names and values["length"] > 1
    return form and isinstance(said.kind, str) and prepare.is_description(said.prepare)
