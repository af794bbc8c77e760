"""The options that make an experiment of a pretrained network: `tombola run --model`."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from cyclopts import Parameter

from tombola._utils.errors import UsageError
from tombola.cli.options import Flag, absolute
from tombola.lab.experiments import EXPERIMENTS, Experiment
from tombola.lab.experiments.pretrained import Options, experiment_of, labels_of


@Parameter(name="*", group="Pretrained networks")
@dataclass(frozen=True, kw_only=True)
class PretrainedOptions:
    """A network of transformers and a table, in the place of an experiment's name.

    Attributes:
        model: A folder of config.json and safetensors, a GGUF file, or a name in the cache of transformers.
        task: text-classification.
        text: The column of texts.
        target: The column of classes.
        subset: The column that makes subsets, a ticket each.
        split: The column of train, validation and test; they are drawn by default.
        tokenizer: Where the tokenizer lies, if not in the network's folder.
        length: Tokens of a text at most.
        dtype: Of the weights, such as bfloat16; that of the checkpoint by default.
        train_embeddings: Train embeddings too; they are frozen by default, and in no ticket file.
    """

    model: str | None = None
    task: str = "text-classification"
    text: str | None = None
    target: str | None = None
    subset: str | None = None
    split: str = ""
    tokenizer: str = ""
    length: int = 128
    dtype: str = ""
    train_embeddings: Flag = False

    def said(self) -> str:
        """What a user may not expect, in a line."""
        kept = "trained" if self.train_embeddings else "frozen (--train-embeddings trains them)"
        return f"every ticket has an output layer of its own; embeddings are {kept}"

    def experiment(self, name: str, data: str | None) -> str | Experiment:
        """The experiment: that of a name, or one of the options, which is called NAME or as its table."""
        if self.model is None:
            given = [f.name for f in fields(self) if getattr(self, f.name) != f.default]
            if given:
                raise UsageError(
                    f"--{given[0].replace('_', '-')} goes with --model PATH_OR_ID, which is not given"
                )
            if not name:
                raise UsageError(
                    "run needs an experiment (`tombola experiments` lists them), or --model PATH_OR_ID"
                )
            return name
        if self.length < 2:
            raise UsageError(f"--length is at least 2: got {self.length}")
        for option in ("text", "target", "subset"):
            if not getattr(self, option):
                raise UsageError(f"--model needs --{option} COLUMN, a column of the table --data")
        if self.split and data and Path(data).expanduser().is_dir():
            raise UsageError(
                f"--split is a column of one table: files of the folder {data} say their split in their "
                "names, so leave it out"
            )
        name = name or (Path(data).expanduser().resolve().stem if data else "")
        if name in EXPERIMENTS or ":" in name:
            raise UsageError(f"{name} is the name of an experiment: with --model give another one, or none")
        labels = labels_of(data, self.target or "", self.text or "")
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        places = {place: absolute(own[place]) if own[place] else "" for place in ("model", "tokenizer")}
        return experiment_of(name, Options(**own | places | {"labels": labels}))


PRETRAINED = PretrainedOptions()
