"""``POST /v1/predict``: a body becomes inputs, a ticket answers them, and both are of one entry."""

from __future__ import annotations

import asyncio
import io
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from pydantic import ValidationError
from starlette.requests import ClientDisconnect

from tombola._utils.batch import Batch, size
from tombola._utils.errors import TombolaError
from tombola.lab.evaluation.inputs import inputs_in
from tombola.lab.evaluation.values import inputs_among
from tombola.serve.batcher import Batcher, Rows
from tombola.serve.limits import Limits, Places
from tombola.serve.metrics import Metrics
from tombola.serve.registry import Entry, Meant, Refused, Registry
from tombola.serve.schema import Answer, Answers, Ask, Fault
from tombola.tickets.inputs import Inputs

# Archives (.npz, .parquet) are no bodies: a small one may unfold to anything.
KINDS = {
    "image/png": ".png",
    "image/jpeg": ".jpg",
    "image/bmp": ".bmp",
    "image/webp": ".webp",
    "audio/wav": ".wav",
    "audio/x-wav": ".wav",
    "audio/wave": ".wav",
    "audio/vnd.wave": ".wav",
    "audio/flac": ".flac",
    "audio/ogg": ".ogg",
    "audio/mpeg": ".mp3",
    "text/csv": ".csv",
    "text/plain": ".txt",
    "application/x-npy": ".npy",
}
JSON = "application/json"
READERS = 2  # threads that make inputs of bodies

Read = Callable[[Inputs, Callable[[str], None]], Batch]


class Predictions:
    """Answers to requests, within limits."""

    def __init__(self, registry: Registry, limits: Limits, metrics: Metrics) -> None:
        self.registry, self.limits, self.metrics = registry, limits, metrics
        self.places = Places(limits.requests)
        self.batcher = Batcher(limits.batch, limits.delay, metrics.batch)
        self._readers = ThreadPoolExecutor(READERS, "inputs")

    def close(self) -> None:
        """Wait for what is under way."""
        self._readers.shutdown()
        self.batcher.close()

    async def answer(self, request: Request) -> Answers:
        """The answers to a request; 429 without a place, 504 after the time limit."""
        with self.places.one():
            async with asyncio.timeout(self.limits.seconds):
                return await self._answer(request)

    async def _answer(self, request: Request) -> Answers:
        try:
            body, loop = await request.body(), asyncio.get_running_loop()
        except ClientDisconnect:
            raise Refused(400, "the request ended before its body did") from None
        # All of it in one go, so that no more bodies are unfolded at once than there are readers.
        ask, meant, x, remarks = await loop.run_in_executor(self._readers, self._read, request, body)
        entry, note = meant.entry, request.state.audit
        rows, *each = await asyncio.gather(
            self._ask(meant, x),
            *(self._ask(Meant(entry, name), x) for name in (entry.hashes if ask.every else ())),
        )
        if meant.ticket is None:
            self.metrics.chosen(entry, rows)
        note["answered"] = Counter(row["ticket"] for row in rows)
        every = [_answer(entry, row) for (row,) in each] if ask.every else None
        answers = [_answer(entry, row) for row in rows]
        return Answers(file=entry.name, hash=entry.hash, answers=answers, every=every, remarks=remarks)

    def _read(self, request: Request, body: bytes) -> tuple[Ask, Meant, Batch, list[str]]:
        """What is asked, of whom, and the inputs; from here on all is of one entry, whatever is loaded."""
        ask, read = self.asked(request.headers.get("content-type", ""), request.query_params, body)
        meant = self.registry.state.find(ask.ticket, ask.file)
        request.state.meant, note = meant, request.state.audit
        note |= {"file": meant.entry.name, "ticket": meant.ticket, "hash": meant.hash}
        if ask.hash is not None and ask.hash != meant.hash:
            raise Refused(
                409, "what would answer has another hash than was asked for; GET /v1/tickets has it"
            )
        remarks: list[str] = []
        x = read(meant.entry.taken, remarks.append)
        ask.inputs, note["samples"] = None, size(x)
        self._check(ask, meant.entry, size(x))
        return ask, meant, x, remarks

    def asked(self, kind: str, query: Mapping[str, str], body: bytes) -> tuple[Ask, Read]:
        """What a body of a kind and a query ask, and how the inputs are read."""
        kind = kind.partition(";")[0].strip().lower()
        if kind == JSON:
            ask = _valid(partial(Ask.model_validate_json, body))
            return ask, partial(inputs_among, ask.inputs)
        if kind not in KINDS:
            raise Refused(
                415, f"Content-Type is {JSON} or one of {', '.join(KINDS)}, and the body that alone"
            )
        name, most = f"input{KINDS[kind]}", self.limits.unfold

        def read(taken: Inputs, remark: Callable[[str], None]) -> Batch:
            return inputs_in(name, io.BytesIO(body), taken, remark, most)

        return _valid(partial(Ask.model_validate, {**query, "inputs": None})), read

    def _check(self, ask: Ask, entry: Entry, samples: int) -> None:
        most = self.limits.samples
        if samples > most:
            raise Refused(413, f"{samples:,} samples: {most} at most in one request")
        if ask.every and (samples > 1 or len(entry.hashes) > most):
            raise Refused(422, f"every= is for one sample, and for files of {most} tickets at most")

    async def _ask(self, meant: Meant, x: Batch) -> Rows:
        try:
            return await self.batcher.ask(meant, x)
        except TombolaError:
            raise
        except Exception as error:  # the network's own
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise Refused(422, f"the network cannot take these inputs ({reason})") from None


def _valid(make: Callable[[], Ask]) -> Ask:
    try:
        return make()
    except ValidationError as error:
        raise Refused(422, fault(error.errors(include_url=False, include_input=False)[0])) from None


def fault(found: Any) -> str:
    """One line of what pydantic found, without the input itself."""
    where = ".".join(str(part) for part in found["loc"] if part not in ("body", "query"))
    return f"{where or 'the request'}: {found['msg']}"[:300]


def _answer(entry: Entry, row: dict[str, Any]) -> Answer:
    name = row["ticket"]
    return Answer(**{**row, "ticket": f"{entry.name}/{name}", "hash": entry.hashes[name]})


def routes(predictions: Predictions) -> APIRouter:
    """The route, as OpenAPI describes it."""
    found = APIRouter(tags=["answers"])
    schema = {"schema": Ask.model_json_schema()}
    bodies: dict[str, Any] = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in KINDS}
    query = [
        {"name": name, "in": "query", "schema": known, "description": "Where the body is no JSON."}
        for name, known in Ask.model_json_schema()["properties"].items()
        if name != "inputs"
    ]
    faults = (404, 409, 413, 415, 422, 429, 504)

    @found.post(
        "/v1/predict",
        responses={status: {"model": Fault} for status in faults},
        openapi_extra={"requestBody": {"content": {JSON: schema, **bodies}}, "parameters": query},
    )
    async def predict(request: Request) -> Answers:
        """Answers of a ticket, or of the one that the router chooses."""
        return await predictions.answer(request)

    return found
