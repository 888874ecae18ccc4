"""The server of this project, started as a user does, and observed from outside."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Self

from dic.console import UserError

ADDRESSES = re.compile(r"http://(\S+) and grpc://(\S+),")
STOPPING = 60  # seconds


class LocalServer:
    """A server on free ports of this machine; a context manager that stops it.

    Args:
        engine: file that it serves as the model `dic`.
        options: further ones of `runtime.serve`.

    Attributes:
        http, grpc: addresses, "HOST:PORT".

    Raises:
        UserError: it does not start; the message is its last line.
    """

    def __init__(self, engine: Path, options: tuple[str, ...] = ()) -> None:
        self._log = tempfile.NamedTemporaryFile("w+", suffix=".log")  # noqa: SIM115
        ports = [f"--{name}=0" for name in ("port", "grpc-port", "metrics-port")]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "runtime.serve", "--engine", f"dic={engine}", *ports, *options],
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if found := ADDRESSES.search(line):
                self.http, self.grpc = found.groups()
                return
        self._process.wait()
        raise UserError((self.log().strip().splitlines() or ["the server does not start"])[-1])

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def log(self) -> str:
        """What it has written to standard error so far."""
        return Path(self._log.name).read_text(errors="replace")

    def memory(self) -> float:
        """Resident memory in MiB (Linux; 0 elsewhere)."""
        return self._status("VmRSS") / 1024

    def threads(self) -> int:
        return self._status("Threads")

    def files(self) -> int:
        """Number of open files, sockets included."""
        return len(list(Path(f"/proc/{self._process.pid}/fd").glob("*")))

    def _status(self, name: str) -> int:
        try:
            text = Path(f"/proc/{self._process.pid}/status").read_text()
        except OSError:
            return 0
        found = re.search(rf"^{name}:\s+(\d+)", text, re.MULTILINE)
        return int(found[1]) if found else 0

    def stop(self) -> int:
        """Ask it to stop, and return its exit status."""
        self._process.send_signal(signal.SIGTERM)
        self._process.communicate(timeout=STOPPING)
        return self._process.returncode

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.alive:
            self._process.kill()
        self._process.communicate()
        self._log.close()
