"""A server at saturation for a long time, among clients that misbehave."""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from benchmarks.serving import clients
from benchmarks.serving.clients import Bytes, Client
from benchmarks.serving.local import LocalServer
from dic.progress import Progress

GOOD = 8  # clients that ask and check the answer
SAMPLE = 2.0  # seconds between samples of the memory
WARM = 0.1  # share of the time after which memory is compared
LARGE = 4 * 2**20  # bytes
TIMEOUT = 20.0  # seconds that a misbehaving client waits


@dataclass
class Soak:
    """The result of a soak test.

    Attributes:
        seconds: how long.
        answered: requests that were answered with the right face.
        wrong: answers with another face.
        lost: requests that were not answered, or with an error; the first errors are in `errors`.
        refused: requests that a full queue refused, which the protocol lets clients retry.
        misbehaved: what the others did, by kind.
        memory: resident MiB: after the warm-up, at the end, and at most.
        minutes: resident MiB after each minute.
        growth: MiB per 1,000 requests of all kinds in the second half: the slope of a line through
            the samples (least squares); None if there are too few.
        threads, files: after the warm-up and at the end.
        tracebacks: in the server's log.
        status: exit status of the server when it was stopped.
    """

    seconds: float
    answered: int = 0
    wrong: int = 0
    lost: int = 0
    refused: int = 0
    errors: list[str] = field(default_factory=list)
    misbehaved: Counter[str] = field(default_factory=Counter)
    memory: tuple[float, float, float] = (0.0, 0.0, 0.0)
    minutes: list[float] = field(default_factory=list)
    growth: float | None = None
    threads: tuple[int, int] = (0, 0)
    files: tuple[int, int] = (0, 0)
    tracebacks: int = 0
    status: int | None = None

    @property
    def requests(self) -> int:
        """Of all kinds."""
        known = self.answered + self.wrong + self.lost + self.refused
        return known + self.misbehaved.total()


@dataclass(frozen=True)
class _Sample:
    seconds: float
    requests: int
    memory: float
    threads: int
    files: int


def soak(server: LocalServer, expected: Client, seconds: float, seed: int = 0) -> Soak:
    """Load a server for some time, then stop it.

    Args:
        expected: restores faces without the server.
        seconds: how long.
    """
    result = Soak(seconds)
    rng = np.random.default_rng(seed)
    faces = rng.integers(0, 256, (32, 1, 16, 16, 3), np.uint8)
    restored = [expected(face).astype(int) for face in faces]
    lock, end = threading.Lock(), time.monotonic() + seconds

    def good(index: int) -> None:
        make = clients.http if index % 2 else clients.grpc
        ask = make(server.http if index % 2 else server.grpc)
        own = random.Random(index)
        while time.monotonic() < end:
            number = own.randrange(len(faces))
            outcome, error = _asked(ask, faces[number], restored[number])
            with lock:
                setattr(result, outcome, getattr(result, outcome) + 1)
                result.errors += [error] if error and len(result.errors) < 10 else []

    def bad(index: int) -> None:
        own = random.Random(1000 + index)
        kinds = (vanish, garbage, large, trickle)
        while time.monotonic() < end:
            kind = kinds[index % len(kinds)]
            kind(server, own)
            with lock:
                result.misbehaved[kind.__name__] += 1
            time.sleep(own.random() * 0.5)

    def observe(_: int) -> None:
        samples: list[_Sample] = []
        began = time.monotonic()
        with Progress(total=int(seconds), desc="soak", unit="s") as bar:
            while time.monotonic() < end:
                time.sleep(min(SAMPLE, max(0.0, end - time.monotonic())))
                now = time.monotonic() - began
                seen = server.memory(), server.threads(), server.files()
                samples.append(_Sample(now, result.requests, *seen))
                bar.update(int(now) - bar.n)
        _record(result, samples)

    def work(index: int) -> None:
        (observe if not index else good if index <= GOOD else bad)(index)

    clients.together(work, 1 + GOOD + 4)
    result.status = server.stop()
    result.tracebacks = server.log().count("Traceback")
    return result


def _record(result: Soak, samples: Sequence[_Sample]) -> None:
    warm = [sample for sample in samples if sample.seconds >= WARM * result.seconds]
    first, last = warm[0], warm[-1]
    result.memory = (first.memory, last.memory, max(sample.memory for sample in warm))
    result.threads, result.files = (first.threads, last.threads), (first.files, last.files)
    for minute in range(1, int(result.seconds // 60) + 1):
        result.minutes.append([s.memory for s in samples if s.seconds <= 60 * minute + SAMPLE][-1])
    half = [sample for sample in samples if sample.seconds >= result.seconds / 2]
    if len(half) > 1:
        slope, _ = np.polyfit([s.requests / 1000 for s in half], [s.memory for s in half], 1)
        result.growth = float(slope)


def _asked(ask: Client, face: Bytes, restored: Bytes) -> tuple[str, str]:
    try:
        given = ask(face)
    except Exception as error:  # whatever the client raises
        text = str(error)
        return ("refused" if "retry later" in text else "lost"), text
    return ("answered" if np.abs(given - restored).max() <= 1 else "wrong"), ""


def vanish(server: LocalServer, rng: random.Random) -> None:
    """Send part of a request, or all of it, and leave without reading the answer."""
    tensor = {"name": "image", "shape": [1, 16, 16, 3], "datatype": "UINT8", "data": [7] * 768}
    body = json.dumps({"inputs": [tensor]}).encode()
    head = f"POST /v2/models/dic/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    request = head.encode() + body
    _send(server.http, request[: rng.randrange(1, len(request) + 1)])


def garbage(server: LocalServer, rng: random.Random) -> None:
    """Send random bytes to either port."""
    _send(rng.choice((server.http, server.grpc)), rng.randbytes(rng.randrange(1, 4096)), read=True)


def large(server: LocalServer, rng: random.Random) -> None:
    """Send a tensor of 4 MB, of the wrong shape."""
    tensor = {"name": "image", "shape": [1, LARGE], "datatype": "UINT8"}
    header = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": LARGE}}]})
    head = (
        f"POST /v2/models/dic/infer HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        f"Inference-Header-Content-Length: {len(header)}\r\n"
        f"Content-Length: {len(header) + LARGE}\r\n\r\n"
    )
    _send(server.http, (head + header).encode() + bytes(LARGE), read=True)


def trickle(server: LocalServer, rng: random.Random) -> None:
    """Send a request's header byte by byte, and never its end."""
    with _connected(server.http) as connection:
        for byte in b"POST /restore HTTP/1.1\r\nHost: x\r\n":
            connection.sendall(bytes([byte]))
            time.sleep(0.05)


def _connected(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=TIMEOUT)


def _send(address: str, data: bytes, read: bool = False) -> None:
    try:
        with _connected(address) as connection:
            connection.sendall(data)
            while read and connection.recv(65536):
                pass
    except OSError:  # the server may close the connection at any time
        pass
