"""Starts the server as a user does."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from conftest import ROOT


@dataclass
class Running:
    process: subprocess.Popen[str]
    errors: Path
    port: int
    grpc_port: int
    metrics_port: int

    @property
    def http(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def grpc(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"

    def stop(self) -> tuple[int, str]:
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=30)
        return self.process.returncode, self.errors.read_text()


def serve(*options: object, **environment: str) -> Running:
    ports = [f"--{name}=0" for name in ("port", "grpc-port", "metrics-port")]
    line = [sys.executable, "-m", "runtime.serve", *ports]
    errors = Path(tempfile.mkdtemp()) / "errors"  # a pipe that nobody reads would block it
    with errors.open("w") as file:
        process = subprocess.Popen(
            [*line, *map(str, options)],
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
            cwd=ROOT,
            env={**os.environ, **environment},
        )
    assert process.stdout is not None
    for text in process.stdout:
        if found := re.search(r"http://\S+?:(\d+) and grpc://\S+?:(\d+), .*:(\d+)/", text):
            return Running(process, errors, *map(int, found.groups()))
    raise AssertionError(errors.read_text())
