"""`serve deploy`, other engines and more replicas under load: on two Ray nodes of this machine."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import tritonclient.http as triton_http
from clusters import nodes, processes
from conftest import ROOT, Command

pytest.importorskip("ray", reason="Ray is not installed; pip install 'dic-toolkit[cluster]'")
pytestmark = [
    pytest.mark.xdist_group("ray"),
    pytest.mark.filterwarnings("ignore"),  # Ray's own
]

FACES = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
CLIENTS = 40  # more than a replica should have in progress (runtime.cluster.deployment.TARGET)
PORT, GRPC_PORT = 18483, 18484
PATIENCE = 240.0  # seconds


@pytest.fixture
def dashboard() -> Iterator[str]:
    with nodes(dashboard=True) as (_, address):
        yield address


def serve(dashboard: str, *line: object) -> None:
    """Run Ray's own command `serve`."""
    call = [sys.executable, "-m", "ray.serve.scripts", *map(str, line), "--address", dashboard]
    done = subprocess.run(call, capture_output=True, text=True, timeout=PATIENCE, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def until(true: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, f"not within {PATIENCE:.0f} s: {what}"
        time.sleep(0.2)


def ready(path: str) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{PORT}/v2/{path}", timeout=10).status_code == 200
    except httpx.TransportError:
        return False


def replicas() -> set[int]:
    return set(processes("ray::ServeReplica:dic"))


class Load:
    """Clients that ask one after the other until they are stopped."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.answers = 0
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def _ask(self) -> None:
        client = triton_http.InferenceServerClient(f"127.0.0.1:{PORT}", network_timeout=PATIENCE)
        tensor = triton_http.InferInput("image", list(FACES.shape), "UINT8")
        tensor.set_data_from_numpy(FACES)
        while not self._stop.is_set():
            try:
                assert len(client.infer("dic", [tensor]).as_numpy("face")) == len(FACES)
                self.answers += 1
            except Exception as error:
                self.errors.append(str(error))
        client.close()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def test_a_deployed_file_changes_engines_and_replicas_under_load(
    dashboard: str, command: Command, tiny_engine: Path, tmp_path: Path
) -> None:
    """New replicas take over before the old one ends, and the load brings a second; no request is
    lost.
    """

    def deploy(*labels: str) -> None:
        file = tmp_path / "serve.yaml"
        engines = [f"--engine={label}={tiny_engine}" for label in labels]
        ports = ("--port", PORT, "--grpc-port", GRPC_PORT)
        done = command(
            "runtime.serve", *engines, *ports, "--replicas", "1:2", "--write-config", file
        )
        assert done.returncode == 0, done.stderr
        serve(dashboard, "deploy", file)

    deploy("dic")
    until(lambda: ready("health/ready"), "the first replica is ready")
    first = replicas()
    assert len(first) == 1
    assert not ready("models/dic/versions/2/ready")
    load = Load()
    try:
        deploy("dic", "dic:2")
        until(lambda: ready("models/dic/versions/2/ready"), "version 2 is ready")
        until(lambda: len(replicas() - first) == 2, "two replicas with it")
    finally:
        load.stop()
    assert not load.errors
    assert load.answers > CLIENTS
    serve(dashboard, "shutdown", "-y")
