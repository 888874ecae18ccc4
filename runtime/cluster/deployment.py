"""The server as a Ray Serve application, and the file from which `serve deploy` makes it.

Serve's gRPC proxy chooses the application by the metadata `application`, and needs none if there is
only one.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dic.console import UserError
from dic.files import write_whole
from runtime.cluster import proxy
from runtime.cluster.replica import Replica
from runtime.server.options import GRACE, KEY_VARIABLE, THREADS, ServerOptions, read_key

NAME = "dic"  # of the application and of its deployment
TARGET = 16  # requests per replica at which autoscaling adds no more: half of the largest run
ATTEMPTS = 2  # to start a replica before the deployment is given up


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


def build(args: dict[str, Any]) -> Any:
    """The application of a configuration file written by `write_config`.

    Raises:
        UserError: the key that the file asks for is not there.
        ValueError: `replicas` or `gpus` is malformed.
    """
    key = None
    if file := args.get("api_key_file"):
        key = read_key(Path(file))
    elif args.get("api_key"):
        key = os.environ.get(KEY_VARIABLE)
        if not key:
            raise UserError(f"no API key; set {KEY_VARIABLE} on every node, or api_key_file")
    low, high = parse_replicas(str(args.get("replicas", 1)))
    scale = Scale(low, high, float(args.get("gpus", 0)))
    return serve_application(args["server"], key, scale)


def serve_application(
    config: dict[str, Any], key: str | None, scale: Scale, alone: bool = False
) -> Any:
    """Bind the deployment.

    Args:
        config: of a replica, see `replica_config`.
        alone: see `Replica`.
    """
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


def replica_config(options: ServerOptions) -> dict[str, Any]:
    """What a replica is configured with. Without the key, which Serve's pages would show."""
    return {
        "engines": {f"{name}:{ver}": str(file.absolute()) for name, ver, file in options.engines},
        "device": options.device,
        "threads": options.threads or 1,  # also what Ray reserves; replicas share a machine
        "max_queue": options.max_queue,
        "max_body": options.max_body,
        "max_pixels": options.max_pixels,
        "memory": options.memory,
    }


def listening(options: ServerOptions) -> dict[str, Any]:
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

    args: dict[str, Any] = {"server": replica_config(options)}
    args["replicas"] = scale.low if scale.low == scale.high else f"{scale.low}:{scale.high}"
    args["gpus"] = scale.gpus
    if key_file is not None:
        args["api_key_file"] = str(key_file.absolute())
    elif options.key is not None:
        args["api_key"] = True
    document = {
        "proxy_location": "EveryNode",
        **listening(options),
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
