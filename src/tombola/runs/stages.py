"""The stages of a run: what each one computes, as fields, the one name that is made of them, what it takes.

Names are those of files and of ``timings.jsonl``; records carry the fields themselves.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

from tombola._utils.checkpoint import State

Phase = Literal["rewind", "first", "search", "train", "judge"]

_NUMBER = r"(?P<sparsity>\d[\d.]*(e-\d+)?)"
_SEARCH = re.compile(
    rf"(?P<phase>rewind|first|search)-(?P<conditioned>told-)?((?P<method>\w+)-)?(?P<view>[a-z]\w*)(-{_NUMBER})?"
)
_TRAIN = re.compile(rf"(?P<phase>train|judge)-(?P<method>\w+)-{_NUMBER}(-(?P<ticket>.+))?", re.DOTALL)


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        phase: ``rewind`` (the way to the rewind point), ``first`` (a mask before any training), ``search``
            (Algorithm 1), ``train`` (Algorithm 2) or ``judge``.
        method: whose training or judging it is; of a search, the method whose settings it has, or none.
        view: what a search or a rewind point reads of the data (`DataView`).
        sparsity: of the tickets; None for a rewind point, and a first mask that serves all sparsities.
        ticket: of a network that one subset has for itself.
        conditioned: whether the network is told the context as an input.

    >>> str(Stage("search", view="own", sparsity=0.5))
    'search-own-0.5'
    >>> str(Stage("train", "imp_per_subset", sparsity=0.5, ticket="cat"))
    'train-imp_per_subset-0.5-cat'
    >>> Stage.parse("search-told-imp_context-single-0.5").fields()
    {'phase': 'search', 'method': 'imp_context', 'view': 'single', 'sparsity': 0.5, 'conditioned': True}
    """

    phase: Phase
    method: str = ""
    view: str = ""
    sparsity: float | None = None
    ticket: str = ""
    conditioned: bool = False

    def __str__(self) -> str:
        told = "told" if self.conditioned else ""  # the word in the names of files
        number = "" if self.sparsity is None else str(self.sparsity)
        return "-".join(filter(None, (self.phase, told, self.method, self.view, number, self.ticket)))

    def fields(self) -> dict[str, Any]:
        """The fields that records carry: all that is set."""
        given = vars(self).items()
        return {name: value for name, value in given if value or (name == "sparsity" and value == 0)}

    @property
    def search(self) -> str:
        """The search that it belongs to, one name for all its sparsities; empty for other phases."""
        parts = ("told" if self.conditioned else "", self.method, self.view)
        return "-".join(filter(None, parts)) if self.phase == "search" else ""

    @classmethod
    def parse(cls, name: str) -> Self | None:
        """The stage of a name, as older runs wrote it too; None where it is no stage's."""
        found = _SEARCH.fullmatch(name) or _TRAIN.fullmatch(name)
        if found is None:
            return None
        given = {key: value for key, value in found.groupdict().items() if value is not None}
        assert given["phase"] in get_args(Phase)
        if "sparsity" in given:
            given["sparsity"] = float(given["sparsity"])
        return cls(**{**given, "conditioned": "conditioned" in given})  # type: ignore[arg-type]


@dataclass(frozen=True)
class Work:
    """What a stage takes, as it is known before it is computed.

    Attributes:
        trainings: how many; joint training is one, and a mask that is cut before any is one of no steps.
        steps: batches that each of them is trained on; at most, where a rule may end it.
        batch_size: samples of a batch.
        at_once: so many of the trainings do not wait for each other.
        scored: batches that a score reads after each training.
        passes: samples that go through a network without being trained on.
        file_bytes: of ticket files, at most.
        stand_in: a result of the same names and shapes, made of nothing.
    """

    trainings: int = 0
    steps: int = 0
    batch_size: int = 0
    at_once: int = 1
    scored: int = 0
    passes: int = 0
    file_bytes: int = 0
    stand_in: Callable[[], State] = lambda: ({}, {})

    @property
    def all_steps(self) -> int:
        """Of all trainings."""
        return self.trainings * self.steps

    def shared_out(self, workers: int) -> float:
        """The share of the time of one worker that several need.

        >>> Work(trainings=30, at_once=10).shared_out(4)
        0.3
        """
        return -(-self.at_once // workers) / self.at_once


NO_WORK = Work()
