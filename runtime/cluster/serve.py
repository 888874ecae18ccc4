"""The server as a Ray Serve deployment: the same application in any number of replicas.

`run` deploys it and waits; `write_config` writes what `serve deploy FILE` deploys, by `build`.

Requests reach a replica through Serve's proxies: HTTP by the ASGI application of
`runtime.server.http`, gRPC by a method of the replica for each of the protocol's calls. Serve's
gRPC proxy chooses the application by the metadata `application`, and needs none if there is only
one.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import grpc
from starlette.applications import Starlette
from starlette.types import Receive, Scope, Send
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from dic.console import UserError
from dic.cores import cores
from dic.files import write_whole
from runtime.cluster import proxy
from runtime.cluster.instance import LOCAL, connected, first_line
from runtime.engines.load import load_engine
from runtime.server.calls import Limits
from runtime.server.grpc import REFUSED, Servicer, allowed
from runtime.server.http import application
from runtime.server.model import ServedModel
from runtime.server.options import GRACE, KEY_VARIABLE, THREADS, ServerOptions
from runtime.server.service import Service

NAME = "dic"  # of the application and of its deployment
TARGET = 16  # requests per replica at which autoscaling adds no more: half of the largest run
ATTEMPTS = 2  # to start a replica before the deployment is given up
PATIENCE = 30.0  # seconds after which a deployment that waits says so
STREAMED = "ModelStreamInfer"

log = logging.getLogger("runtime.server")


@dataclass(frozen=True)
class Scale:
    """How many replicas there are, and what each takes.

    Attributes:
        low, high: replicas; between them Serve adds and removes replicas by the load.
        gpus: of a replica; a fraction shares a GPU between replicas.
    """

    low: int
    high: int
    gpus: float


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
        logging.getLogger("pyvips").setLevel(logging.CRITICAL)  # its errors are in ours
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
        self._stack = ExitStack()
        with ExitStack() as stack:
            self._models = []
            for label, file in config["engines"].items():
                name, _, version = label.partition(":")
                load = partial(load_engine, file, config["device"], config["threads"])
                model = ServedModel(name, version, load, config["max_queue"])
                self._models.append(stack.enter_context(model))
            self._stack = stack.pop_all()
        service = Service(self._models)
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


def build(args: dict[str, Any]) -> Any:
    """The application of a configuration file written by `write_config`.

    Raises:
        UserError: the key that the file asks for is not there.
    """
    key = None
    if args.get("api_key_file"):
        key = Path(args["api_key_file"]).read_text(encoding="utf-8").strip()
    elif args.get("api_key"):
        key = os.environ.get(KEY_VARIABLE)
    if not key and (args.get("api_key_file") or args.get("api_key")):
        raise UserError(f"no API key; set {KEY_VARIABLE} on every node, or api_key_file")
    low, _, high = str(args.get("replicas", 1)).partition(":")
    scale = Scale(int(low), int(high or low), float(args.get("gpus", 0)))
    return _application(args["server"], key, scale)


def _application(config: dict[str, Any], key: str | None, scale: Scale, alone: bool = False) -> Any:
    from ray import serve

    how: dict[str, Any] = {"num_replicas": scale.low}
    if scale.low != scale.high:
        how = {
            "autoscaling_config": {
                "min_replicas": scale.low,
                "max_replicas": scale.high,
                "target_ongoing_requests": TARGET,
            }
        }
    deployment = serve.deployment(
        serve.ingress(None)(Replica),
        name=NAME,
        ray_actor_options={"num_cpus": config["threads"], "num_gpus": scale.gpus},
        max_ongoing_requests=THREADS,
        max_queued_requests=config["max_queue"],
        backpressure_config={"status_code": 429, "retry_after_s": 1},
        user_config=config,
        graceful_shutdown_timeout_s=GRACE,
        max_constructor_retry_count=ATTEMPTS,
        max_surge_percent=100,  # old replicas serve until the new ones do
        **how,
    )
    return deployment.bind(key, alone)


def _config(options: ServerOptions) -> dict[str, Any]:
    """What a replica is configured with. Without the key, which Serve's pages would show."""
    return {
        "engines": {f"{name}:{ver}": str(file.absolute()) for name, ver, file in options.engines},
        "device": options.device,
        "threads": options.threads or 1,  # also what Ray reserves; replicas share a machine
        "max_queue": options.max_queue,
        "max_body": options.max_body,
        "max_pixels": options.max_pixels,
    }


def _listening(options: ServerOptions) -> dict[str, Any]:
    """Where Serve listens, as `serve.start` and its configuration files take it."""
    return {
        "http_options": {"host": options.host, "port": options.port},
        "grpc_options": {
            "port": options.grpc_port,
            "grpc_servicer_functions": [f"{proxy.__name__}.add_servicer"],
        },
        "controller_options": {"runtime_env": {"env_vars": proxy.environment(options.host)}},
    }


def write_config(options: ServerOptions, scale: Scale, key_file: Path | None, path: Path) -> None:
    """Write a file for `serve deploy`.

    Args:
        key_file: that the key of the options was read from; None if from the environment.

    Raises:
        UserError: the file cannot be written.
    """
    import yaml

    args: dict[str, Any] = {"server": _config(options)}
    args["replicas"] = scale.low if scale.low == scale.high else f"{scale.low}:{scale.high}"
    args["gpus"] = scale.gpus
    if key_file is not None:
        args["api_key_file"] = str(key_file.absolute())
    elif options.key is not None:
        args["api_key"] = True
    document = {
        "proxy_location": "EveryNode",
        **_listening(options),
        "applications": [
            {
                "name": NAME,
                "route_prefix": "/",
                "import_path": f"{__name__}:build",
                "args": args,
            }
        ],
    }
    head = "# serve deploy FILE. dic-toolkit and these files must be on every node.\n"
    write_whole(path, (head + yaml.safe_dump(document, sort_keys=False)).encode())


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
        serve.start(**_listening(options), proxy_location="EveryNode")
        _check_port(options)
        deployment = _application(_config(options), options.key, scale, alone)
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


def parse_replicas(text: str) -> tuple[int, int]:
    """N, or MIN:MAX.

    Raises:
        ValueError: neither.
    """
    low, colon, high = text.partition(":")
    numbers = int(low), int(high if colon else low)
    if not 0 <= numbers[0] <= numbers[1] or numbers[1] < 1:
        raise ValueError(text)
    return numbers
