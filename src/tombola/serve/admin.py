"""What there is, for everybody; what changes it, for who has the token."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Request, Response

from tombola._utils import io
from tombola.data.table import TABLES
from tombola.lab.evaluation.new_data import data_of
from tombola.lab.evaluation.objective import objective_of
from tombola.serve import describe, schema
from tombola.serve.metrics import Metrics
from tombola.serve.registry import Entry, Refused, Registry
from tombola.tickets.model import TicketModel


def token_needed(token: str) -> Callable[[str], None]:
    """A dependency: 401 without this token; 403 where the service has none, and nothing can be changed."""

    def check(authorization: Annotated[str, Header()] = "") -> None:
        if not token:
            raise Refused(403, "this service was started without a token: it cannot be changed from outside")
        kind, _, given = authorization.partition(" ")
        if kind.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), token.encode()):
            raise Refused(401, "Authorization: Bearer TOKEN is needed, with the token of this service")

    return check


def public(registry: Registry) -> APIRouter:
    """Lists and descriptions."""
    found = APIRouter(tags=["tickets"], responses={404: {"model": schema.Fault}})

    @found.get("/v1/tickets")
    def tickets() -> schema.Served:
        """Files, tickets and aliases that are served, with their hashes and what they take."""
        return describe.served(registry.state)

    @found.get("/v1/files/{file}")
    def stored(file: str) -> schema.Similar:
        """What the tickets of a file store, and how alike they are."""
        return describe.similar(registry.state.entry(file))

    return found


def private(registry: Registry, metrics: Metrics, token: str) -> APIRouter:
    """Changes. Nothing is ever written to a disk."""
    faults = {status: {"model": schema.Fault} for status in (401, 403, 404, 409, 422)}
    found = APIRouter(
        tags=["administration"],
        dependencies=[Depends(token_needed(token))],
        responses=faults,  # type: ignore[arg-type]
    )

    @found.post("/v1/files")
    def load(ask: schema.Load, request: Request) -> schema.Changed:
        """Load a ticket file from the folders of ``--allow``, of a network of the start."""
        entry = registry.load(ask.path, ask.name, ask.replace)
        if ask.replace:
            metrics.forget(entry.name)
        return _changed(request, entry)

    @found.delete("/v1/files/{file}")
    def unload(file: str, request: Request) -> schema.Changed:
        """Serve a file no longer; its aliases go as well. What has arrived is answered."""
        entry, gone = registry.unload(file)
        metrics.forget(file)
        return _changed(request, entry, gone)

    @found.post("/v1/files/{file}/tickets")
    def grow(file: str, ask: schema.Grow, request: Request) -> schema.Changed:
        """Add a ticket for new data; the others answer as before. It is in memory alone: save the content."""
        request.state.audit |= {"ticket": ask.ticket}
        return _changed(request, registry.grow(file, lambda entry: _grown(registry, entry, ask)))

    @found.get("/v1/files/{file}/content", response_class=Response)
    def content(file: str, request: Request) -> Response:
        """The ticket file as it is served now, grown tickets in it."""
        entry = registry.state.entry(file)
        _changed(request, entry)
        made = io.to_content(*entry.tickets.contents())
        return Response(made, media_type="application/octet-stream")

    @found.put("/v1/aliases/{alias}")
    def alias(alias: str, ask: schema.Alias, request: Request) -> schema.Served:
        """Let an alias mean a ticket from now on."""
        registry.alias(alias, ask.ticket)
        request.state.audit |= {"alias": alias, "ticket": ask.ticket}
        return describe.served(registry.state)

    @found.delete("/v1/aliases/{alias}")
    def no_alias(alias: str, request: Request) -> schema.Served:
        """Let an alias mean nothing."""
        registry.alias(alias, None)
        request.state.audit |= {"alias": alias}
        return describe.served(registry.state)

    return found


def _grown(registry: Registry, entry: Entry, ask: schema.Grow) -> TicketModel:
    path = registry.permitted(ask.path)
    if path.suffix.lower() not in {*TABLES, ".npz"}:
        raise Refused(422, f"{path.name} is no table (CSV, Parquet), and no arrays x and y (.npz)")
    tickets = entry.tickets
    if ask.ticket in tickets.names:
        raise Refused(409, f"there is a ticket {ask.ticket!r} already: choose another name")
    data, objective = data_of(str(path), ask.target, entry.taken), objective_of(None, tickets.metadata)
    options = {"policy": ask.policy, "sparsity": ask.sparsity, "seed": ask.seed}
    return tickets.grow(ask.ticket, data, objective, **options)


def _changed(request: Request, entry: Entry, gone: list[str] | None = None) -> schema.Changed:
    request.state.audit |= {"file": entry.name, "hash": entry.hash}
    return schema.Changed(file=entry.name, hash=entry.hash, aliases_gone=gone or [])
