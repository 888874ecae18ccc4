"""Mutated requests: each must be answered, by an error of the protocol or rightly."""

from __future__ import annotations

import http.client
import io
import json
import random
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from benchmarks.fuzzing.mutations import mutated
from benchmarks.serving.local import LocalServer
from dic.progress import Progress

TIMEOUT = 10.0  # seconds; a longer answer counts as none
ODD: tuple[object, ...] = (
    None,
    True,
    -1,
    0,
    1.5,
    2**63,
    "",
    "a",
    [],
    [[]],
    {},
    "\x00",
    1e308,
    ["a"],
    {"a": 1},
)
SERVER_ERRORS = (503, 504)  # allowed: overload and deadlines
METHODS = ("ModelInfer", "ModelMetadata", "ModelConfig", "ModelStatistics", "ModelReady")


@dataclass
class Fuzz:
    """The result of a fuzz test.

    Attributes:
        requests: sent.
        seed: of the random numbers.
        statuses: answers by HTTP status or gRPC code.
        faults: answers that break the protocol, and requests without an answer; one line each.
        alive: whether the server works afterwards.
        tracebacks: in its log.
    """

    requests: int
    seed: int
    statuses: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    alive: bool = False
    tracebacks: int = 0


@dataclass
class _Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


def fuzz(server: LocalServer, count: int, seed: int = 0) -> Fuzz:
    """Send `count` mutated requests, half over HTTP and half over gRPC."""
    result, rng = Fuzz(count, seed), random.Random(seed)
    with (
        Progress(total=count, desc="fuzz", unit="request") as bar,
        _GrpcCaller(server.grpc) as caller,
    ):
        samples, messages = _samples(), _messages()
        for number in range(count):
            if number % 2:
                method, message = rng.choice(METHODS), rng.choice(messages)
                data = mutated(message, rng)
                status, fault = caller.send(method, data)
                label = f"{method} {data[:40]!r}"
            else:
                request = _mutated_request(rng.choice(samples), rng)
                status, fault = _send(server.http, request)
                label = f"{request.method} {request.path} {request.body[:40]!r}"
            result.statuses[status] += 1
            if fault and len(result.faults) < 100:
                result.faults.append(f"request {number}: {fault}: {label}")
            bar.update()
        valid = _send(server.http, samples[0])
    result.alive = server.alive and valid == ("200", "")
    result.tracebacks = server.log().count("Traceback")
    return result


def _samples() -> list[_Request]:
    """Valid requests, the first of which infers."""
    tensor = {"name": "image", "shape": [1, 16, 16, 3], "datatype": "UINT8"}
    plain = json.dumps({"id": "1", "inputs": [{**tensor, "data": [7] * 768}]}).encode()
    header = json.dumps(
        {
            "inputs": [{**tensor, "parameters": {"binary_data_size": 768}}],
            "outputs": [{"name": "face", "parameters": {"binary_data": True}}],
            "parameters": {"timeout": 10**7},
        }
    ).encode()
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    Image.fromarray(noise).save(file, "PNG")
    form = (
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
        + file.getvalue()
        + b'\r\n--b\r\nContent-Disposition: form-data; name="format"\r\n\r\njson\r\n--b--\r\n'
    )
    lengths = {"Inference-Header-Content-Length": str(len(header))}
    infer = "/v2/models/dic/infer"
    return [
        _Request("POST", infer, {"Content-Type": "application/json"}, plain),
        _Request("POST", infer, lengths, header + bytes(768)),
        _Request("POST", "/restore?format=json", {}, file.getvalue()),
        _Request("POST", "/restore", {"Content-Type": "multipart/form-data; boundary=b"}, form),
        _Request("GET", "/v2/models/dic/versions/1", {}, b""),
        _Request("GET", "/v2/models/dic/config", {}, b""),
    ]


def _mutated_request(request: _Request, rng: random.Random) -> _Request:
    headers, path, body, method = dict(request.headers), request.path, request.body, request.method
    kind = rng.randrange(5)
    if kind == 0:
        path = "/" + mutated(path.encode(), rng).decode("latin-1").lstrip("/")
        path = "".join(c if "!" <= c <= "~" else f"%{ord(c):02X}" for c in path)
    elif kind == 1 and headers:
        name = rng.choice(list(headers))
        headers[name] = rng.choice(("-1", "99999999999", "", "a", "multipart/form-data", "0"))
    elif kind == 2:
        method = rng.choice(("GET", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH"))
    elif kind == 3 and headers.get("Content-Type") == "application/json":
        document = json.loads(body)
        _odd(document, rng)
        body = json.dumps(document).encode()
    else:
        body = mutated(body, rng)
    return _Request(method, path, headers, body)


def _odd(document: dict[str, object], rng: random.Random) -> None:
    """Replace, add or delete something in a JSON document."""
    target = document
    inputs = document["inputs"]
    if rng.random() < 0.7 and isinstance(inputs, list):
        target = inputs[0]
    name = rng.choice([*target, "parameters", "outputs"])
    if rng.random() < 0.2:
        target.pop(name, None)
    else:
        target[name] = rng.choice(ODD)


def _send(address: str, request: _Request) -> tuple[str, str]:
    """The status of the answer, and what is wrong with it; empty if nothing is."""
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=TIMEOUT)
    try:
        connection.request(request.method, request.path, request.body, request.headers)
        answer = connection.getresponse()
        content = answer.read()
    except (OSError, http.client.HTTPException) as error:
        return "none", f"{type(error).__name__}: {error}"
    finally:
        connection.close()
    status = answer.status
    if status >= 500 and status not in SERVER_ERRORS:
        return str(status), f"status {status}"
    if status >= 400 and request.method != "HEAD" and answer.getheader("Content-Type", "") != "":
        try:
            if not isinstance(json.loads(content)["error"], str):
                return str(status), "the error is no text"
        except (ValueError, KeyError, TypeError):
            plain = content == b"Invalid HTTP request received."  # of the HTTP parser
            return str(status), "" if plain else f"no error object: {content[:60]!r}"
    return str(status), ""


def _messages() -> list[bytes]:
    from tritonclient.grpc import service_pb2 as pb

    request = pb.ModelInferRequest(model_name="dic", id="1")
    tensor = request.inputs.add()
    tensor.name, tensor.datatype = "image", "UINT8"
    tensor.shape.extend([1, 16, 16, 3])
    raw = pb.ModelInferRequest()
    raw.CopyFrom(request)
    raw.raw_input_contents.append(bytes(768))
    tensor.contents.uint_contents.extend([7] * 768)
    other = pb.ModelMetadataRequest(name="dic", version="1")
    return [m.SerializeToString() for m in (request, raw, other)]


class _GrpcCaller:
    """Sends bytes as messages of the protocol's methods."""

    def __init__(self, address: str) -> None:
        import grpc

        self._grpc = grpc
        self._channel = grpc.insecure_channel(address)

    def send(self, method: str, data: bytes) -> tuple[str, str]:
        call = self._channel.unary_unary(
            f"/inference.GRPCInferenceService/{method}",
            request_serializer=lambda message: message,
            response_deserializer=lambda message: message,
        )
        try:
            call(data, timeout=TIMEOUT)
        except self._grpc.RpcError as error:
            code = error.code()
            wrong = code.name in ("UNKNOWN", "INTERNAL", "DEADLINE_EXCEEDED")
            return code.name, f"{code.name}: {error.details()}" if wrong else ""
        return "OK", ""

    def __enter__(self) -> _GrpcCaller:
        return self

    def __exit__(self, *exception: object) -> None:
        self._channel.close()
