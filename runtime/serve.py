"""`python -m runtime.serve`: serve engines and restore photographs over HTTP and gRPC."""

from __future__ import annotations

import argparse
import ipaddress
import os
from pathlib import Path
from typing import Any, NoReturn

from dic.console import Parser, UserError, run
from dic.engine_file import EngineError, engine_files
from dic.memory import add_memory_option
from dic.outputs import check_outputs
from runtime.cluster.instance import LOCAL
from runtime.engines.contract import SHIPPED
from runtime.server.options import KEY_VARIABLE, ServerOptions, read_key

LOOPBACK = "127.0.0.1"
OF_RAY: dict[str, Any] = {"replicas": "1", "num_gpus": 0.0}  # options, with their defaults


def main(arguments: list[str]) -> int:
    given = _parse(arguments)
    options = _options(given)
    if given.ray is not None or given.write_config is not None:
        return _on_ray(given, options)
    from runtime.server.local import serve

    serve(options)
    return 0


def _on_ray(given: argparse.Namespace, options: ServerOptions) -> int:
    if given.write_config is not None:
        read = [file for _, _, path in options.engines for file in engine_files(path)]
        check_outputs([given.write_config], [*read, *filter(None, [given.api_key_file])])
    from runtime.cluster.instance import imported

    imported(given.ray)  # the extra's error first
    from runtime.cluster import deployment, serve

    try:
        low, high = deployment.parse_replicas(given.replicas)
    except ValueError:
        raise UserError(f"--replicas {given.replicas}: must be N or MIN:MAX") from None
    scale = deployment.Scale(low, high, given.num_gpus)
    if given.write_config is not None:
        deployment.write_config(options, scale, given.api_key_file, given.write_config)
    else:
        serve.run(options, scale, given.ray)
    return 0


def _options(options: argparse.Namespace) -> ServerOptions:
    key = os.environ.get(KEY_VARIABLE) or None
    if options.api_key_file:
        key = read_key(options.api_key_file)
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
        memory=options.memory,
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
        if not (separator and file and plain and version.isascii() and version.isdigit()):
            raise UserError(f"--engine {text}: must be NAME=FILE or NAME:VERSION=FILE")
        if (name, version) in engines:
            raise UserError(f"--engine {text}: {name} version {version} is given twice")
        engines[name, version] = Path(file)
    return tuple((name, version, path) for (name, version), path in engines.items())


def _parser() -> Parser:
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
    add_memory_option(add, "photographs wait for others, and too large ones are refused")
    _add_ray(parser)
    return parser


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = _parser()
    options = parser.parse_args(arguments)
    on_ray = options.ray is not None or options.write_config is not None
    for name, default in OF_RAY.items():
        if getattr(options, name) != default and not on_ray:
            parser.error(f"--{name.replace('_', '-')} needs --ray")
    if 0 in (options.port, options.grpc_port) and on_ray and options.ray != LOCAL:
        parser.error("port 0 is for this machine alone; choose a port that is free on every node")
    for name, low, high in (
        ("port", 0, 65535),
        ("grpc_port", 0, 65535),
        ("metrics_port", 0, 65535),
        ("threads", 1, 1024),
        ("max_queue", 1, 1_000_000),
        ("num_gpus", 0, 64),
        ("max_body", 1, 1024),
        ("max_pixels", 1, 268),
    ):
        value = getattr(options, name)
        if value is not None and not low <= value <= high:
            parser.error(f"--{name.replace('_', '-')} must be {low} to {high}")
    return options


def _add_ray(parser: Parser) -> None:
    add = parser.add_argument_group("Ray").add_argument
    add(
        "--ray",
        nargs="?",
        const=LOCAL,
        metavar="ADDRESS",
        help="serve by Ray Serve: on the cluster whose head is at HOST:PORT, or without an address "
        "in processes of this machine",
    )
    add(
        "--replicas",
        default=OF_RAY["replicas"],
        metavar="N",
        help="processes that serve, or MIN:MAX, between which the load decides (default: "
        "%(default)s); each takes one CPU core, or --threads",
    )
    add(
        "--num-gpus",
        type=float,
        default=OF_RAY["num_gpus"],
        metavar="X",
        help="GPUs of a replica; 0.5 lets two share one (default: none)",
    )
    add(
        "--write-config",
        type=Path,
        metavar="FILE",
        help="write a file for `serve deploy` instead of serving",
    )


def cli() -> NoReturn:
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    # Pictures stay in memory, which --max-pixels limits: libvips would write large ones to /tmp.
    os.environ.setdefault("VIPS_DISC_THRESHOLD", "4g")
    run(main, "serve", EngineError)


if __name__ == "__main__":
    cli()
