"""An experiment made of options: a pretrained network, a table of texts, columns of classes and of subsets.

It is an `Experiment` like those with a file of their own; a run's config holds the options, so that it is
resumed, reported and asked as any other.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tombola._utils.errors import DataError, UsageError, unknown
from tombola.data.dataset import Data
from tombola.data.partition import by_column
from tombola.data.splitting import SPLITS
from tombola.data.table import TABLES, frame, read_table
from tombola.lab.experiments.experiment import Experiment, Preset, preset_settings
from tombola.objectives import Classification
from tombola.training.pretrained import TASKS, from_pretrained, heads_of

METHODS = ("rtl", "imp", "same_mask")
SPLIT = "split"  # the column that says it, of the files of a folder


@dataclass(frozen=True, kw_only=True)
class Options:
    """What makes the experiment.

    Attributes:
        model: a folder, a GGUF file, or a name in the cache of `transformers`.
        task: ``text-classification``.
        text, target, subset: columns of the table.
        labels: names of the classes, or how many there are.
        split: a column of train, validation and test; none where they are drawn.
        tokenizer: where it lies, if not in the network's folder.
        length: tokens of a text at most.
        dtype: of the weights; that of the checkpoint if empty.
        train_embeddings: whether embeddings are trained.
    """

    model: str
    task: str
    text: str
    target: str
    subset: str
    labels: tuple[str, ...] | int
    split: str = ""
    tokenizer: str = ""
    length: int = 128
    dtype: str = ""
    train_embeddings: bool = False

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise UsageError(unknown("task", self.task, TASKS))
        if self.task != "text-classification":
            raise UsageError(
                f"tombola run --model has the task text-classification: {self.task} goes through "
                "tb.from_pretrained in Python"
            )
        if len({self.text, self.target, self.subset}) < 3:
            raise UsageError("text, target and subset are three columns of the table: one was given twice")

    def plain(self) -> dict[str, Any]:
        """As YAML can hold it."""
        labels = self.labels if isinstance(self.labels, int) else [*self.labels]
        return asdict(self) | {"labels": labels}

    @classmethod
    def from_plain(cls, stored: dict[str, Any]) -> Options:
        """The inverse of `plain`."""
        labels = stored["labels"]
        return cls(**stored | {"labels": labels if isinstance(labels, int) else tuple(labels)})


def table_of(source: str | None, split: str = "") -> tuple[Any, str]:
    """A table (CSV, Parquet) and the column of its splits.

    Of a folder, the files whose names begin with ``train``, ``validation`` (or ``val``) and ``test``.

    Raises:
        DataError: no such table.
        UsageError: none is named.
    """
    if source is None:
        raise UsageError("--model needs --data, a table of texts: CSV or Parquet, or a folder of such")
    path = Path(source).expanduser()
    if not path.is_dir():
        if path.suffix.lower() not in TABLES or not path.is_file():
            raise DataError(f"{source} is no table: CSV or Parquet, or a folder of such")
        return frame(path), split
    import pandas as pd

    parts = []
    for file in sorted(each for each in path.rglob("*") if each.suffix.lower() in TABLES):
        said = [name for name in SPLITS if file.name.lower().startswith(name[:3])]
        parts += [frame(file).assign(**{SPLIT: name}) for name in said]
    if not {"train", "test"} <= {part[SPLIT].iloc[0] for part in parts}:
        raise DataError(f"{source} has no tables (CSV, Parquet) whose names begin with train and with test")
    return pd.concat(parts, ignore_index=True), SPLIT


def labels_of(source: str | None, target: str, text: str) -> tuple[str, ...] | int:
    """The names of the classes in a column of a table of texts, or how many a column of numbers has."""
    read = read_table(table_of(source)[0], target, None, (), text)
    y, names = read.y, read.class_names
    if y.is_floating_point() or int(y.min()) < 0:
        raise DataError(f"column {target!r} holds {y.dtype}: classes are text, or numbers from 0")
    return names or int(y.max()) + 1


def load(source: str | None, augment: bool, options: Options) -> Data:
    """The table, its texts as tokens."""
    if augment:
        raise UsageError("text has no augmentation: leave --augment out")
    table, split = table_of(source, options.split)
    columns: Any = {"target": options.target, "context": options.subset, "split": split or None}
    text: Any = {"text": options.text, "tokenizer": options.tokenizer or options.model}
    return Data.from_table(table, **columns, **text, length=options.length)


def backbone(generator: torch.Generator, options: Options) -> nn.Module:
    """The network, with an output layer that is drawn by the seed."""
    labels, dtype, seed = options.labels, options.dtype or None, generator.initial_seed()
    how: dict[str, Any] = {"dtype": dtype, "train_embeddings": options.train_embeddings, "seed": seed}
    return from_pretrained(options.model, options.task, labels, **how)


def experiment_of(name: str, options: Options) -> Experiment:
    """The experiment of these options; nothing but the network's form is read."""
    classes = options.labels if isinstance(options.labels, int) else len(options.labels)
    settings = replace(QUICK, private=heads_of(options.model, options.task, classes))
    return Experiment(
        name=name,
        summary=f"{options.task} of {options.text} by {options.subset}, on {options.model}",
        data="a table of texts: --data TABLE",
        load=partial(load, options=options),
        backbone=partial(backbone, options=options),
        partition=partial(by_column, column=options.subset),
        objective=Classification("subset", output="logits"),
        presets={
            "quick": Preset(settings, "30 steps of a search and 60 of training per ticket"),
            "best": Preset(replace(settings, T=150, steps=300), "five times the training of quick"),
        },
        usual=METHODS,
        options=options.plain(),
    )


QUICK = preset_settings(
    3e-4, 3e-4, 32, sparsity=(0.7, 0.9), schedule="one_shot", T=30, steps=60, reference="theta0"
)
