"""What runs inside Ray Serve's proxies, which take requests and pass them to replicas.

Serve calls `prepare` when a proxy starts, by the variable `CALLBACK_VARIABLE`, and `add_servicer`
when its gRPC server starts, by `grpc_servicer_functions`. Two things differ from Serve's own
behaviour:

- A request whose replica dies is answered by 503 with `Retry-After`, and UNAVAILABLE: the client
  may send it again. Serve answers 500 and INTERNAL, which clients do not retry.
- gRPC listens on the same address as HTTP. Serve's gRPC listens on all addresses.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import grpc
from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runtime.cluster.messages import service_pb2_grpc

CALLBACK_VARIABLE = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
HOST_VARIABLE = "DIC_GRPC_HOST"
LOST = "the replica that worked on the request has ended; send it again"
BUSY = "too many requests are waiting; retry later"
# By gRPC's number of the status that Serve gives. Replicas themselves use neither.
RETRYABLE = {
    grpc.StatusCode.INTERNAL.value[0]: LOST,
    grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]: BUSY,
}


def environment(host: str) -> dict[str, str]:
    """The variables of Serve's controller, which its proxies inherit.

    Args:
        host: address that gRPC listens on.
    """
    return {CALLBACK_VARIABLE: f"{__name__}.prepare", HOST_VARIABLE: host}


def prepare() -> list[Middleware]:
    """Prepare a proxy's process, and return the middleware of its HTTP server."""
    host = os.environ.get(HOST_VARIABLE)
    if host:
        from ray.serve._private import default_impl  # where Serve lets itself be adapted

        add = default_impl.add_grpc_address

        def add_address(server: Any, address: str) -> None:
            shown = f"[{host}]" if ":" in host else host
            add(server, f"{shown}:{address.rpartition(':')[2]}")

        default_impl.add_grpc_address = add_address
    return [Middleware(Retryable)]


class Retryable:
    """Answers a request whose replica died, with 503."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        held: Message | None = None  # until there is something of the body
        answered = False

        async def answer(message: Message) -> None:
            nonlocal held, answered
            if message["type"] == "http.response.start":
                # Serve and the application both give x-request-id.
                headers = dict.fromkeys((bytes(n), bytes(v)) for n, v in message["headers"])
                held = {**message, "headers": list(headers)}
                return
            if held is not None:
                await send(held)
                held, answered = None, True
            await send(message)

        await self._app(scope, receive, answer)
        if not answered:
            refusal = JSONResponse({"error": LOST}, 503, {"Retry-After": "1"})
            await refusal(scope, receive, send)


def add_servicer(servicer: Any, server: Any) -> None:
    """Register the protocol's calls with a proxy's gRPC server, with statuses that are retried."""
    route = server.service_handler_factory

    def retryable(**what: Any) -> Callable[..., Any]:
        handler: Callable[..., Any] = route(**what)
        if what["streaming_type"].name != "UNARY_UNARY":
            return handler

        async def call(request: Any, context: Any) -> Any:
            answer = await handler(request, context)
            code = context.code()  # a number, or what Serve set
            number = code.value[0] if isinstance(code, grpc.StatusCode) else code
            if (why := RETRYABLE.get(number)) is not None:
                context.set_code(grpc.StatusCode.UNAVAILABLE)
                context.set_details(why)
            return answer

        return call

    server.service_handler_factory = retryable
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
