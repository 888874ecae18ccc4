"""The server's HTTP side: protocol version 2, `/restore`, and `/metrics`."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import anyio.to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dic.engine_file import EngineError
from runtime.faces.options import Interpolation, PhotoOptions
from runtime.pictures.files import ImageError
from runtime.server.metrics import CONTENT_TYPE, exposition
from runtime.server.model import ExpiredError, QueueFullError
from runtime.server.protocol import HEADER_LENGTH, ProtocolError, build_response, parse_request
from runtime.server.service import Service

log = logging.getLogger("runtime.server")

RETRY_AFTER = 1  # seconds
MEDIA = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
SUFFIXES = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}
OPEN = ("/v2/health/live", "/v2/health/ready")  # without a key, for load balancers


@dataclass(frozen=True)
class Limits:
    """What one request may take.

    Attributes:
        body: bytes.
        pixels: of a picture, before it is decoded.
        threads: requests processed at once; others wait.
    """

    body: int
    pixels: int
    threads: int


def application(service: Service, limits: Limits, key: str | None) -> Starlette:
    """The ASGI application.

    Args:
        key: that clients must send, as `Authorization: Bearer KEY` or `X-API-Key`; None for none.
    """
    handlers = _Handlers(service, limits)
    model = "/v2/models/{name}"
    routes = [
        Route("/v2", handlers.server),
        Route("/v2/health/live", handlers.live),
        Route("/v2/health/ready", handlers.ready),
        Route("/v2/models/stats", handlers.statistics),
        Route("/v2/repository/index", handlers.index, methods=["POST"]),
        Route("/restore", handlers.restore, methods=["POST"]),
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
    return Starlette(
        routes=routes,
        middleware=[Middleware(_Guard, key=key)],
        exception_handlers={
            ProtocolError: _protocol_error,
            HTTPException: _http_error,
            Exception: _bug,
        },
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


async def _protocol_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ProtocolError)
    headers = {"Retry-After": str(RETRY_AFTER)} if error.status in (429, 503) else {}
    return JSONResponse({"error": str(error)}, error.status, headers)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path}: {error.detail.lower()}"
    return JSONResponse({"error": message}, error.status_code)


async def _bug(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": "internal error; see the server's log"}, 500)


class _Handlers:
    def __init__(self, service: Service, limits: Limits) -> None:
        self._service, self._limits = service, limits
        self._threads: Any = None

    async def server(self, _: Request) -> Response:
        return JSONResponse(self._service.server_metadata())

    async def live(self, _: Request) -> Response:
        return JSONResponse({"live": True})

    async def ready(self, _: Request) -> Response:
        ready = self._service.ready
        return JSONResponse({"ready": ready}, 200 if ready else 503)

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
        body = await self._body(request)
        asked = parse_request(body, request.headers.get(HEADER_LENGTH))
        outputs = await self._work(
            request, asked.timeout, lambda wanted: model.infer(asked.inputs, wanted)
        )
        content, length = build_response(model.name, model.version, asked, outputs)
        if length is None:
            return Response(content, media_type="application/json")
        headers = {HEADER_LENGTH: str(length)}
        return Response(content, media_type="application/octet-stream", headers=headers)

    async def restore(self, request: Request) -> Response:
        """Restore the faces of the photograph in the body; options are in the query."""
        query = dict(request.query_params)
        name = query.pop("engine", "")
        kind = query.pop("format", "png")
        if kind not in (*MEDIA, "json"):
            raise ProtocolError(f"format: must be one of {', '.join(MEDIA)}, json; got {kind!r}")
        options = _photo_options(query)
        body = await self._body(request)
        done = await self._work(
            request,
            None,
            lambda wanted: self._service.restore(
                name, body, self._limits.pixels, options, SUFFIXES.get(kind, ".png")
            ),
        )
        if kind == "json":
            image = base64.b64encode(done.content).decode()
            return JSONResponse({**done.document, "image": image, "format": "png"})
        headers = {
            "X-Faces": str(done.document["restored"]),
            "X-Scale": str(done.document["scale"]),
        }
        return Response(done.content, media_type=MEDIA[kind], headers=headers)

    async def _body(self, request: Request) -> bytes:
        """The whole body, refused as soon as it is known to be too long."""
        most = self._limits.body
        announced = request.headers.get("content-length", "")
        if announced.isdigit() and int(announced) > most:
            raise ProtocolError(f"the body has {announced} bytes; at most {most} are accepted", 413)
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > most:
                raise ProtocolError(f"the body is too long; at most {most} bytes are accepted", 413)
        return bytes(body)

    async def _work(
        self,
        request: Request,
        timeout: float | None,
        work: Callable[[Callable[[], bool]], Any],
    ) -> Any:
        """Call `work(wanted)` in a thread; `wanted()` turns False when the client leaves or the
        deadline passes.
        """
        if self._threads is None:
            self._threads = anyio.CapacityLimiter(self._limits.threads)
        deadline = None if timeout is None else time.monotonic() + timeout
        gone = False

        def wanted() -> bool:
            return not gone and (deadline is None or time.monotonic() < deadline)

        async def watch() -> None:
            nonlocal gone
            await _disconnected(request.receive)
            gone = True

        watcher = asyncio.create_task(watch())
        try:
            return await anyio.to_thread.run_sync(work, wanted, limiter=self._threads)
        except QueueFullError as error:
            raise ProtocolError(str(error), 429) from error
        except ExpiredError as error:
            raise ProtocolError(str(error), 504) from error
        except EngineError as error:
            raise ProtocolError(str(error), 503) from error
        except (ValueError, ImageError) as error:
            raise ProtocolError(str(error)) from error
        finally:
            watcher.cancel()


async def _disconnected(receive: Callable[[], Awaitable[Message]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _named(request: Request) -> tuple[str, str]:
    return request.path_params.get("name", ""), request.path_params.get("version", "")


def _photo_options(query: dict[str, str]) -> PhotoOptions:
    """Options of a photograph, named as the command's.

    Raises:
        ProtocolError: one is unknown or wrong.
    """
    given: dict[str, Any] = {}
    for name, text in query.items():
        if name in ("max_face", "enlarge"):
            low, high = (16, 4096) if name == "max_face" else (1, 8)
            if not text.isdigit() or not low <= int(text) <= high:
                raise ProtocolError(f"{name}: must be {low} to {high}, got {text!r}")
            given[name] = int(text)
        elif name == "upscale_background":
            if text not in list(Interpolation):
                raise ProtocolError(f"{name}: must be one of {', '.join(Interpolation)}")
            given["background"] = Interpolation(text)
        else:
            raise ProtocolError(
                f"unknown option {name!r}; the options are engine, format, max_face, enlarge, "
                "upscale_background"
            )
    return PhotoOptions(**given)
