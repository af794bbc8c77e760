"""``tombola predict``: which ticket answers a file, what, how sure it is, and why."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tombola._utils import io
from tombola._utils.errors import UsageError
from tombola.cli.options import Flag
from tombola.cli.terminal import show
from tombola.lab.evaluation.inputs import inputs_of
from tombola.lab.experiments import experiment
from tombola.lab.report.tables import Table
from tombola.tickets.fitted import answer_of
from tombola.tickets.model import TicketModel, load

FEW = 16  # numbers that fit into a line


def predict(
    file: Path,
    /,
    *inputs: Path,
    ticket: str | None = None,
    json: Flag = False,
) -> None:
    """Answer images, sounds, tables or arrays with the tickets of a file, and say who answered and why.

    The file is one that `tombola route --save` or `tombola calibrate --save` has written: it says what its
    inputs look like.

    Example: tombola predict routed/seed0/rtl-0.5.tickets photo.png

    Parameters
    ----------
    file: Path
        A ticket file.
    inputs: Path
        Images, sound files, CSV tables with a sample in each row, or arrays (.npy) of one sample or several.
    ticket: str
        Which ticket is to answer; the router chooses by default.
    json: bool
        Print answers for machines.
    """
    if not inputs:
        raise UsageError(
            "predict needs at least one input: an image, a sound, a CSV table or an array (.npy)"
        )
    tickets = _loaded(file)
    made = [answer for path in inputs for answer in _answers(tickets, path, ticket)]
    columns = ["input", "answer", "probability", "ticket", "confidence", "why"]
    body = [[_text(answer[name]) for name in columns] for answer in made]
    show([Table("Answers", columns, body)], made, json)


def _loaded(file: Path) -> TicketModel:
    metadata = io.read(file)[1].get("facts", {})
    if not metadata.get("experiment") or not metadata.get("input"):
        raise UsageError(
            f"{file} does not say what its inputs look like: only files from tombola route RUN --save FOLDER "
            "and tombola calibrate RUN --save FOLDER do; others are for tombola.load(FILE, backbone)"
        )
    return load(file, experiment(metadata["experiment"]).backbone(torch.Generator()))


def _answers(tickets: TicketModel, path: Path, ticket: str | None) -> list[dict[str, Any]]:
    x = inputs_of(path, tickets.metadata["input"], _tell)
    found = tickets.predict(x, ticket)
    of_subsets = answer_of(tickets) == "subset" and len(tickets.names) > 1
    rows = []
    for i in range(len(x)):
        # The number of a class, or 1 and 0 for each label; the outputs themselves where nothing is chosen.
        answer: Any = _few(found.outputs, i) if found.answer_B is None else found.answer_B[i].tolist()
        if of_subsets and found.answer_B is not None:
            answer = tickets.names[answer] if ticket is None else ("yes" if answer else "no")
        rows.append(
            {
                "input": f"{path.name}:{i + 1}" if len(x) > 1 else path.name,
                "answer": answer,
                "probability": None if found.probability_B is None else float(found.probability_B[i]),
                "ticket": found.tickets[i],
                "confidence": float(found.confidence_B[i]),
                "why": found.why[i],
            }
        )
    return rows


def _few(outputs: Any, i: int) -> list[float] | None:
    """The output for sample i where it is the answer and short, as a colour is; None for a sound."""
    if not isinstance(outputs, Tensor) or outputs[i].numel() > FEW:
        return None
    return [float(value) for value in outputs[i].flatten()]


def _tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, list):
        return " ".join(str(each) if isinstance(each, int) else f"{each:.3f}" for each in value)
    return f"{value:.2f}" if isinstance(value, float) else str(value)
