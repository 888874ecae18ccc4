"""A replica of the deployment: one process with engines, and the application over them.

Requests reach it through Serve's proxies: HTTP by the ASGI application of `runtime.server.http`,
gRPC by a method of the replica for each of the protocol's calls.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import grpc
from starlette.applications import Starlette
from starlette.types import Receive, Scope, Send

from dic.memory import Memory
from runtime.cluster.messages import service_pb2 as pb
from runtime.cluster.messages import service_pb2_grpc
from runtime.engines.load import load_engine
from runtime.server.calls import Limits
from runtime.server.grpc import REFUSED, Servicer, allowed
from runtime.server.http import application
from runtime.server.model import ServedModel
from runtime.server.options import THREADS
from runtime.server.service import Service

STREAMED = "ModelStreamInfer"

log = logging.getLogger("runtime.server")


class Replica:
    """One process of the deployment: engines, and the application over them.

    Args:
        key: that clients must send; None for none.
        alone: whether Serve runs on this machine alone.
    """

    def __init__(self, key: str | None, alone: bool = False) -> None:
        if alone:
            _stay_on_loopback()
        logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
        self._key = key
        self._now: _Loaded | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def reconfigure(self, config: dict[str, Any]) -> None:
        """Load the engines of a configuration, then take them for all new requests.

        Serve calls this when the replica starts, and when only the configuration has changed. The
        engines before it answer what they have begun.
        """
        loaded = await asyncio.to_thread(_Loaded, config, self._key)
        before, self._now = self._now, loaded
        if before is not None:
            task = asyncio.create_task(before.close())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def __serve_build_asgi_app__(self) -> Callable[..., Any]:
        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "lifespan" or self._now is None:
                await Starlette()(scope, receive, send)
                return
            with self._now.used() as loaded:
                await loaded.application(scope, receive, send)

        return answer  # uvicorn, which starts it, takes a bound method for ASGI 2

    async def call(self, name: str, request: Any, answer: Any) -> Any:
        """Answer a call of the protocol.

        Args:
            name: of the call.
            request: its message; None of a stream.
            answer: Serve's gRPC context, which takes the status.

        Returns:
            a message; an empty one if the status is an error.
        """
        context = _Context(answer)
        method = f"/inference.GRPCInferenceService/{name}"
        assert self._now is not None
        with contextlib.suppress(_AbortedError), self._now.used() as loaded:
            if self._key is not None and not allowed(
                method, answer.invocation_metadata(), self._key
            ):
                await context.abort(grpc.StatusCode.UNAUTHENTICATED, REFUSED)
            size = 0 if request is None else request.ByteSize()
            if size > loaded.max_body:
                why = f"the message has {size} bytes; at most {loaded.max_body} are accepted"
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, why)
            try:
                result = getattr(loaded.servicer, name)(request, context)
                return await result if inspect.isawaitable(result) else result
            except NotImplementedError:  # of the protocol's own base class, with its status
                return pb.ServerLiveResponse()
            except (_AbortedError, asyncio.CancelledError):
                raise
            except Exception:
                log.exception("%s", name)
                answer.set_code(grpc.StatusCode.UNKNOWN)
                answer.set_details("internal error; see the server's log")
        return pb.ServerLiveResponse()


def _stay_on_loopback() -> None:
    """Keep the port of this replica for calls of other deployments, of which there are none, from
    other machines: Serve opens it on all addresses, and unpickles what it is sent.
    """
    from ray.serve._private import replica

    add = replica.add_port_to_grpc_server
    replica.add_port_to_grpc_server = lambda server, _: add(server, "127.0.0.1:0")


def _add_calls() -> None:
    """Give the replica a method for each of the protocol's calls, as Serve looks for them."""

    def unary(name: str) -> Callable[..., Any]:
        async def method(self: Replica, request: Any, grpc_context: Any) -> Any:
            return await self.call(name, request, grpc_context)

        return method

    async def streamed(self: Replica, requests: Any, grpc_context: Any) -> Any:
        await self.call(STREAMED, None, grpc_context)
        return
        yield  # Serve wants a generator

    for name in vars(service_pb2_grpc.GRPCInferenceServiceServicer):
        if name[0] != "_":
            setattr(Replica, name, streamed if name == STREAMED else unary(name))


_add_calls()


class _Loaded:
    """The engines of one configuration, and what answers by them."""

    def __init__(self, config: dict[str, Any], key: str | None) -> None:
        # Each replica shares what its machine has with all else there; a given budget is its own.
        memory = Memory.of(config.get("memory"))
        self._stack = ExitStack()
        with ExitStack() as stack:
            self._models = []
            for label, file in config["engines"].items():
                name, _, version = label.partition(":")
                load = partial(load_engine, file, config["device"], config["threads"])
                model = ServedModel(name, version, load, config["max_queue"])
                self._models.append(stack.enter_context(model))
            self._stack = stack.pop_all()
        service = Service(self._models, memory=memory)
        limits = Limits(config["max_body"], config["max_pixels"], THREADS)
        self.application = application(service, limits, key)
        self.servicer = Servicer(service, THREADS)
        self.max_body = limits.body
        self._uses = 0

    @contextmanager
    def used(self) -> Iterator[_Loaded]:
        """Keep the engines open."""
        self._uses += 1
        try:
            yield self
        finally:
            self._uses -= 1

    async def close(self) -> None:
        """Close the engines when nothing uses them any more."""
        # A call whose client has left ends at once, its run only later: `pending` counts it.
        while self._uses or any(model.pending for model in self._models):
            await asyncio.sleep(0.1)
        self._stack.close()


class _AbortedError(Exception):
    """The status of a call is an error, and is set."""


class _Context:
    """Serve's gRPC context with what the servicer asks of gRPC's own."""

    def __init__(self, given: Any) -> None:
        self._given = given
        self._task = asyncio.current_task()
        self.set_code, self.set_details = given.set_code, given.set_details

    def time_remaining(self) -> None:
        """None: the deadline is kept by the proxy, which cancels the call."""

    def cancelled(self) -> bool:
        return self._task is not None and self._task.cancelling() > 0

    async def abort(self, code: grpc.StatusCode, details: str) -> None:
        self.set_code(code)
        self.set_details(details)
        raise _AbortedError
