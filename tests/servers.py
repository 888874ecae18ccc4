"""Servers of an engine, started as a user starts them, for tests that are their clients.

`SERVERS` has one entry per kind of server. To add one: a context manager that takes an engine's
path, serves it as the model `dic` in versions 1 and 2 with batches of up to 32 faces, and yields
its addresses.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from conftest import ROOT

from export.triton import main as write_repository


@dataclass(frozen=True)
class Server:
    """A running server.

    Attributes:
        name: what it calls itself.
        http, grpc: its addresses, as HOST:PORT.
    """

    name: str
    http: str
    grpc: str


# -- our own ---------------------------------------------------------------------------------------


@dataclass
class Running:
    """A process of `python -m runtime.serve`."""

    process: subprocess.Popen[str]
    errors: Path
    port: int
    grpc_port: int
    metrics_port: int  # 0: with Ray there is none

    @property
    def http(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def grpc(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"

    def stop(self) -> tuple[int, str]:
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=60)
        return self.process.returncode, self.errors.read_text()


ADDRESSES = re.compile(r"http://\S+?:(\d+) and grpc://\S+?:(\d+)(?:, .*:(\d+)/)?")


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
        if found := ADDRESSES.search(text):
            return Running(process, errors, *map(int, found.groups("0")))
    raise AssertionError(errors.read_text())


@contextlib.contextmanager
def ours(engine: Path) -> Iterator[Server]:
    running = serve("--engine", f"dic={engine}", "--engine", f"dic:2={engine}")
    try:
        yield Server("dic-toolkit", running.http, running.grpc)
    finally:
        running.process.kill()
        running.process.communicate()


# -- Triton ----------------------------------------------------------------------------------------

TRITON = ROOT / "build" / "triton"  # NVIDIA's wheel, unpacked by make setup
PARTS = TRITON / "pytriton" / "tritonserver"
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
STUB = PARTS / "python_backend_stubs" / PYTHON / "triton_python_backend_stub"
LIBPYTHON = Path(sysconfig.get_config_var("LIBDIR"), sysconfig.get_config_var("INSTSONAME"))


def need_triton() -> None:
    """Skip the test where Triton cannot run, and say why."""
    if not PARTS.is_dir():
        pytest.skip("no Triton: make setup fetches it, on Linux x86-64 with a network")
    if not STUB.is_file():
        pytest.skip(f"this Triton has no Python backend for Python {PYTHON}")
    if ".so" not in LIBPYTHON.name or not LIBPYTHON.is_file():
        pytest.skip("Triton needs Python's shared library, which this Python is built without")
    if not Path(sys.prefix, "bin", "activate").is_file():
        pytest.skip("Triton needs a virtual environment to run model.py in")


@contextlib.contextmanager
def tritonserver(models: Path, *options: str) -> Iterator[tuple[Server, Path]]:
    """Run Triton on a model repository; yields the server and its log."""
    need_triton()
    http, grpc = _free_ports(2)
    libraries = [TRITON / "nvidia_pytriton.libs", LIBPYTHON.parent]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        backend = Path(folder) / "backends" / "python"
        backend.mkdir(parents=True)
        for part in (*(PARTS / "backends" / "python").glob("*.*"), STUB):
            (backend / part.name).symlink_to(part)
        with log.open("w") as file:
            process = subprocess.Popen(
                [
                    str(PARTS / "bin" / "tritonserver"),
                    f"--model-repository={models}",
                    f"--backend-directory={backend.parent}",
                    f"--cache-directory={PARTS / 'caches'}",
                    "--http-address=127.0.0.1",
                    f"--http-port={http}",
                    "--grpc-address=127.0.0.1",
                    f"--grpc-port={grpc}",
                    "--allow-metrics=false",
                    "--exit-timeout-secs=10",
                    "--disable-auto-complete-config",  # half the time to start
                    *options,
                ],
                stdout=file,
                stderr=file,
                cwd=ROOT,  # its Python finds these sources first
                env={**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(map(str, libraries))},
            )
        try:
            _wait(f"http://127.0.0.1:{http}/v2/health/ready", process, log)
            yield Server("triton", f"127.0.0.1:{http}", f"127.0.0.1:{grpc}"), log
        finally:
            process.terminate()  # a kill would leave its shared memory
            process.wait(timeout=60)


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until a server is ready; fails with its log."""
    for _ in range(1200):
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(url).status_code == 200:
                return
        assert process.poll() is None, log.read_text()
        time.sleep(0.1)
    raise AssertionError(log.read_text())


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def python_repository(engine: Path, models: Path, *options: str) -> None:
    """Write a repository whose Python is that of the tests."""
    more = ["--backend", "python", "--environment", sys.prefix, "--device", "cpu", *options]
    assert write_repository([str(engine), "-o", str(models), *more]) == 0


@contextlib.contextmanager
def triton(engine: Path) -> Iterator[Server]:
    need_triton()
    with tempfile.TemporaryDirectory() as models:
        for version in ("1", "2"):
            more = ["--model-version", version, "--keep-versions", "2"]
            python_repository(engine, Path(models), *more)
        with tritonserver(Path(models)) as (server, _):
            yield server


# -- Ray Serve -------------------------------------------------------------------------------------


@contextlib.contextmanager
def ray(engine: Path) -> Iterator[Server]:
    pytest.importorskip("ray", reason="Ray is not installed; make test-cluster installs it")
    running = serve("--ray", "--engine", f"dic={engine}", "--engine", f"dic:2={engine}")
    try:
        yield Server("dic-toolkit", running.http, running.grpc)
    finally:
        running.stop()


SERVERS: dict[str, Callable[[Path], AbstractContextManager[Server]]] = {
    "dic-toolkit": ours,
    "triton": triton,
    "ray": ray,
}
