"""How a server runs, wherever it runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dic.console import UserError

KEY_VARIABLE = "DIC_API_KEY"
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
        memory: bytes that the process may take; None by what the machine has.
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
    memory: int | None = None


def read_key(file: Path) -> str:
    """Read the key that clients must send.

    Raises:
        UserError: the file cannot be read, or is empty.
    """
    try:
        key = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise UserError(f"--api-key-file {file}: {reason}") from error
    if not key:
        raise UserError(f"--api-key-file {file}: is empty")
    return key
