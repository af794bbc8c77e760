"""The service: its routes put together, its page, its faults as JSON, its start and its end."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException

import tombola
from tombola._utils.errors import TombolaError
from tombola.serve import admin, predict
from tombola.serve.audit import Audit
from tombola.serve.limits import Bounded, Limits
from tombola.serve.metrics import Metrics
from tombola.serve.predict import Predictions, fault
from tombola.serve.registry import Refused, Registry

PAGE = Path(__file__).with_name("page.html")
MORE = {401: {"WWW-Authenticate": "Bearer"}, 429: {"Retry-After": "1"}}  # headers of some faults


def create_app(
    registry: Registry,
    limits: Limits | None = None,
    token: str = "",
    write: Callable[[str], None] = lambda _: None,
) -> FastAPI:
    """An ASGI application that answers by the tickets of a registry.

    Args:
        registry: what is served.
        limits: what a request may be.
        token: who has it may change what is served; without one nobody may.
        write: takes the line of each request (`tombola.serve.audit`).

    ``app.state.draining`` set to True makes ``/readyz`` say 503.
    """
    limits, metrics = limits or Limits(), Metrics()
    predictions = Predictions(registry, limits, metrics)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        predictions.close()

    app = FastAPI(
        title="Tombola",
        version=tombola.__version__,
        description="Tickets: specialised sparse subnetworks of one network or several, named or routed.",
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.draining = False
    app.add_middleware(Bounded, most=limits.body)
    app.add_middleware(Audit, write=write, count=metrics.answered)
    for kind, handle in FAULTS.items():
        app.add_exception_handler(kind, handle)
    app.include_router(predict.routes(predictions))
    app.include_router(admin.public(registry))
    app.include_router(admin.private(registry, metrics, token))
    _add_probes(app, registry, metrics)
    return app


def _add_probes(app: FastAPI, registry: Registry, metrics: Metrics) -> None:
    text = PAGE.read_text(encoding="utf-8")
    headers = {"Content-Security-Policy": policy(text), "X-Content-Type-Options": "nosniff"}

    @app.get("/", include_in_schema=False)
    async def page() -> HTMLResponse:
        """The page to try tickets on."""
        return HTMLResponse(text, headers=headers)

    @app.get("/livez", tags=["probes"])
    async def live() -> dict[str, str]:
        """Whether the process answers at all."""
        return {"status": "alive"}

    @app.get("/readyz", tags=["probes"])
    async def ready() -> dict[str, str]:
        """Whether requests should come here: tickets are loaded, and the service is not about to end."""
        if app.state.draining or not registry.state.files:
            raise Refused(503, "ending" if app.state.draining else "no tickets are loaded")
        return {"status": "ready"}

    @app.get("/metrics", tags=["probes"], response_class=Response)
    async def measured() -> Response:
        """Counts and times for Prometheus."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def policy(page: str) -> str:
    """The content security policy of a page: its own style and script, by hash, and this service alone."""
    parts = dict(re.findall(r"<(style|script)>(.*?)</\1>", page, re.DOTALL))
    hashes = {
        kind: base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        for kind, content in parts.items()
    }
    return (
        f"default-src 'none'; style-src 'sha256-{hashes['style']}'; script-src 'sha256-{hashes['script']}'; "
        "connect-src 'self'; img-src blob: data:; media-src blob:; form-action 'none'; base-uri 'none'; "
        "frame-ancestors 'none'"
    )


def _said(status: int, words: str) -> JSONResponse:
    return JSONResponse({"error": words}, status, MORE.get(status))


async def _refused(_: Request, error: Any) -> JSONResponse:
    return _said(getattr(error, "status", 422), " ".join(str(error).split()))


async def _invalid(_: Request, error: Any) -> JSONResponse:
    return _said(422, fault(error.errors()[0]))


async def _late(_: Request, __: Any) -> JSONResponse:
    return _said(504, "there was no answer within the time limit")


async def _http(_: Request, error: Any) -> JSONResponse:
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


FAULTS: dict[type[Exception], Any] = {
    TombolaError: _refused,
    RequestValidationError: _invalid,
    TimeoutError: _late,
    HTTPException: _http,
}
