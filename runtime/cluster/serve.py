"""Deploy the server on Ray Serve, and wait until it is stopped."""

from __future__ import annotations

import logging
import re
import signal
import socket
import sys
import threading
import time
from contextlib import ExitStack
from typing import Any

from dic.console import UserError
from dic.cores import cores
from runtime.cluster.deployment import NAME, Scale, listening, replica_config, serve_application
from runtime.cluster.instance import LOCAL, connected, first_line
from runtime.server.options import ServerOptions

PATIENCE = 30.0  # seconds after which a deployment that waits says so


def run(options: ServerOptions, scale: Scale, address: str) -> None:
    """Deploy the server, and wait for SIGTERM or SIGINT. Then finish what it has accepted.

    Args:
        address: see `connected`.

    Raises:
        UserError: Ray cannot be reached, a port is in use, or no replica starts.
    """
    for _, _, file in options.engines:
        with file.open("rb"):  # one line now instead of a replica's error
            pass
    if address == LOCAL:
        options = _with_ports(options)
        needed = scale.low * (options.threads or 1)
        if needed > cores():
            raise UserError(
                f"--replicas {scale.low}: need {needed} CPU cores, this machine has {cores()}"
            )
    stop = threading.Event()
    with connected(address):
        from ray import serve

        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        deployed = _deploy(serve, options, scale, stop, address == LOCAL)
        http, calls = f"{options.host}:{options.port}", f"{options.host}:{options.grpc_port}"
        if deployed:
            for name, version, file in options.engines:
                print(f"{name} version {version}: {file}", flush=True)
            print(f"listening on http://{http} and grpc://{calls}", flush=True)
        stop.wait()
        if _deployed_at(serve) == deployed:  # not replaced by a later call of this command
            serve.delete(NAME)


def _deploy(
    serve: Any, options: ServerOptions, scale: Scale, stop: threading.Event, alone: bool
) -> float:
    """Start Serve if it does not run, deploy, and wait until the deployment runs.

    Returns:
        when it was deployed, Unix time in seconds; 0 if it was stopped before it ran.
    """
    from ray.exceptions import RayError
    from ray.serve.exceptions import RayServeException

    try:
        serve.start(**listening(options), proxy_location="EveryNode")
        _check_port(options)
        deployment = serve_application(replica_config(options), options.key, scale, alone)
        serve.run_many(
            [serve.RunTarget(deployment, NAME, "/")], wait_for_applications_running=False
        )
        return _wait(serve, stop)
    except (RayError, RayServeException, RuntimeError, ValueError, TimeoutError) as error:
        raise UserError(f"--ray: {_reason(str(error))}") from error


def _check_port(options: ServerOptions) -> None:
    """Raise UserError if Serve ran before, and listens elsewhere."""
    from ray.serve.context import _get_global_client

    client = _get_global_client()
    assert client is not None
    port = client.http_config.port
    if port != options.port:
        raise UserError(
            f"--port {options.port}: Serve runs on this cluster already, on port {port}; give that "
            "one, or end it by `serve shutdown`"
        )


def _wait(serve: Any, stop: threading.Event) -> float:
    began, told = time.monotonic(), False
    while not stop.wait(0.2):
        known = serve.status().applications.get(NAME)
        state = known.status.value if known else ""
        if state == "RUNNING":
            return float(known.last_deployed_time_s)
        if state in ("DEPLOY_FAILED", "UNHEALTHY"):
            found = [deployment.message for deployment in known.deployments.values()]
            raise UserError(
                f"--ray: no replica starts: {_reason(' '.join([*found, known.message]))}"
            )
        if not told and time.monotonic() - began > PATIENCE:
            told = True
            print("waiting for replicas; has Ray the CPUs and GPUs?", file=sys.stderr, flush=True)
    return 0.0


def _deployed_at(serve: Any) -> float:
    known = serve.status().applications.get(NAME)
    return float(known.last_deployed_time_s) if known else 0.0


def _reason(text: str) -> str:
    """What a replica's traceback says of ours, or its last line."""
    found = re.findall(r"(?:EngineError|UserError|DetectorError|RuntimeError): (.+)", text)
    lines = text.strip().splitlines()
    return str(found[-1]) if found else first_line(lines[-1] if lines else "")


def _with_ports(options: ServerOptions) -> ServerOptions:
    """The options with free ports for 0.

    Raises:
        UserError: a port is in use.
    """
    from dataclasses import replace

    ports = {}
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    with ExitStack() as stack:
        for name in ("port", "grpc_port"):
            wanted = getattr(options, name)
            taken = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                taken.bind((options.host, wanted))
            except OSError as error:
                flag = f"--{name.replace('_', '-')}"
                raise UserError(f"{flag} {wanted}: {error.strerror or error}") from error
            ports[name] = taken.getsockname()[1]
    return replace(options, **ports)
