"""The interface of a loaded engine, independent of the library that runs it.

`runtime.engines.load` chooses the library.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, Self

from dic.engine_file import EngineError, Metadata, TensorInfo
from dic.sizes import HEATMAP_SIZE, LQ_SIZE

# A compact DIC; its training and accuracy are in the JSON beside it.
SHIPPED = Path(__file__).parents[1] / "models" / "dic-photoreal.onnx"


class Engine(Protocol):
    """A loaded engine. Thread-safe: several threads may call `run` at once."""

    path: Path
    metadata: Metadata
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    device: str  # "cpu" or "cuda:N"
    backend: str  # human-readable, such as "ONNX Runtime 1.32.0 CPUExecutionProvider"
    max_batch: int | None  # largest batch; None without a limit
    lanes: int  # number of parallel runs that gives the highest throughput
    # Engines that also take `runtime.engines.arrays.Stacked` have an attribute `gpu`, the
    # `runtime.engines.gpu.Gpu` that they run on: photographs are then processed there.

    def run(self, feed: Mapping[str, Any]) -> dict[str, Any]:
        """Run one batch.

        Args:
            feed: one array per input, of its dtype and shape, with a batch of 1 to `max_batch`.
                NumPy arrays, or arrays of any library that supports DLPack or
                `__cuda_array_interface__` (PyTorch, CuPy, JAX, Numba); arrays on the engine's GPU
                are read in place.

        Returns:
            one array per output: NumPy arrays for inputs in host memory,
            `runtime.engines.arrays.DeviceArray` for inputs on the GPU.

        Raises:
            ValueError: an input is missing, unknown, on another device, or of the wrong dtype or
                shape; or the engine is closed.
            EngineError: the device failed, for example by running out of memory.
        """
        ...

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...


def check_contract(
    path: Path,
    metadata: Metadata,
    inputs: tuple[TensorInfo, ...],
    outputs: tuple[TensorInfo, ...],
) -> None:
    """Check that an engine's inputs and outputs match its metadata (docs/reference/engine.md).

    Raises:
        EngineError: they differ; the message lists both.
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
        raise EngineError(
            f"{path}: its input is {_listed(inputs)}, but its metadata requires {wanted_input}; "
            "export it again"
        )
    if set(outputs) != wanted:
        required = _listed(tuple(sorted(wanted, key=lambda tensor: tensor.name)))
        raise EngineError(
            f"{path}: its outputs are {_listed(outputs)}, but its metadata requires {required}; "
            "export it again"
        )


def _listed(tensors: tuple[TensorInfo, ...]) -> str:
    return ", ".join(map(str, tensors)) or "missing"


def check_feed(
    inputs: tuple[TensorInfo, ...], feed: Mapping[str, Any], max_batch: int | None = None
) -> None:
    """Check arrays against the engine's inputs.

    Args:
        feed: objects with a NumPy `dtype` and a `shape`, by input name.
        max_batch: largest batch; None without a limit.

    Raises:
        ValueError: a name, dtype, shape or batch size does not match.
    """
    names = {tensor.name for tensor in inputs}
    if set(feed) != names:
        raise ValueError(f"the engine expects {_listed(inputs)}, got inputs {sorted(feed)}")
    for tensor in inputs:
        array = feed[tensor.name]
        fits = array.dtype.name == tensor.dtype and len(array.shape) == len(tensor.shape)
        fits = fits and all(
            have == want or (want is None and have > 0)
            for have, want in zip(array.shape, tensor.shape, strict=True)
        )
        if not fits:
            raise ValueError(
                f"the engine expects {tensor}, got {array.dtype.name} {list(array.shape)}"
            )
        if max_batch is not None and array.shape[0] > max_batch:
            raise ValueError(
                f"the engine accepts batches of up to {max_batch}, got {array.shape[0]}; split the "
                "batch, or build the plan with a larger --max-batch"
            )
