"""A Ray instance to work on: one of this machine alone, or a cluster's."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
from collections.abc import Iterator
from typing import Any

from dic.console import UserError

LOCAL = "local"  # the address that means: start an instance on this machine alone
SECONDS = 5.0  # to reach a cluster's address; Ray itself tries for a quarter of an hour
DEFAULT_PORT = 6379
CLIENT_PORT = 10001  # of addresses with ray://


def imported(address: str | None) -> Any:
    """The module `ray`, set for an address (see `connected`) if there is one.

    Raises:
        UserError: it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address == LOCAL:
        # Read when Ray is imported. Without clusters Ray listens on 127.0.0.1, as it does on
        # Windows and macOS; otherwise on all addresses, whatever address it is given.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    try:
        import ray
    except ModuleNotFoundError as error:
        raise UserError("--ray needs Ray; pip install 'dic-toolkit[cluster]'") from error
    return ray


@contextlib.contextmanager
def connected(address: str) -> Iterator[Any]:
    """Connect to Ray, and yield the module `ray`.

    Args:
        address: LOCAL starts an instance that listens on this machine's loopback address only and
            ends with the context; else "HOST:PORT" or "ray://HOST:PORT" of a cluster's head, or
            "auto", the cluster that this machine belongs to.

    Raises:
        UserError: Ray is not installed, or the address cannot be reached.
    """
    ray = imported(address)
    how = {"log_to_driver": False, "logging_level": logging.ERROR, "namespace": "serve"}
    if address == LOCAL:
        how |= {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    else:
        _check_reachable(address)
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, **how)
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray's own prints a stack
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        raise UserError(f"--ray {address}: {first_line(error)}") from error
    # Ray prints a paragraph about each process that dies; what it means for the user is told by us.
    ray._private.worker._worker_logs_enabled = False
    try:
        yield ray
    finally:
        ray.shutdown()


def first_line(error: object) -> str:
    """What an error says, without what follows its first line."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _check_reachable(address: str) -> None:
    """Raise UserError if nothing listens at an address."""
    if address == "auto":
        return
    client, _, place = address.rpartition("://")
    host, separator, port = place.rpartition(":")
    if client not in ("", "ray") or (separator and not port.isdecimal()):
        raise UserError(f"--ray {address}: must be HOST:PORT, ray://HOST:PORT, auto or {LOCAL}")
    host = host if separator else place
    number = int(port) if separator else (CLIENT_PORT if client else DEFAULT_PORT)
    try:
        socket.create_connection((host.strip("[]"), number), SECONDS).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--ray {address}: no Ray cluster can be reached: {reason}") from error
