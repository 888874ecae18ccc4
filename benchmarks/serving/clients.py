"""Clients of a server: Triton's own, unchanged, and the engine without a server."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.engines.batching import Batcher
from runtime.engines.contract import Engine

Bytes = NDArray[np.uint8]
# Restores faces (B, 16, 16, 3) uint8 RGB to (B, 128, 128, 3); raises if that fails.
Client = Callable[[Bytes], Bytes]
# Makes a client for one thread.
Factory = Callable[[], Client]

WAIT = 120.0  # seconds, for an answer


def http(address: str, model: str = "dic") -> Client:
    """Triton's HTTP client, with binary tensors."""
    import tritonclient.http as triton

    client = triton.InferenceServerClient(address, network_timeout=WAIT, connection_timeout=WAIT)
    return _triton(triton, client.infer, model)


def grpc(address: str, model: str = "dic") -> Client:
    """Triton's gRPC client."""
    import tritonclient.grpc as triton

    client = triton.InferenceServerClient(address)
    return _triton(triton, client.infer, model)


def _triton(library: Any, infer: Callable[..., Any], model: str) -> Client:
    outputs = [library.InferRequestedOutput("face")]

    def ask(faces: Bytes) -> Bytes:
        tensor = library.InferInput("image", list(faces.shape), "UINT8")
        tensor.set_data_from_numpy(faces)
        return np.asarray(infer(model, [tensor], outputs=outputs).as_numpy("face"))

    return ask


def in_process(engine: Engine) -> Factory:
    """The engine itself, whose callers share batches as in the library."""

    def run(items: Sequence[Bytes]) -> list[Bytes]:
        face = np.asarray(engine.run({"image": np.concatenate(items)})["face"])
        return [face[i : i + 1] for i in range(len(items))]

    batcher = Batcher(run, engine.max_batch or 32, engine.lanes)
    return lambda: lambda faces: np.concatenate(batcher([face[None] for face in faces]))


def together(work: Callable[[int], None], count: int) -> None:
    """Call `work(0)` … `work(count - 1)` in threads, and raise the first error of any."""
    errors: list[BaseException] = []

    def call(index: int) -> None:
        try:
            work(index)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=call, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
