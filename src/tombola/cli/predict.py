"""``tombola predict``: which ticket answers a file, what, how sure it is, and why."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from tombola._utils import io
from tombola._utils.batch import Batch, size
from tombola._utils.errors import DataError, UsageError
from tombola.cli.network import network
from tombola.cli.options import Flag, absolute
from tombola.cli.terminal import show
from tombola.data.images import SUFFIXES
from tombola.lab.evaluation.answers import rows
from tombola.lab.evaluation.inputs import column_of, inputs_of, taken_by
from tombola.lab.report.tables import Table
from tombola.tickets.inputs import Inputs
from tombola.tickets.model import TicketModel, load


def predict(
    file: Path,
    /,
    *inputs: Path,
    ticket: str | None = None,
    ticket_column: str | None = None,
    backbone: str | None = None,
    tokenizer: str | None = None,
    prepared: Flag = False,
    json: Flag = False,
) -> None:
    """Answer images, sounds, tables or arrays with the tickets of a file, and say who answered and why.

    Inputs are what they were before training prepared them: pictures, columns in their units. The file knows
    the steps.

    Example: tombola predict routed/seed0/rtl-0.5.tickets photo.png

    Args:
        file: A ticket file.
        inputs: Images or folders of them, sound files, tables (CSV, Parquet) with a sample in each row, lines
            of text (.txt), or arrays (.npy, .npz) of one sample or several.
        ticket: Which ticket is to answer; the router chooses by default.
        ticket_column: The column of a table that names the ticket of each row, such as the context of
            training.
        backbone: MODULE:NAME of the network, or of a function that makes it, or where a pretrained network
            lies by now; by default that of the experiment or the pretrained network that the ticket file or
            its run names.
        tokenizer: Where the tokenizer of training lies by now, if text is what tickets take and it was moved.
        prepared: Inputs are what the network takes, already prepared.
        json: Print answers for machines.
    """
    if not inputs:
        raise UsageError(
            "predict needs at least one input: an image, a sound, a table (CSV, Parquet) or an array "
            "(.npy, .npz)"
        )
    if ticket and ticket_column:
        raise UsageError("--ticket and --ticket-column both say who answers: give one of them")
    metadata = io.read_metadata(file).get("facts", {})
    taken = taken_by(file, metadata, prepared, tokenizer and absolute(tokenizer))
    tickets = load(file, network(file, metadata, backbone))
    made = [answer for path in inputs for answer in _answers(tickets, taken, path, ticket, ticket_column)]
    columns = ["input", "answer", "probability", "ticket", "confidence", "why"]
    body = [[_text(answer[name]) for name in columns] for answer in made]
    show([Table("Answers", columns, body)], made, json)


def _answers(
    tickets: TicketModel, taken: Inputs, path: Path, ticket: str | None, column: str | None
) -> list[dict[str, Any]]:
    if path.is_dir():
        return _of_folder(tickets, taken, path, ticket)
    x = inputs_of(path, taken, _tell)
    names = [f"{path.name}:{i + 1}" for i in range(size(x))] if size(x) > 1 else [path.name]
    return _rows(tickets, x, column_of(path, column) if column else ticket, names)


def _of_folder(tickets: TicketModel, taken: Inputs, folder: Path, ticket: str | None) -> list[dict[str, Any]]:
    """Answers to the pictures below a folder, in alphabetical order."""
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    if not files:
        raise DataError(f"{folder} holds no pictures")
    remarks: list[str] = []
    made = []
    for file in files:
        name = str(Path(folder.name) / file.relative_to(folder))
        made += _rows(tickets, inputs_of(file, taken, remarks.append), ticket, [name])
    if remarks:
        _tell(remarks[0] + (f" ({len(remarks) - 1} more like this)" if len(remarks) > 1 else ""))
    return made


def _rows(
    tickets: TicketModel, x: Batch, ticket: str | list[str] | None, names: list[str]
) -> list[dict[str, Any]]:
    made = rows(tickets.predict(x, ticket))
    return [{"input": name, **row} for name, row in zip(names, made, strict=True)]


def _tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, list):
        return " ".join(str(each) if isinstance(each, int) else f"{each:.3f}" for each in value)
    return f"{value:.2f}" if isinstance(value, float) else str(value)
