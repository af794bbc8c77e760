"""``tombola merge``: fine-tunes of one network become the tickets of one file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from tombola._utils import io
from tombola._utils.errors import UsageError, unknown
from tombola.cli.network import network
from tombola.cli.options import Flag, Words, by_name, new, use_threads, written
from tombola.cli.terminal import show
from tombola.lab.evaluation.new_data import data_of
from tombola.lab.evaluation.objective import objective_of
from tombola.lab.report.tables import Table, share, whole
from tombola.objectives.metrics import metric_info
from tombola.settings import Settings, TrainConfig
from tombola.tickets.inputs import Inputs
from tombola.tickets.merging import Method, stored
from tombola.tickets.merging import merge as merged


def merge(
    out: Path,
    /,
    *checkpoints: str,
    backbone: str,
    method: str = "tall",
    include: Words = (),
    exclude: Words = (),
    data: Words = (),
    target: str | None = None,
    objective: str | None = None,
    steps: int = 0,
    set: Words = (),
    seed: int = 0,
    threads: int | None = None,
    force: Flag = False,
    json: Flag = False,
) -> None:
    """Make one ticket file of several fine-tunes of one network: a shared change, and a mask each.

    The network itself is not stored: who loads the file brings it. No data are needed. Where there are some,
    they choose what else is set by a formula, and fine-tunes and tickets are judged.

    Example: tombola merge tasks.tickets mail=mail.safetensors news=news.safetensors --backbone nets:base

    Args:
        out: The ticket file.
        checkpoints: TASK=FILE for each fine-tune: safetensors, a folder of them with their index, or a
            state_dict that torch has saved.
        backbone: MODULE:NAME of the network that all were fine-tuned from, with its pretrained weights, or of
            a function that makes it.
        method: tall (a mask and a scale each), emr (the same by signs); ties, dare, dare_ties, mean, sum (one
            network for all).
        include: Names or globs of the weights that share a change; matrices and kernels by default.
        exclude: Names or globs of weights that do not.
        data: TASK=DATA for each task: a table (CSV, Parquet), arrays x and y (.npz), or MODULE:NAME of a
            `tombola.Data`, which says what the fine-tune was not trained on.
        target: The column of tables that is asked for.
        objective: What the data ask, such as Classification, or MODULE:NAME of an objective.
        steps: Batches per task of joint retraining under the masks, which needs data.
        set: Settings of that training, such as train.lr=0.0001.
        seed: Of what dare drops, and of the order of the data.
        threads: Threads; all cores by default.
        force: Replace a file that is there already.
        json: Print what is kept and stored for machines.
    """
    use_threads(threads)
    if method not in get_args(Method):
        raise UsageError(unknown("method", method, get_args(Method)))
    given = {task: Path(path) for task, path in by_name(checkpoints, "a checkpoint", "TASK=FILE").items()}
    if len(given) < 2:
        raise UsageError("merge takes at least two checkpoints, each as TASK=FILE")
    named = by_name(data, "data", "TASK=DATA")
    io.check_target(out)
    new(out, force=force, read=[*given.values(), *map(Path, named.values())])
    if set and not steps:
        raise UsageError("--set is of joint retraining: give --steps as well")
    base = network(out, {}, backbone)
    asked: dict[str, Any] = {}
    if data:
        asked["data"] = {task: data_of(path, target, Inputs()) for task, path in named.items()}
        asked["objective"] = objective_of(objective, {})
    if steps:
        asked |= {"steps": steps, "train": _train(set)}
    scope = {"include": include or None, "exclude": exclude}
    tickets = merged(base, given, method, **scope, seed=seed, **asked)  # type: ignore[arg-type]
    tickets.metadata["command"] = written(
        "merge", out.name, *checkpoints, method=method, backbone=backbone, data=data, target=target,
        objective=objective, steps=steps, set=set, include=include, exclude=exclude, seed=seed,
    )  # fmt: skip
    size = stored(tickets, tickets.save(out))
    counts = {"bytes": size["file"]} | {f"bytes_{n}": value for n, value in size.items() if n != "file"}
    merges = tickets.metadata["merged"]
    rows = [{"task": n, "weights": w, **counts, **merges[n]} for n, w in tickets.masks.counts.items()]
    changed = int(tickets.owned_N.count_nonzero())
    title = f"{out}: {_words(size)}; {changed:,} of {tickets.scope.size:,} weights changed"
    show([_table(title, rows)], rows, json)


def _train(changes: Words) -> TrainConfig:
    if wrong := [change for change in changes if not change.startswith("train.")]:
        raise UsageError(f"joint retraining is set by train.NAME=VALUE: got {wrong[0]!r}")
    return Settings().changed(changes).train


def _words(size: dict[str, int]) -> str:
    file = size["file"]
    return (
        f"{file:,} bytes beside the base, {file / size['networks']:.2f} of whole fine-tunes and "
        f"{file / size['changes']:.2f} of their changes; {size['per_task']:,} per task, of which "
        f"{size['own_per_task']:,} are its own"
    )


def _table(title: str, rows: Sequence[dict[str, Any]]) -> Table:
    header, body = ["task", "kept of its change", "λ", "scale", "weights"], []
    metric = metric_info(rows[0]["metric"]) if "metric" in rows[0] else None
    if metric:
        header += [f"{metric.column} of the fine-tune", "of the ticket"]
    for row in rows:
        chosen = "" if row["lambda"] is None else f"{row['lambda']:g}"
        line = [row["task"], share(row["kept"]), chosen, f"{row['scale']:.3f}", whole(row["weights"])]
        body.append(line + ([metric.write(row[of]) for of in ("fine_tune", "ticket")] if metric else []))
    return Table(title, header, body)
