"""Text from language models, by a ticket for each request: the ``generate`` of `transformers` on its weights.

A ticket generates on a copy of the tree of modules that shares all but its own tensors, made for the call: so
any number of threads may generate with any tickets, and caches of keys and values are those of one call.

Shape letters: B requests, L tokens of a prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from tombola._utils.errors import TombolaError, UnknownTicket
from tombola.masks import reference
from tombola.tickets.passes import evaluating

if TYPE_CHECKING:
    from tombola.tickets.model import TicketModel


def generate(
    tickets: TicketModel,
    ids: Any = None,
    ticket: str | Sequence[str] | None = None,
    *,
    input_ids: Any = None,
    attention_mask: Tensor | None = None,
    **options: Any,
) -> Any:
    """Prompts with what a language model writes after them, int64 ``[B, L + new]``, in evaluation mode.

    Equal to what `TicketModel.bake` of the ticket generates for its requests. A batch that mixes tickets is
    run ticket by ticket; what is shorter is padded, prompts at their beginning and answers at their end.

    Args:
        tickets: of a language model of `transformers`.
        ids: tokens ``[B, L]``, padded at their beginning where prompts differ in length; lists of tokens of
            any length; or what a tokenizer gives, a dictionary.
        ticket: a name, or one for each request. It may be left out where there is one ticket, or a router,
            which chooses by the prompts.
        input_ids: another name of ``ids``, so that ``generate(**tokenizer(...))`` works.
        attention_mask: 0 where a prompt is padded, 1 elsewhere, ``[B, L]``.
        options: those of ``generate`` of `transformers` (``max_new_tokens``, ``do_sample``). Sampling draws
            from torch's global generator, in the order of the tickets.

    Raises:
        UnknownTicket: a name that is not there.
        TombolaError: no tokens, another number of names than of requests, or options under which a batch
            that mixes tickets has no single tensor as an answer.
    """
    x = _prompts(tickets, input_ids if ids is None else ids, attention_mask)
    B, names = len(x["input_ids"]), _asked(tickets, x, ticket)
    if isinstance(names, str):
        return _alone(tickets, names, x, options)
    if len(names) != B:
        raise TombolaError(f"{len(names)} ticket names for {B} requests: give one name per request")
    if len(set(names)) == 1:
        return _alone(tickets, names[0], x, options)
    if strange := [name for name in names if name not in tickets]:
        raise UnknownTicket(strange[0], tickets.names)
    found: list[Tensor | None] = [None] * B
    for name in dict.fromkeys(names):
        rows = torch.tensor([i for i, each in enumerate(names) if each == name])
        own = {part: value[rows.to(value.device)] for part, value in x.items()}
        cut = _padding(own.get("attention_mask"))
        answer = _alone(tickets, name, {part: value[:, cut:] for part, value in own.items()}, options)
        if not isinstance(answer, Tensor) or answer.shape[:1] != rows.shape:
            raise TombolaError(
                "a batch that mixes tickets gives one sequence per request: leave return_dict_in_generate "
                "and num_return_sequences out, or ask one ticket at a time"
            )
        for i, row in zip(rows.tolist(), answer, strict=True):
            found[i] = pad(row, (0 if _encodes(tickets) else cut, 0), value=_pad(tickets, options))
    longest = max(len(row) for row in found if row is not None)
    return torch.stack(
        [pad(r, (0, longest - len(r)), value=_pad(tickets, options)) for r in found if r is not None]
    )


def module_of(tickets: TicketModel, ticket: str) -> nn.Module:
    """The plain network of a ticket, which shares everything but the ticket's own tensors with the backbone.

    To be read: `TicketModel.bake` is a copy to keep.
    """
    with torch.no_grad(), evaluating():
        replica = tickets.replica(tickets.weights(ticket))
        return reference.plain(replica.module)  # a change is added once, not in every layer of every pass


def _alone(tickets: TicketModel, name: str, x: dict[str, Tensor], options: Mapping[str, Any]) -> Any:
    return module_of(tickets, name).generate(**x, **options)  # type: ignore[operator]


def _prompts(tickets: TicketModel, ids: Any, mask: Tensor | None) -> dict[str, Tensor]:
    """Tokens and, where prompts are padded, their attention mask."""
    if isinstance(ids, Mapping):
        mask = ids.get("attention_mask") if mask is None else mask
        ids = ids.get("input_ids")
    if isinstance(ids, Sequence) and not isinstance(ids, str) and len(ids):
        rows = [torch.as_tensor(row, device=tickets.bits_KM.device) for row in ids]
        if any(row.ndim != 1 or not len(row) or row.is_floating_point() for row in rows):
            raise TombolaError("prompts are lists of tokens, at least one each: generate([[5, 7], [3]])")
        longest = max(map(len, rows))
        ids = torch.stack([pad(row, (longest - len(row), 0), value=_pad(tickets, {})) for row in rows])
        mask = torch.stack([pad(torch.ones_like(row), (longest - len(row), 0)) for row in rows])
    if not isinstance(ids, Tensor) or ids.ndim != 2 or not ids.numel() or ids.is_floating_point():
        what = f"{ids.dtype} {list(ids.shape)}" if isinstance(ids, Tensor) else type(ids).__name__
        raise TombolaError(
            f"prompts are tokens [B, L], such as tokenizer(texts, return_tensors='pt'): got {what}"
        )
    if mask is not None and mask.shape != ids.shape:
        raise TombolaError(f"attention_mask is {list(mask.shape)}, the prompts are {list(ids.shape)}")
    return {"input_ids": ids} if mask is None else {"input_ids": ids, "attention_mask": mask}


def _asked(tickets: TicketModel, x: dict[str, Tensor], ticket: str | Sequence[str] | None) -> str | list[str]:
    """The ticket of all requests, or of each."""
    if ticket is None:
        used = tickets.used or (tickets.names[0] if len(tickets) == 1 else None)
        return tickets.route(x).names if used is None else used
    if isinstance(ticket, str):
        tickets.index(ticket)
        return ticket
    return list(ticket)


def _padding(mask: Tensor | None) -> int:
    """Columns at the beginning in which every prompt is padded."""
    return 0 if mask is None else int((mask.cumsum(1).amax(0) == 0).sum())


def _encodes(tickets: TicketModel) -> bool:
    """Whether answers are apart from prompts."""
    return bool(getattr(tickets.config, "is_encoder_decoder", False))


def _pad(tickets: TicketModel, options: Mapping[str, Any]) -> int:
    """The token that stands where there is none."""
    settings = options.get("generation_config") or getattr(tickets.backbone, "generation_config", None)
    for where, name in (
        (settings, "pad_token_id"),
        (tickets.config, "pad_token_id"),
        (settings, "eos_token_id"),
    ):
        found = options.get(name) if name in options else getattr(where, name, None)
        if found is not None:
            return int(found[0] if isinstance(found, list) else found)
    return 0
