"""`python -m runtime.serve`: serve engines and restore photographs over HTTP and gRPC."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ipaddress
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn

from dic.console import Parser, UserError, run
from dic.engine_file import EngineError
from runtime.engines.contract import SHIPPED
from runtime.engines.load import load_engine
from runtime.server.model import ServedModel

KEY_VARIABLE = "DIC_API_KEY"
LOOPBACK = "127.0.0.1"
THREADS = 128  # requests processed at once, most of which wait for the engine
GRACE = 30.0  # seconds that requests in progress have when the server stops


@dataclass(frozen=True)
class ServerOptions:
    """How the server runs.

    Attributes:
        engines: (name, version, file) of each.
        host: address to listen on.
        port, grpc_port, metrics_port: TCP ports; 0 takes a free one.
        key: that clients must send; None for none.
        device, threads: see `load_engine`.
        max_queue: faces of a model that may wait or run at once.
        max_body: bytes of a request.
        max_pixels: of a picture.
    """

    engines: tuple[tuple[str, str, Path], ...]
    host: str
    port: int
    grpc_port: int
    metrics_port: int
    key: str | None
    device: str
    threads: int | None
    max_queue: int
    max_body: int
    max_pixels: int


def main(arguments: list[str]) -> int:
    options = _options(_parse(arguments))
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("pyvips").setLevel(logging.CRITICAL)  # its errors are in ours
    with contextlib.ExitStack() as stack:
        http = stack.enter_context(_listen(options.host, "--port", options.port))
        metrics = stack.enter_context(_listen(options.host, "--metrics-port", options.metrics_port))
        models = []
        for name, version, path in options.engines:
            load = partial(load_engine, path, options.device, options.threads)
            models.append(stack.enter_context(ServedModel(name, version, load, options.max_queue)))
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(_serve(options, http, metrics, models))
    return 0


async def _serve(
    options: ServerOptions, http: socket.socket, metrics: socket.socket, models: list[ServedModel]
) -> None:
    import uvicorn

    from runtime.server.calls import Limits
    from runtime.server.grpc import start
    from runtime.server.http import application, metrics_application
    from runtime.server.service import Service

    host = f"[{options.host}]" if ":" in options.host else options.host
    service = Service(models)
    limits = Limits(options.max_body, options.max_pixels, THREADS)
    grpc_server, grpc_port = await start(
        service, f"{host}:{options.grpc_port}", options.key, options.max_body, THREADS
    )
    if not grpc_port:
        raise UserError(f"--grpc-port {options.grpc_port}: is in use; choose another port")
    logging.getLogger("uvicorn").setLevel(logging.WARNING)

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield  # `stop` handles them; uvicorn would end the process by them at last

    servers = [
        Server(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                lifespan="off",
                timeout_graceful_shutdown=int(GRACE),
            )
        )
        for app in (
            application(service, limits, options.key),
            metrics_application(service, options.key),
        )
    ]

    def stop() -> None:
        service.stopping = True  # load balancers see it while requests in progress are finished
        for server in servers:
            server.should_exit = True

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    port, metrics_port = http.getsockname()[1], metrics.getsockname()[1]
    for model in models:
        engine = model.engine
        print(f"{model.name} version {model.version}: {engine.path} on {engine.device}", flush=True)
    print(
        f"listening on http://{host}:{port} and grpc://{host}:{grpc_port}, metrics on "
        f"http://{host}:{metrics_port}/metrics",
        flush=True,
    )
    await asyncio.gather(
        *(server.serve(sockets=[s]) for server, s in zip(servers, (http, metrics), strict=True))
    )
    await grpc_server.stop(GRACE)


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


def _options(options: argparse.Namespace) -> ServerOptions:
    key = os.environ.get(KEY_VARIABLE) or None
    if options.api_key_file:
        try:
            key = options.api_key_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not a text file"
            raise UserError(f"--api-key-file {options.api_key_file}: {reason}") from error
        if not key:
            raise UserError(f"--api-key-file {options.api_key_file}: is empty")
    if key is None and not options.insecure and not _is_loopback(options.host):
        raise UserError(
            f"--host {options.host}: others can reach this address; give --api-key-file FILE (or "
            f"{KEY_VARIABLE}), or --insecure"
        )
    return ServerOptions(
        engines=_engines(options.engine or [f"dic={SHIPPED}"]),
        host=options.host,
        port=options.port,
        grpc_port=options.grpc_port,
        metrics_port=options.metrics_port,
        key=key,
        device=options.device,
        threads=options.threads,
        max_queue=options.max_queue,
        max_body=options.max_body * 2**20,
        max_pixels=options.max_pixels * 1_000_000,
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _engines(given: list[str]) -> tuple[tuple[str, str, Path], ...]:
    """NAME=FILE or NAME:VERSION=FILE, each name and version once.

    Raises:
        UserError: malformed, or given twice.
    """
    engines: dict[tuple[str, str], Path] = {}
    for text in given:
        label, separator, file = text.partition("=")
        name, _, version = label.partition(":")
        version = version or "1"
        plain = name.replace("-", "").replace("_", "").replace(".", "").isalnum()
        if not (separator and file and plain and version.isdigit()):
            raise UserError(f"--engine {text}: must be NAME=FILE or NAME:VERSION=FILE")
        if (name, version) in engines:
            raise UserError(f"--engine {text}: {name} version {version} is given twice")
        engines[name, version] = Path(file)
    return tuple((name, version, path) for (name, version), path in engines.items())


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = Parser(
        prog="python -m runtime.serve",
        description="Serve engines by the Open Inference Protocol v2 over HTTP and gRPC, and "
        "restore photographs sent to /restore.",
    )
    add = parser.add_argument
    add(
        "--engine",
        action="append",
        metavar="NAME[:VERSION]=FILE",
        help="an engine and the name that clients use; may be repeated (default: dic, the shipped "
        "engine)",
    )
    add("--host", default=LOOPBACK, help="address to listen on (default: %(default)s)")
    add("--port", type=int, default=8000, help="HTTP port (default: %(default)s)")
    add("--grpc-port", type=int, default=8001, help="gRPC port (default: %(default)s)")
    add(
        "--metrics-port",
        type=int,
        default=8002,
        help="port of /metrics for Prometheus, which the HTTP port has too (default: %(default)s)",
    )
    add(
        "--api-key-file",
        type=Path,
        metavar="FILE",
        help=f"a file with the key that clients must send (default: the variable {KEY_VARIABLE})",
    )
    add("--insecure", action="store_true", help="listen on other addresses without a key")
    add("--device", default="auto", help="see runtime.infer (default: %(default)s)")
    add("--threads", type=int, metavar="N", help="CPU threads of an engine (default: all cores)")
    add(
        "--max-queue",
        type=int,
        default=1024,
        metavar="N",
        help="faces per engine that may wait or run; more are refused (default: %(default)s)",
    )
    add(
        "--max-body",
        type=int,
        default=64,
        metavar="MIB",
        help="largest request (default: %(default)s)",
    )
    add(
        "--max-pixels",
        type=int,
        default=50,
        metavar="MEGAPIXELS",
        help="largest picture (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    for name, low, high in (
        ("port", 0, 65535),
        ("grpc_port", 0, 65535),
        ("metrics_port", 0, 65535),
        ("threads", 1, 1024),
        ("max_queue", 1, 1_000_000),
        ("max_body", 1, 1024),
        ("max_pixels", 1, 268),
    ):
        value = getattr(options, name)
        if value is not None and not low <= value <= high:
            parser.error(f"--{name.replace('_', '-')} must be {low} to {high}")
    return options


def cli() -> NoReturn:
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    run(main, "serve", EngineError)


if __name__ == "__main__":
    cli()
