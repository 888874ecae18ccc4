"""What Triton's own clients see is the same at every server of our engines (`servers.SERVERS`)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from servers import SERVERS, Server
from tritonclient.utils import InferenceServerException

from runtime.engines.load import load_engine

RNG = np.random.default_rng(0)
FACES = RNG.integers(0, 256, (32, 16, 16, 3), np.uint8)
LIBRARIES = {"http": triton_http, "grpc": triton_grpc}


# One worker per kind of server, so that each starts once.
@pytest.fixture(
    scope="module",
    params=[pytest.param(kind, marks=pytest.mark.xdist_group(kind)) for kind in SERVERS],
)
def server(request: pytest.FixtureRequest, tiny_engine: Path) -> Iterator[Server]:
    with SERVERS[request.param](tiny_engine) as started:
        yield started


@pytest.fixture(scope="module")
def wanted(tiny_engine: Path) -> dict[str, np.ndarray]:
    with load_engine(tiny_engine, "cpu") as engine:
        return engine.run({"image": FACES})


def ask(library: ModuleType, faces: np.ndarray, name: str = "image", **how: bool) -> list[Any]:
    tensor = library.InferInput(name, list(faces.shape), "UINT8")
    tensor.set_data_from_numpy(faces, **how)
    return [tensor]


def same(given: Any, wanted: dict[str, np.ndarray], start: int = 0, stop: int = 32) -> None:
    """Results are those of the faces `start` to `stop`."""
    for name, array in wanted.items():
        np.testing.assert_allclose(given.as_numpy(name), array[start:stop], atol=1)


def eventually(true: Callable[[], bool]) -> None:
    """Triton counts a request shortly after it has answered it."""
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_tritons_http_client(server: Server, wanted: dict[str, np.ndarray]) -> None:
    client = triton_http.InferenceServerClient(server.http)
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("dic")
    assert not client.is_model_ready("dic", "9")
    assert client.get_server_metadata()["name"] == server.name
    metadata = client.get_model_metadata("dic", "1")
    assert "1" in metadata["versions"]
    assert metadata["inputs"] == [
        {"name": "image", "datatype": "UINT8", "shape": [-1, 16, 16, 3]},
    ]
    assert client.get_model_config("dic")["input"][0]["data_type"] == "TYPE_UINT8"
    assert {m["version"] for m in client.get_model_repository_index()} == {"1", "2"}
    for binary in (True, False):
        outputs = [triton_http.InferRequestedOutput(name, binary_data=binary) for name in wanted]
        faces = ask(triton_http, FACES[:5], binary_data=binary)
        same(client.infer("dic", faces, outputs=outputs), wanted, 0, 5)

    def counted() -> int:
        return client.get_inference_statistics("dic", "2")["model_stats"][0]["inference_count"]

    before = counted()
    given = client.infer("dic", ask(triton_http, FACES[:2]), model_version="2", request_id="a1")
    assert given.get_response()["id"] == "a1"
    eventually(lambda: counted() == before + 2)
    for compression in ("gzip", "deflate"):
        faces = ask(triton_http, FACES[:5])
        same(client.infer("dic", faces, request_compression_algorithm=compression), wanted, 0, 5)
    client.close()


def test_tritons_grpc_client(server: Server, wanted: dict[str, np.ndarray]) -> None:
    client = triton_grpc.InferenceServerClient(server.grpc)
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("dic", "2")
    assert client.get_server_metadata().name == server.name
    outputs = [(o.name, list(o.shape)) for o in client.get_model_metadata("dic").outputs]
    assert outputs == [(name, [-1, *array.shape[1:]]) for name, array in wanted.items()]
    assert client.get_model_config("dic").config.max_batch_size == 32
    assert len(client.get_model_repository_index().models) == 2
    given = client.infer("dic", ask(triton_grpc, FACES[:5]), request_id="b2")
    assert given.get_response().id == "b2"
    same(given, wanted, 0, 5)
    stats = client.get_inference_statistics("dic").model_stats[0]
    assert stats.inference_stats.success.count > 0
    client.close()


@pytest.mark.parametrize("protocol", LIBRARIES)
def test_batches_and_single_outputs(
    server: Server, wanted: dict[str, np.ndarray], protocol: str
) -> None:
    library = LIBRARIES[protocol]
    client = library.InferenceServerClient(getattr(server, protocol))
    for start, stop in ((0, 1), (1, 4), (0, 32)):
        same(client.infer("dic", ask(library, FACES[start:stop])), wanted, start, stop)
    only = [library.InferRequestedOutput("landmarks")]
    given = client.infer("dic", ask(library, FACES[:1]), outputs=only)
    same(given, {"landmarks": wanted["landmarks"]}, 0, 1)
    assert given.as_numpy("face") is None
    client.close()


REFUSED = {
    "http": ("400", "404"),
    "grpc": ("StatusCode.INVALID_ARGUMENT", "StatusCode.NOT_FOUND"),
}
WRONG = {
    "an unknown model": ("other", "", FACES, "image", "unknown model.*'other'"),
    "an unknown version": ("dic", "9", FACES, "image", "version '?9'?"),
    "another name": ("dic", "", FACES, "lq", "lq"),
    "another shape": ("dic", "", FACES[:, :8], "image", r"16, ?16, ?3\]"),
    "no face": ("dic", "", FACES[:0], "image", "at least one face|byte size mismatch"),
}


@pytest.mark.parametrize("protocol", LIBRARIES)
@pytest.mark.parametrize("what", WRONG)
def test_wrong_requests_are_refused(server: Server, what: str, protocol: str) -> None:
    model, version, faces, name, why = WRONG[what]
    library = LIBRARIES[protocol]
    client = library.InferenceServerClient(getattr(server, protocol))
    with pytest.raises(InferenceServerException, match=why) as refused:
        client.infer(model, ask(library, faces, name), model_version=version)
    assert refused.value.status() in REFUSED[protocol]
    client.close()


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b"{}",
        b'{"inputs": [{"name": "image", "shape": [1, 16, 16, 3], "datatype": "UINT8"}]}',
        b'{"inputs": [{"name": "image", "shape": [1, 2], "datatype": "UINT8", "data": [1]}]}',
        b'{"inputs": [{"name": "image", "shape": [1, 1], "datatype": "FP32", "data": [1]}]}',
    ],
    ids=["cut off", "a list", "no inputs", "no data", "too little", "another type"],
)
def test_malformed_bodies_are_refused(server: Server, body: bytes) -> None:
    answer = httpx.post(f"http://{server.http}/v2/models/dic/infer", content=body, timeout=30)
    assert answer.status_code in (400, 500)  # Triton calls some of them internal errors
    assert answer.json()["error"]


def test_clients_share_batches(server: Server, wanted: dict[str, np.ndarray]) -> None:
    url = f"http://{server.http}/v2/models/dic/versions/2/stats"

    def counts() -> tuple[int, int]:
        stats = httpx.get(url).json()["model_stats"][0]
        return stats["inference_count"], stats["execution_count"]

    faces, runs = counts()
    wrong = []

    def work(index: int) -> None:
        client = triton_http.InferenceServerClient(server.http)
        for _ in range(5):
            face = client.infer("dic", ask(triton_http, FACES[index : index + 1])).as_numpy("face")
            if np.abs(face[0].astype(int) - wanted["face"][index]).max() > 1:
                wrong.append(index)
        client.close()

    threads = [threading.Thread(target=work, args=(n % 5,)) for n in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    eventually(lambda: counts()[0] == faces + 50)
    assert counts()[1] - runs < 50
