"""The identity of a ticket: a hash of its content, which changes whenever its answers might."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import torch

from tombola._utils import io
from tombola.tickets.fitted import answer_of, output_of
from tombola.tickets.membership import about_some, held

if TYPE_CHECKING:
    from tombola.tickets.model import TicketModel

# Metadata that say how outputs are read, and how inputs are prepared.
READ_BY = (
    "answer",
    "class_names",
    "classes",
    "input",
    "objective",
    "output",
    "scale",
    "told",
)


@torch.no_grad()
def identities(tickets: TicketModel) -> dict[str, str]:
    """The hash of each ticket, by name: SHA-256, in hexadecimal.

    It is of all that the ticket answers with: its mask and the weights inside, the tensors that are its own
    or shared by all, how inputs are prepared and outputs are read, names of classes, the calibration. Other
    tickets of the file do not count, nor what the ticket is called. (A router says who answers, not what.)

    >>> from torch import nn
    >>> import tombola as tb
    >>> net = nn.Linear(2, 1)
    >>> masks = tb.MaskSet.dense(tb.scope(net, include=["weight"]), ["cat", "dog"])
    >>> hashes = identities(tb.TicketModel(net, masks))
    >>> len(hashes["cat"]), hashes["cat"] == hashes["dog"]
    (64, True)
    """
    weights_N = tickets.state(tickets.names[0])[0].detach().cpu()
    shared = {n: io.digest({"": t}) for n, t in held(tickets).items() if n not in tickets.scope.names}
    calibration = _calibration(tickets)
    found = {}
    for k, name in enumerate(tickets.names):
        mask_N = tickets.mask_N(k).cpu()
        kept = io.digest({"mask": mask_N, "weights": weights_N[mask_N]})
        own = {n: io.digest({"": t}) for n, t in tickets.private_state(name).items()}
        said = [kept, shared | own, _reading(tickets, k, name), calibration]
        found[name] = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
    return found


def _reading(tickets: TicketModel, k: int, name: str) -> dict[str, Any]:
    known = about_some(tickets.metadata, [k], [name])
    said = {key: known[key] for key in READ_BY if key in known}
    if answer_of(tickets) == "subset":
        said["at"] = output_of(tickets, k)
    for key in ("class_names", "classes"):
        if isinstance(said.get(key), dict) and "told" not in said:
            said[key] = said[key].get(name)
    if text := (said.get("input") or {}).get("text"):  # wherever the tokenizer lies, its digest says which
        said["input"] = {**said["input"], "text": {**text, "tokenizer": ""}}
    return said


def _calibration(tickets: TicketModel) -> list[Any]:
    if tickets.calibration is None:
        return []
    known, tensors = tickets.calibration.state()
    return [{**known, "made_for": ""}, io.digest(tensors)]
