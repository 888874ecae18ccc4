"""Serving and batches on Ray: a cluster of two nodes, both on this machine."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from clusters import nodes, processes
from conftest import ROOT, Command, one_line_error
from tritonclient.utils import InferenceServerException

from runtime.engines.load import load_engine

pytest.importorskip("ray", reason="Ray is not installed; pip install 'dic-toolkit[cluster]'")
pytestmark = [
    pytest.mark.xdist_group("ray"),
    pytest.mark.filterwarnings("ignore"),  # Ray's own
]

FACES = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), np.uint8)
KEY = {"x-api-key": "secret"}
PICTURES = 60


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a cluster of two nodes with two CPUs each."""
    with nodes() as (address, _):
        yield address


@dataclass
class Served:
    process: subprocess.Popen[str]
    http: str
    grpc: str


def start(address: str, *options: object) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", "runtime.serve", "--ray", address, *map(str, options)]
    return subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )


def wait(process: subprocess.Popen[str]) -> Served:
    assert process.stdout is not None
    for text in process.stdout:
        if found := re.search(r"http://(\S+) and grpc://(\S+)", text):
            return Served(process, found[1], found[2])
    raise AssertionError(process.stderr.read() if process.stderr else "")


@pytest.fixture(scope="module")
def options(tiny_engine: Path, tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    key = tmp_path_factory.mktemp("key") / "key"
    key.write_text("secret\n")
    ports = ("--port", 18473, "--grpc-port", 18474)
    return ["--engine", f"dic={tiny_engine}", "--api-key-file", key, "--replicas", 2, *ports]


@pytest.fixture(scope="module")
def served(cluster: str, options: list[object]) -> Iterator[Served]:
    process = start(cluster, *options)
    yield wait(process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors


def ask(library: object, faces: np.ndarray = FACES, name: str = "image") -> list:
    tensor = library.InferInput(name, list(faces.shape), "UINT8")
    tensor.set_data_from_numpy(faces)
    return [tensor]


CLIENTS = {"http": triton_http, "grpc": triton_grpc}


@pytest.mark.parametrize("protocol", CLIENTS)
def test_tritons_clients_get_the_engines_faces(
    served: Served, tiny_engine: Path, protocol: str
) -> None:
    library = CLIENTS[protocol]
    client = library.InferenceServerClient(getattr(served, protocol))
    assert client.is_server_ready()
    assert client.is_model_ready("dic", headers=dict(KEY))
    given = client.infer("dic", ask(library), headers=dict(KEY))
    with load_engine(tiny_engine, "cpu") as engine:
        wanted = engine.run({"image": FACES})
    for name, array in wanted.items():
        np.testing.assert_allclose(given.as_numpy(name), array, atol=1)
    for model, name, headers, why in (
        ("other", "image", dict(KEY), "unknown model 'other'"),
        ("dic", "lq", dict(KEY), "the inputs are image, got lq"),
        ("dic", "image", {}, "missing or wrong"),
    ):
        with pytest.raises(InferenceServerException, match=why):
            client.infer(model, ask(library, name=name), headers=headers)
    client.close()


def test_statuses_are_those_of_the_local_server(served: Served) -> None:
    url = f"http://{served.http}"
    assert httpx.get(f"{url}/v2/models/dic").status_code == 401
    missing = httpx.get(f"{url}/nothing", headers=dict(KEY))
    assert missing.status_code == 404
    assert missing.json() == {"error": "GET /nothing: not found"}
    assert httpx.get(f"{url}/v2", headers=dict(KEY)).headers.get_list("x-request-id") != []
    client = triton_grpc.InferenceServerClient(served.grpc)
    for call, status in (
        (lambda: client.get_model_metadata("other", headers=dict(KEY)), "NOT_FOUND"),
        (lambda: client.infer("dic", ask(triton_grpc)), "UNAUTHENTICATED"),
        (lambda: client.get_log_settings(headers=dict(KEY)), "UNIMPLEMENTED"),
    ):
        with pytest.raises(InferenceServerException) as error:
            call()
        assert error.value.status() == f"StatusCode.{status}"
    client.close()


def test_photographs_are_restored(served: Served, photo_file: Path) -> None:
    url = f"http://{served.http}/restore?max_face=128"
    answer = httpx.post(url, content=photo_file.read_bytes(), headers=KEY, timeout=60)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-faces"] == "1"
    assert cv2.imdecode(np.frombuffer(answer.content, np.uint8), 1) is not None


def test_a_killed_replica_loses_only_what_is_in_it(served: Served) -> None:
    """Its requests get an error that clients retry; all others are answered."""
    replicas = processes("ray::ServeReplica:dic")
    assert len(replicas) == 2
    stop, wrong, lost, answered = threading.Event(), [], [], []
    many = np.repeat(FACES, 8, 0)

    def work(protocol: str) -> None:
        library = CLIENTS[protocol]
        client = library.InferenceServerClient(getattr(served, protocol))
        while not stop.is_set():
            try:
                faces = client.infer("dic", ask(library, many), headers=dict(KEY)).as_numpy("face")
                answered.append(len(faces))
            except InferenceServerException as error:
                retryable = error.status() in ("503", "StatusCode.UNAVAILABLE")
                (lost if retryable else wrong).append((protocol, str(error)))
        client.close()

    workers = [threading.Thread(target=work, args=(p,)) for p in ("http", "grpc") * 4]
    for worker in workers:
        worker.start()
    time.sleep(1)
    os.kill(replicas[0], signal.SIGKILL)
    killed = len(answered)
    time.sleep(3)
    stop.set()
    for worker in workers:
        worker.join()
    assert not wrong
    assert 1 <= len(lost) <= len(workers), lost
    assert all("send it again" in why for _, why in lost)
    assert len(answered) > killed
    assert set(answered) == {len(many)}


def test_a_batch_survives_its_worker(
    cluster: str, tiny_engine: Path, face_file: Path, tmp_path: Path
) -> None:
    """Sixty pictures, one of them damaged, and a worker that is killed among them."""
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    small = cv2.resize(cv2.imread(str(face_file)), (16, 16), interpolation=cv2.INTER_AREA)
    for number in range(PICTURES):
        cv2.imwrite(str(folder / f"{number:02}.png"), small)
    (folder / "07.png").write_bytes(b"no picture")
    line = [sys.executable, "-m", "runtime.infer", folder, "-o", out, "--engine", tiny_engine]
    line += ["--ray", cluster, "--summary", tmp_path / "s.json"]
    with subprocess.Popen(
        list(map(str, line)), stderr=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        until = time.monotonic() + 60
        while not list(out.glob("*.png")) and time.monotonic() < until and process.poll() is None:
            time.sleep(0.01)
        for worker in processes("ray::Worker")[:1]:
            os.kill(worker, signal.SIGKILL)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1, errors
    assert f"error: {folder / '07.png'}: not a picture" in errors
    assert f"{PICTURES - 1} restored" in errors
    assert len(list(out.glob("*.png"))) == PICTURES - 1
    assert len(list(out.iterdir())) == PICTURES - 1, "no partial files"


def test_wrong_calls(
    cluster: str, command: Command, tiny_engine: Path, face_file: Path, tmp_path: Path
) -> None:
    """Each is one line, and known before Ray starts anything."""
    here = ["--engine", f"dic={tiny_engine}", "--ray"]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        calls = [
            (["runtime.serve", *here, "127.0.0.1:9"], "no Ray cluster can be reached"),
            (["runtime.serve", *here, "http://x:1"], "must be HOST:PORT"),
            (["runtime.serve", *here, "--port", port], "Address already in use"),
            (["runtime.serve", *here, "--port", 0, "--replicas", "two"], "must be N or MIN:MAX"),
            (["runtime.serve", *here, "--port", 0, "--replicas", 4096], "need 4096 CPU cores"),
            (["runtime.serve", *here, cluster, "--port", 0], "choose a port that is free"),
            (["runtime.serve", "--replicas", 2], "--replicas needs --ray"),
            (["runtime.serve", "--engine", "dic=none.onnx", "--ray"], "none.onnx: No such file"),
            (["runtime.infer", face_file, "-o", "-", "--ray", cluster], "belong to this process"),
        ]
        out = tmp_path / "out"
        for address, why in (
            ("127.0.0.1:9", "no Ray cluster can be reached"),
            (cluster, "not an ONNX model"),
        ):
            line = [face_file, "-o", out, "--ray", address]
            line += ["--engine", face_file] if address == cluster else []
            calls.append((["runtime.infer", *line], why))
        with ThreadPoolExecutor(2) as pool:
            done = list(pool.map(lambda call: command(*call[0]), calls))
    for (_, why), result in zip(calls, done, strict=True):
        assert why in one_line_error(result, 2)


def test_a_configuration_for_serve_deploy(
    command: Command, tiny_engine: Path, tmp_path: Path
) -> None:
    from ray.serve.schema import ServeDeploySchema
    from yaml import safe_load

    (tmp_path / "key").write_text("secret\n")
    line = ["--engine", f"dic={tiny_engine}", "--replicas", "1:3", "--num-gpus", 0.5]
    line += ["--api-key-file", tmp_path / "key", "--write-config", tmp_path / "serve.yaml"]
    done = command("runtime.serve", *line)
    assert done.returncode == 0, done.stderr
    written = ServeDeploySchema.model_validate(safe_load((tmp_path / "serve.yaml").read_text()))
    (application,) = written.applications
    assert "secret" not in (tmp_path / "serve.yaml").read_text()
    from runtime.cluster.deployment import build

    deployment = build(application.args)._bound_deployment
    assert deployment.ray_actor_options == {"num_cpus": 1, "num_gpus": 0.5}
    assert deployment._deployment_config.autoscaling_config.max_replicas == 3
    assert deployment.init_args == ("secret", False)
