"""The server's HTTP side: protocol version 2, the page, `/restore` and `/metrics`."""

from __future__ import annotations

import hmac
import json
import logging
import os
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runtime.server.calls import Calls, Limits
from runtime.server.openapi import document
from runtime.server.photos import Photos
from runtime.server.prometheus import CONTENT_TYPE, exposition
from runtime.server.protocol import HEADER_LENGTH, ProtocolError, build_response, parse_request
from runtime.server.service import Service

log = logging.getLogger("runtime.server")

RETRY_AFTER = 1  # seconds
CLIENT_LEFT = 499  # nginx's status for a client that left before the answer
PAGE = Path(__file__).parent / "page"
PROBES = ("/v2/health/live", "/v2/health/ready", "/metrics")  # asked every few seconds; not logged
# Without a key: for load balancers, and the page, which asks its user for the key.
OPEN = ("/", "/v2/health/live", "/v2/health/ready", *(f"/{file}" for file in os.listdir(PAGE)))
# The page loads nothing from elsewhere, and nothing may embed it.
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def application(service: Service, limits: Limits, key: str | None) -> Starlette:
    """The ASGI application.

    Args:
        key: that clients must send, as `Authorization: Bearer KEY` or `X-API-Key`; None for none.
    """
    calls = Calls(limits)
    handlers = _Handlers(service, calls)
    model = "/v2/models/{name}"
    routes = [
        Route("/v2", handlers.server),
        Route("/v2/health/live", handlers.live),
        Route("/v2/health/ready", handlers.ready),
        Route("/v2/models/stats", handlers.statistics),
        Route("/v2/repository/index", handlers.index, methods=["POST"]),
        Route("/restore", Photos(service, calls).restore, methods=["POST"]),
        Route("/metrics", handlers.metrics),
    ]
    for prefix in (model, f"{model}/versions/{{version}}"):
        routes += [
            Route(prefix, handlers.metadata),
            Route(f"{prefix}/ready", handlers.model_ready),
            Route(f"{prefix}/config", handlers.config),
            Route(f"{prefix}/stats", handlers.statistics),
            Route(f"{prefix}/infer", handlers.infer, methods=["POST"]),
        ]
    routes += [Route(f"/{file}", _page_file(file)) for file in os.listdir(PAGE)]
    routes.append(Route("/", _page_file("index.html")))
    routes.append(Route("/openapi.json", handlers.openapi))
    return Starlette(
        routes=routes,
        middleware=[Middleware(_Guard, key=key)],
        exception_handlers={
            ProtocolError: _protocol_error,
            HTTPException: _http_error,
            ClientDisconnect: _left,
            Exception: _bug,
        },
    )


def metrics_application(service: Service, key: str | None) -> Starlette:
    """The ASGI application of `--metrics-port`: nothing but `/metrics`."""

    async def metrics(_: Request) -> Response:
        return Response(exposition(service), media_type=CONTENT_TYPE)

    return Starlette(
        routes=[Route("/metrics", metrics)],
        middleware=[Middleware(_Guard, key=key)],
        exception_handlers={HTTPException: _http_error},
    )


class _Guard:
    """Checks the key, gives each request an identifier, and logs it as JSON."""

    def __init__(self, app: ASGIApp, key: str | None) -> None:
        self._app, self._key = app, key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value for name, value in scope["headers"]}
        identifier = headers.get("x-request-id", b"").decode("latin-1")[:64] or uuid.uuid4().hex
        started, status = time.monotonic(), 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"].append((b"x-request-id", identifier.encode("latin-1")))
            await send(message)

        if self._key is not None and scope["path"] not in OPEN and not self._allowed(headers):
            refusal = JSONResponse({"error": "the API key is missing or wrong"}, 401)
            await refusal(scope, receive, answer)
        else:
            await self._app(scope, receive, answer)
        if status == 200 and scope["path"] in PROBES:
            return
        entry = {
            "request_id": identifier,
            "method": scope["method"],
            "path": scope["path"],
            "status": status,
            "ms": round((time.monotonic() - started) * 1e3, 2),
        }
        log.info(json.dumps(entry))

    def _allowed(self, headers: Mapping[str, bytes]) -> bool:
        assert self._key is not None
        bearer = headers.get("authorization", b"").removeprefix(b"Bearer ")
        given = headers.get("x-api-key", bearer)
        return hmac.compare_digest(given, self._key.encode())


def _page_file(name: str) -> Callable[[Request], Awaitable[Response]]:
    headers = {
        "Content-Security-Policy": PAGE_POLICY,
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-cache",
    }

    async def answer(_: Request) -> Response:
        return FileResponse(PAGE / name, headers=headers)

    return answer


async def _protocol_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ProtocolError)
    headers = {"Retry-After": str(RETRY_AFTER)} if error.status in (429, 503) else {}
    return JSONResponse({"error": str(error)}, error.status, headers)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path}: {error.detail.lower()}"
    return JSONResponse({"error": message}, error.status_code, error.headers)


async def _left(_: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_LEFT)  # for the log; nobody reads it


async def _bug(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": "internal error; see the server's log"}, 500)


class _Handlers:
    def __init__(self, service: Service, calls: Calls) -> None:
        self._service, self._calls = service, calls

    async def server(self, _: Request) -> Response:
        return JSONResponse(self._service.server_metadata())

    async def live(self, _: Request) -> Response:
        return JSONResponse({"live": True})

    async def ready(self, _: Request) -> Response:
        ready = self._service.ready
        return JSONResponse({"ready": ready}, 200 if ready else 503)

    async def openapi(self, _: Request) -> Response:
        return JSONResponse(document())

    async def index(self, _: Request) -> Response:
        return JSONResponse(self._service.index())

    async def metrics(self, _: Request) -> Response:
        return Response(exposition(self._service), media_type=CONTENT_TYPE)

    async def metadata(self, request: Request) -> Response:
        return JSONResponse(self._service.metadata(*_named(request)))

    async def config(self, request: Request) -> Response:
        return JSONResponse(self._service.config(*_named(request)))

    async def model_ready(self, request: Request) -> Response:
        ready = self._service.model_ready(*_named(request))
        return JSONResponse({"ready": ready}, 200 if ready else 503)

    async def statistics(self, request: Request) -> Response:
        return JSONResponse(self._service.statistics(*_named(request)))

    async def infer(self, request: Request) -> Response:
        name, version = _named(request)
        model = self._service.model(name, version)
        request = self._calls.limited(request)
        asked = parse_request(await self._calls.body(request), request.headers.get(HEADER_LENGTH))
        outputs = await self._calls.run(
            request, asked.timeout, lambda wanted: model.infer(asked.inputs, wanted)
        )
        content, length = build_response(model.name, model.version, asked, outputs)
        if length is None:
            return Response(content, media_type="application/json")
        headers = {HEADER_LENGTH: str(length)}
        return Response(content, media_type="application/octet-stream", headers=headers)


def _named(request: Request) -> tuple[str, str]:
    return request.path_params.get("name", ""), request.path_params.get("version", "")
