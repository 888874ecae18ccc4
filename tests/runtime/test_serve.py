"""What only our own server does; `tests/test_clients.py` has what all servers have in common."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import email
import gc
import gzip
import io
import json
import shutil
import socket
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from conftest import Command, one_line_error
from PIL import Image
from servers import Running, serve
from starlette.applications import Starlette
from tritonclient.utils import InferenceServerException

from dic.engine_file import EngineError
from runtime.engines.load import load_engine
from runtime.server.calls import Limits
from runtime.server.http import application
from runtime.server.model import ServedModel
from runtime.server.protocol import ProtocolError
from runtime.server.service import Service
from runtime.server.threads import Threads

RNG = np.random.default_rng(0)
FACES = RNG.integers(0, 256, (5, 16, 16, 3), np.uint8)


@pytest.fixture(scope="module")
def running(tiny_engine: Path) -> Iterator[Running]:
    server = serve("--engine", f"dic={tiny_engine}", "--engine", f"dic:2={tiny_engine}")
    yield server
    server.process.kill()
    server.process.communicate()


def ask(library: ModuleType, faces: np.ndarray = FACES) -> list[Any]:
    tensor = library.InferInput("image", list(faces.shape), "UINT8")
    tensor.set_data_from_numpy(faces)
    return [tensor]


def test_answers_over_four_mebibytes(running: Running) -> None:
    client = triton_grpc.InferenceServerClient(running.grpc)
    many = RNG.integers(0, 256, (200, 16, 16, 3), np.uint8)
    assert client.infer("dic", ask(triton_grpc, many)).as_numpy("face").shape[0] == 200
    client.close()


def post(
    running: Running, document: object, extra: bytes = b"", **headers: str | bytes
) -> httpx.Response:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    url = f"http://{running.http}/v2/models/dic/infer"
    return httpx.post(url, content=body + extra, headers=headers, timeout=30)  # type: ignore[arg-type]


TENSOR = {"name": "image", "shape": [1, 16, 16, 3], "datatype": "UINT8"}
BINARY = {**TENSOR, "parameters": {"binary_data_size": 768}}
MALFORMED = {
    "not JSON": (b"{", {}, "not valid JSON"),
    "a list": ([], {}, "must be a JSON object"),
    "no inputs": ({}, {}, "inputs: must be a list"),
    "no data": ({"inputs": [TENSOR]}, {}, "does not fit"),
    "too little": ({"inputs": [{**TENSOR, "data": [1, 2]}]}, {}, "does not fit"),
    "no numbers": ({"inputs": [{**TENSOR, "data": ["a"] * 768}]}, {}, "not numbers"),
    "beyond a byte": ({"inputs": [{**TENSOR, "data": [256] * 768}]}, {}, "0 to 255"),
    "fractions": ({"inputs": [{**TENSOR, "data": [0.5] * 768}]}, {}, "0 to 255"),
    "a type": ({"inputs": [{**TENSOR, "datatype": "BYTES"}]}, {}, "datatype must be one of"),
    "a list of types": ({"inputs": [{**TENSOR, "datatype": ["UINT8"]}]}, {}, "must be one of"),
    "nested": (b"[" * 100_000, {}, "not valid JSON"),
    "digits": ({"inputs": [BINARY]}, {"header": "9" * 5000}, "is not possible"),
    "a superscript": ({"inputs": [BINARY]}, {"header": "\u00b2"}, "is not possible"),
    "a shape": ({"inputs": [{**TENSOR, "shape": [-1, 16]}]}, {}, "shape must be a list of sizes"),
    "a batch": ({"inputs": [{**TENSOR, "shape": [10**6, 16, 16, 3]}]}, {}, "at most 4096 faces"),
    "cut off": ({"inputs": [BINARY]}, {"header": "json"}, "but 0 bytes follow"),
    "a header": ({"inputs": [BINARY]}, {"header": "99999"}, "is not possible"),
    "a timeout": ({"inputs": [], "parameters": {"timeout": "soon"}}, {}, "timeout: must be"),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_malformed_bodies_are_named(running: Running, what: str) -> None:
    document, how, why = MALFORMED[what]
    headers: dict[str, str | bytes] = {}
    if how:
        length = len(json.dumps(document)) if how["header"] == "json" else how["header"]
        headers["Inference-Header-Content-Length"] = str(length).encode("latin-1")
    answer = post(running, document, **headers)
    assert answer.status_code == 400
    assert why in answer.json()["error"]


def test_paths_and_methods_that_do_not_exist(running: Running) -> None:
    url = f"http://{running.http}"
    wrong = httpx.get(f"{url}/v2/models/dic/infer")
    assert wrong.status_code == 405
    assert wrong.headers["allow"] == "POST"
    missing = httpx.get(f"{url}/etc/passwd")
    assert missing.status_code == 404
    assert missing.json() == {"error": "GET /etc/passwd: not found"}


def test_metrics_are_prometheus(running: Running) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    client = triton_http.InferenceServerClient(running.http)
    client.infer("dic", ask(triton_http))  # its newest version
    client.close()
    text = httpx.get(f"http://127.0.0.1:{running.metrics_port}/metrics").text
    assert httpx.get(f"http://127.0.0.1:{running.metrics_port}/v2").status_code == 404
    assert "nv_inference_count" in httpx.get(f"http://{running.http}/metrics").text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert "nv_inference_request_success" in families
    assert "# TYPE nv_inference_count counter" in text
    reasons = {s.labels["reason"] for s in families["nv_inference_request_failure"].samples}
    assert reasons == {"REJECTED", "CANCELED", "BACKEND", "OTHER"}  # Triton's
    (sample,) = [s for s in families["nv_inference_count"].samples if s.labels["version"] == "2"]
    assert sample.value >= len(FACES)


@pytest.fixture
def photo(photo_file: Path) -> bytes:
    return photo_file.read_bytes()


def test_photographs_are_restored(photo: bytes) -> None:
    server = serve()  # the shipped engine
    try:
        url = f"http://{server.http}/restore"
        for kind, name in (("png", "PNG"), ("jpeg", "JPEG"), ("webp", "WEBP")):
            answer = httpx.post(f"{url}?format={kind}&max_face=128", content=photo, timeout=60)
            assert answer.status_code == 200, answer.text
            with Image.open(io.BytesIO(answer.content)) as image:
                assert image.format == name
            assert answer.headers["x-faces"] == "1"
        document = httpx.post(f"{url}?format=json&max_face=128", content=photo, timeout=60).json()
        assert len(document["faces"][0]["landmarks"]) == 68
        with Image.open(io.BytesIO(base64.b64decode(document["image"]))) as image:
            assert image.width == document["width"] * document["scale"]
        for query, body, why in (
            ("", b"no picture", "not a picture"),
            ("", b"", "empty"),
            ("?enlarge=9", photo, "enlarge: must be 1 to 8"),
            (f"?enlarge=00000000{2:05000}", photo, "enlarge: must be 1 to 8"),
            ("?format=gif", photo, "format: must be one of"),
            ("?path=/etc/passwd", photo, "unknown option 'path'"),
            ("?engine=x", photo, "unknown model 'x'"),
        ):
            answer = httpx.post(url + query, content=body, timeout=60)
            assert answer.status_code in (400, 404)
            assert why in answer.json()["error"]
    finally:
        status, errors = server.stop()
    assert status == 0, errors
    entry = json.loads(errors.strip().splitlines()[-1])
    assert entry["path"] == "/restore"
    assert entry["request_id"]
    assert "Traceback" not in errors


def test_a_form_of_several_photographs_is_answered_in_order(photo: bytes) -> None:
    files = [
        ("file", ("a.png", photo, "image/png")),
        ("file", ('b".txt', b"no picture", "text/plain")),
        ("file", ("c.png", photo, "image/png")),
    ]
    server = serve()
    try:
        url = f"http://{server.http}/restore"
        answer = httpx.post(url, files=files, data={"format": "jpeg"}, timeout=60)
        assert answer.status_code == 200
        head = f"Content-Type: {answer.headers['content-type']}\r\n\r\n".encode()
        parts = email.message_from_bytes(head + answer.content).get_payload()
        assert [part.get_filename() for part in parts] == ["a.png", "b%22.txt", "c.png"]
        for part in (parts[0], parts[2]):
            assert part["x-faces"] == "1"
            with Image.open(io.BytesIO(part.get_payload(decode=True))) as image:
                assert image.format == "JPEG"
        wrong = json.loads(parts[1].get_payload(decode=True))
        assert wrong["status"] == 400
        assert "not a picture" in wrong["error"]

        lines = httpx.post(f"{url}?format=json", files=files, timeout=60).text.splitlines()
        documents = [json.loads(line) for line in lines]
        assert [document["name"] for document in documents] == ["a.png", "b%22.txt", "c.png"]
        assert [len(document.get("faces", ())) for document in documents] == [1, 0, 1]
        assert "image" in documents[0]

        one = httpx.post(url, files=files[:1], timeout=60)
        with Image.open(io.BytesIO(one.content)) as image:
            assert image.format == "PNG"
        for sent, why in (
            ({"files": files, "data": {"engine": "x"}}, "unknown model 'x'"),
            ({"files": {"file": ("", b"")}, "data": {"path": "/etc"}}, "unknown option 'path'"),
            ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, "malformed"),
        ):
            answer = httpx.post(url, timeout=60, **sent)
            assert answer.status_code in (400, 404)
            assert why in answer.json()["error"]
    finally:
        server.stop()


def call(app: Starlette, method: str, path: str, **how: object) -> httpx.Response:
    """Call an application in this process."""

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            return await client.request(method, path, **how)

    return asyncio.run(ask())


def test_a_failed_engine_is_opened_again(
    tiny_engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(feed: object) -> None:
        raise EngineError("out of memory")

    file, away = tmp_path / "dic.onnx", tmp_path / "away.onnx"
    shutil.copy(tiny_engine, file)
    feed = {"image": FACES}
    with ServedModel("dic", "1", lambda: load_engine(file, "cpu"), 64) as model:
        service = Service([model])
        before = model.infer(feed)["face"]
        file.rename(away)
        monkeypatch.setattr(model.engine, "run", fail)
        with pytest.raises(EngineError, match="out of memory"):
            model.infer(feed)
        assert not service.ready
        assert service.index()[0]["state"] == "UNAVAILABLE"
        assert "is opened again" in service.index()[0]["reason"]
        app = application(service, Limits(2**20, 10**6, 8), None)
        assert call(app, "GET", "/v2/health/live").status_code == 200
        for path in ("/v2/health/ready", "/v2/models/dic/ready"):
            assert call(app, "GET", path).status_code == 503
        request = {"inputs": [{**TENSOR, "data": [0] * 768}]}
        refused = call(app, "POST", "/v2/models/dic/infer", json=request)
        assert refused.status_code == 503
        assert refused.headers["retry-after"]
        away.rename(file)
        deadline = time.monotonic() + 60
        while not service.ready:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        np.testing.assert_array_equal(model.infer(feed)["face"], before)
        assert call(app, "POST", "/v2/models/dic/infer", json=request).status_code == 200


def test_forms_stay_in_memory(tiny_engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with a file system that cannot be written."""

    def full(*_: object, **__: object) -> None:
        raise OSError("read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with ServedModel("dic", "1", lambda: load_engine(tiny_engine, "cpu"), 64) as model:
        app = application(Service([model]), Limits(2**22, 10**6, 8), None)
        answer = call(app, "POST", "/restore", files={"file": ("a.png", bytes(2**21))})
    assert answer.status_code == 400
    assert "not a picture" in answer.json()["error"]


def test_refusals_keep_no_request_in_memory() -> None:
    """Bodies have megabytes, of which Python's search for cycles knows nothing."""

    def refuse(faces: np.ndarray) -> None:
        raise ValueError(f"{len(faces)} faces are wrong")

    async def refused() -> weakref.ref[np.ndarray]:
        faces = np.zeros((2, 16, 16, 3), np.uint8)
        with contextlib.suppress(ProtocolError):
            await Threads(1).run(lambda: refuse(faces))
            pytest.fail("not refused")
        return weakref.ref(faces)

    gc.disable()
    try:
        faces = asyncio.run(refused())
        for thread in threading.enumerate():
            if thread.name.startswith("AnyIO"):
                thread.join()
        assert faces() is None
    finally:
        gc.enable()


def test_a_key_is_asked_for(tiny_engine: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("secret\n")
    server = serve("--engine", f"dic={tiny_engine}", "--api-key-file", tmp_path / "key")
    try:
        url = f"http://{server.http}/v2/models/dic"
        assert httpx.get(f"http://{server.http}/v2/health/ready").status_code == 200
        assert httpx.get(url).status_code == 401
        assert httpx.get(f"http://127.0.0.1:{server.metrics_port}/metrics").status_code == 401
        assert httpx.get(url, headers={"x-api-key": "wrong"}).status_code == 401
        for headers in ({"x-api-key": "secret"}, {"authorization": "Bearer secret"}):
            assert httpx.get(url, headers=headers).status_code == 200
        client = triton_grpc.InferenceServerClient(server.grpc)
        with pytest.raises(InferenceServerException, match="missing or wrong"):
            client.infer("dic", ask(triton_grpc))
        client.infer("dic", ask(triton_grpc), headers={"authorization": "Bearer secret"})
        client.close()
    finally:
        server.stop()


def test_limits(tiny_engine: Path, photo: bytes) -> None:
    options = ("--max-queue", 4, "--max-body", 1, "--max-pixels", 1)
    server = serve("--engine", f"dic={tiny_engine}", *options)
    try:
        client = triton_http.InferenceServerClient(server.http)
        with pytest.raises(InferenceServerException, match="4 may; retry later"):
            client.infer("dic", ask(triton_http))
        client.close()
        body = {"inputs": [{**TENSOR, "shape": [5, 16, 16, 3], "data": FACES.ravel().tolist()}]}
        refused = post(server, body)
        assert refused.status_code == 429
        assert refused.headers["retry-after"]
        url = f"http://{server.http}/restore"
        assert httpx.post(url, content=bytes(2**20 + 1)).status_code == 413
        for encoding, body, status in (
            ("gzip", gzip.compress(bytes(2**24)), 413),
            ("gzip", gzip.compress(bytes(9))[:-9], 400),
            ("deflate", b"no", 400),
            ("br", b"", 415),
        ):
            headers = {"Content-Encoding": encoding}
            assert httpx.post(url, content=body, headers=headers).status_code == status
        half = len(photo) // 2
        members = gzip.compress(photo[:half]) + gzip.compress(photo[half:])
        headers = {"Content-Encoding": "GZip"}
        assert httpx.post(url, content=members, headers=headers).status_code == 200
        form = httpx.post(url, files={"a": photo}, headers=headers)
        assert form.status_code == 415
        file = io.BytesIO()
        Image.new("L", (1001, 1000)).save(file, "PNG")
        large = httpx.post(url, content=file.getvalue())
        assert large.status_code == 400
        assert "larger than 1000000 pixels" in large.json()["error"]
    finally:
        server.stop()


def test_an_expired_request_is_dropped(running: Running) -> None:
    body = {"inputs": [{**TENSOR, "data": [0] * 768}], "parameters": {"timeout": 1}}
    answer = post(running, body)
    assert answer.status_code == 504
    assert "deadline" in answer.json()["error"]


def test_stopping_finishes_what_is_under_way(tiny_engine: Path) -> None:
    server = serve("--engine", f"dic={tiny_engine}")
    document = {"inputs": [{**TENSOR, "shape": [100, 16, 16, 3], "data": [7] * 100 * 768}]}
    answers: list[httpx.Response] = []
    thread = threading.Thread(target=lambda: answers.append(post(server, document)))
    thread.start()
    time.sleep(0.3)
    status, errors = server.stop()
    thread.join()
    assert status == 0, errors
    assert answers[0].status_code == 200
    assert answers[0].json()["outputs"][0]["shape"] == [100, 128, 128, 3]


def test_wrong_calls(here: Command, tiny_engine: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        free = ("--port", 0, "--metrics-port", 0)
        for line, why in (
            (["--host", "0.0.0.0"], "others can reach this address"),
            (["--port", port], "Address already in use"),
            (["--grpc-port", port, *free], "is in use"),
            (["--metrics-port", port, "--port", 0], "Address already in use"),
            (["--engine", "dic"], "must be NAME=FILE"),
            (["--engine", "a=x", "--engine", "a=y"], "given twice"),
            (["--engine", f"dic={tmp_path / 'none.onnx'}", *free], "No such file"),
            (["--api-key-file", tmp_path / "none"], "No such file"),
            (["--api-key-file", tmp_path / "empty"], "is empty"),
            (["--max-queue", 0], "must be 1 to"),
        ):
            assert why in one_line_error(here("runtime.serve", *line), 2)
