"""The server in this process: HTTP by uvicorn, gRPC by grpcio, metrics on a port of their own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import uvicorn
from starlette.applications import Starlette

from dic.console import UserError
from dic.memory import Memory
from runtime.engines.load import load_engine
from runtime.server.calls import Limits
from runtime.server.grpc import start
from runtime.server.http import application, metrics_application
from runtime.server.model import ServedModel
from runtime.server.options import GRACE, THREADS, ServerOptions
from runtime.server.service import Service

new_event_loop: Callable[[], asyncio.AbstractEventLoop] | None = None
with contextlib.suppress(ModuleNotFoundError):  # there is none for Windows
    from uvloop import new_event_loop


def serve(options: ServerOptions) -> None:
    """Serve until SIGTERM or SIGINT; then finish what was accepted.

    Raises:
        UserError: a port is in use, or the address is not this machine's.
        EngineError: an engine cannot be loaded.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    with contextlib.ExitStack() as stack:
        http = stack.enter_context(_listen(options.host, "--port", options.port))
        metrics = stack.enter_context(_listen(options.host, "--metrics-port", options.metrics_port))
        models = []
        for name, version, path in options.engines:
            load = partial(load_engine, path, options.device, options.threads)
            models.append(stack.enter_context(ServedModel(name, version, load, options.max_queue)))
        runner = stack.enter_context(asyncio.Runner(loop_factory=new_event_loop))
        with contextlib.suppress(KeyboardInterrupt):
            runner.run(_serve(options, http, metrics, models))


async def _serve(
    options: ServerOptions,
    http: socket.socket,
    metrics: socket.socket,
    models: Sequence[ServedModel],
) -> None:
    host = f"[{options.host}]" if ":" in options.host else options.host
    service = Service(models, memory=Memory.of(options.memory))
    limits = Limits(options.max_body, options.max_pixels, THREADS)
    grpc_server, grpc_port = await start(
        service, f"{host}:{options.grpc_port}", options.key, options.max_body, THREADS
    )
    if not grpc_port:
        raise UserError(f"--grpc-port {options.grpc_port}: is in use; choose another port")
    servers = {
        http: _Server(_config(application(service, limits, options.key))),
        metrics: _Server(_config(metrics_application(service, options.key))),
    }
    stopped = asyncio.Event()

    def stop() -> None:
        service.stopping = True  # load balancers see it while requests in progress are finished
        for server in servers.values():
            server.should_exit = True
        stopped.set()

    async def grpc_until_stopped() -> None:
        await stopped.wait()
        await grpc_server.stop(GRACE)

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    _announce(models, host, http.getsockname()[1], grpc_port, metrics.getsockname()[1])
    await asyncio.gather(
        grpc_until_stopped(),
        *(server.serve(sockets=[listener]) for listener, server in servers.items()),
    )


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # `stop` handles them; uvicorn would end the process by them at last


def _config(app: Starlette) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=int(GRACE),
    )


def _announce(
    models: Sequence[ServedModel], host: str, port: int, grpc_port: int, metrics_port: int
) -> None:
    for model in models:
        engine = model.engine
        print(f"{model.name} version {model.version}: {engine.path} on {engine.device}", flush=True)
    print(
        f"listening on http://{host}:{port} and grpc://{host}:{grpc_port}, metrics on "
        f"http://{host}:{metrics_port}/metrics",
        flush=True,
    )


def _listen(host: str, option: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Inherited by connections. Otherwise an answer's body waits up to 40 ms for the client to
    # acknowledge its head.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise UserError(f"--host {host} {option} {port}: {error.strerror or error}") from error
    listener.listen(1024)
    return listener
