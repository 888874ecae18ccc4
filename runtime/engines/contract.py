"""What an engine is, whatever runs it. `runtime.engines.load` picks what runs it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, Self

from dic.engine_file import EngineError, Metadata, TensorInfo
from dic.sizes import HEATMAP_SIZE, LQ_SIZE

# A compact DIC trained on synthetic faces; how and with what result is in the JSON beside it.
SHIPPED = Path(__file__).parents[1] / "models" / "dic-synthetic.onnx"


class Engine(Protocol):
    """A loaded engine. Thread-safe: `run` may be called from several threads at once."""

    path: Path
    metadata: Metadata
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    device: str  # "cpu" or "cuda:N"
    backend: str  # what runs it, for people to read: "ONNX Runtime 1.32.0 CPUExecutionProvider"
    max_batch: int | None  # most faces a run; None where any number will do
    lanes: int  # runs at once by which it gives most faces a second

    def run(self, feed: Mapping[str, Any]) -> dict[str, Any]:
        """Run one batch.

        Args:
            feed: an array for each input, of its dtype and shape; any batch from 1 to
                `max_batch`. NumPy's, or of any library by DLPack or `__cuda_array_interface__`
                (PyTorch, CuPy, JAX, Numba); one on the engine's device is used where it is.

        Returns:
            an array for each output: NumPy's for arrays in the computer's memory,
            `runtime.engines.arrays.DeviceArray`s for arrays on the device.

        Raises:
            ValueError: an input is missing, unknown, of another dtype or shape, or on another
                device; or the engine is closed.
            EngineError: the device failed: out of memory, for one.
        """
        ...

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...


def cores() -> int:
    """The CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_contract(
    path: Path,
    metadata: Metadata,
    inputs: tuple[TensorInfo, ...],
    outputs: tuple[TensorInfo, ...],
) -> None:
    """Refuse an engine whose inputs or outputs are not those its metadata promises.

    Raises:
        EngineError: names what it has and what it should have.
    """
    size, side, k = LQ_SIZE, LQ_SIZE * metadata.scale, metadata.landmarks
    if metadata.io == "image":
        wanted_input = TensorInfo("image", "uint8", (None, size, size, 3))
        wanted = {TensorInfo("face", "uint8", (None, side, side, 3))}
        if k:
            wanted.add(TensorInfo("landmarks", "float32", (None, k, 2)))
            wanted.add(TensorInfo("scores", "float32", (None, k)))
    else:
        wanted_input = TensorInfo("lq", "float32", (None, 3, size, size))
        every = any(tensor.name == "sr_0" for tensor in outputs)  # --all-steps
        marks = [f"_{i}" for i in range(metadata.steps)] if every else [""]
        wanted = {TensorInfo(f"sr{mark}", "float32", (None, 3, side, side)) for mark in marks}
        if k:
            maps = (None, k, HEATMAP_SIZE, HEATMAP_SIZE)
            wanted |= {TensorInfo(f"heatmap{mark}", "float32", maps) for mark in marks}
    if inputs != (wanted_input,):
        raise EngineError(f"{path}: takes {_listed(inputs)}; a DIC engine takes {wanted_input}")
    if set(outputs) != wanted:
        raise EngineError(f"{path}: gives {_listed(outputs)}; its metadata promises otherwise")


def _listed(tensors: tuple[TensorInfo, ...]) -> str:
    return ", ".join(map(str, tensors)) or "nothing"


def check_feed(
    inputs: tuple[TensorInfo, ...], feed: Mapping[str, Any], max_batch: int | None = None
) -> None:
    """Raise ValueError, in one line, where arrays do not fit `inputs`.

    Args:
        feed: objects with `dtype` (NumPy's) and `shape`.
    """
    names = {tensor.name for tensor in inputs}
    if set(feed) != names:
        raise ValueError(f"the engine takes {_listed(inputs)}, not {sorted(feed)}")
    for tensor in inputs:
        array = feed[tensor.name]
        fits = array.dtype.name == tensor.dtype and len(array.shape) == len(tensor.shape)
        fits = fits and all(
            have == want or (want is None and have > 0)
            for have, want in zip(array.shape, tensor.shape, strict=True)
        )
        if not fits:
            raise ValueError(
                f"the engine takes {tensor}, not {array.dtype.name} {list(array.shape)}"
            )
        if max_batch is not None and array.shape[0] > max_batch:
            raise ValueError(
                f"the engine takes batches of up to {max_batch}, not {array.shape[0]} "
                "(--max-batch when it is built)"
            )
