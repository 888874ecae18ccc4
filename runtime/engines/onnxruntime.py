"""ONNX files run by ONNX Runtime on its CPU, CUDA, TensorRT and OpenVINO execution providers."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np

from dic.cores import cores
from dic.engine_file import EngineError, Metadata, TensorInfo
from runtime.engines.arrays import LEGACY_STREAM, DeviceArray, accept, wait_for
from runtime.engines.batching import Arrays, Lanes
from runtime.engines.contract import check_contract, check_feed
from runtime.engines.environment import environment

# ONNX Runtime 1.32 starts its telemetry, and stores a device ID in the home folder, when it is
# imported without this variable. A value set by the user takes precedence.
with environment("ORT_DISABLE_TELEMETRY", os.environ.get("ORT_DISABLE_TELEMETRY", "1")):
    import onnxruntime

CPU = "CPUExecutionProvider"
# In order of preference. The TensorRT provider computes fp32 in TF32 (10-bit mantissa), which
# fails verification.
GPU = ("CUDAExecutionProvider", "TensorrtExecutionProvider")
OPENVINO = "OpenVINOExecutionProvider"
SILENT = 4  # log severity "fatal": errors are raised as exceptions as well
DTYPES = {"tensor(uint8)": "uint8", "tensor(float)": "float32", "tensor(float16)": "float16"}


def available(providers: Sequence[str]) -> list[str]:
    """The given execution providers that this build of ONNX Runtime includes."""
    return [name for name in providers if name in onnxruntime.get_available_providers()]


class OnnxRuntimeEngine:
    """An `Engine` run by one ONNX Runtime execution provider.

    Args:
        path: the ONNX file.
        metadata: the file's `dic.*` metadata.
        provider: name of the execution provider.
        index: of the GPU; ignored by providers that run on the CPU.
        threads: CPU threads to use; None uses all cores.
        lanes: runs that share the CPU's threads; the other providers always have one.

    Raises:
        EngineError: the provider does not work on this machine, or the file is not a DIC engine.
    """

    max_batch: int | None = None

    def __init__(
        self,
        path: Path,
        metadata: Metadata,
        provider: str,
        index: int,
        threads: int | None,
        lanes: int = 1,
    ) -> None:
        self.path, self.metadata, self._index = path, metadata, index
        self.lanes = lanes if provider == CPU else 1
        self._session: onnxruntime.InferenceSession | None
        self._session = _open(path, provider, index, _pool(threads, self.lanes))
        self._spread = Lanes(self._run_batch, self.lanes)
        self.device = f"cuda:{index}" if provider in GPU else "cpu"
        self.backend = f"ONNX Runtime {onnxruntime.__version__} {provider}"
        self.inputs = tuple(map(_info, self._session.get_inputs()))
        self.outputs = tuple(map(_info, self._session.get_outputs()))
        check_contract(path, self.metadata, self.inputs, self.outputs)

    def run(self, feed: Mapping[str, Any]) -> dict[str, Any]:
        arrays: dict[str, Any] = accept(feed, self.device)
        check_feed(self.inputs, arrays)
        self._opened()
        if any(isinstance(array, DeviceArray) for array in arrays.values()):
            return self._run_on_device(arrays)
        return self._spread(arrays)

    def _opened(self) -> onnxruntime.InferenceSession:
        if self._session is None:
            raise ValueError(f"{self.path}: the engine is closed")
        return self._session

    @contextmanager
    def _device_errors(self) -> Iterator[None]:
        """Turn ONNX Runtime's exceptions into `EngineError`s."""
        try:
            yield
        except Exception as error:  # ONNX Runtime's exceptions have no common base class
            raise EngineError(
                f"{self.path}: failed on {self.device} ({_reason(error)}); try a smaller batch or "
                "another --device"
            ) from error

    def _run_batch(self, feed: Arrays) -> Arrays:
        session, names = self._opened(), [tensor.name for tensor in self.outputs]
        with self._device_errors():
            results = session.run(names, feed)
        return dict(zip(names, results, strict=True))

    def _run_on_device(self, feed: Mapping[str, Any]) -> dict[str, DeviceArray]:
        """Run with the inputs and outputs in GPU memory, without copies to the host."""
        session = self._opened()
        # ONNX Runtime has a stream of its own; the producers' must have finished.
        given = (array.stream for array in feed.values() if isinstance(array, DeviceArray))
        wait_for(self._index, {LEGACY_STREAM, *(s for s in given if s is not None)})
        with self._device_errors():
            binding = session.io_binding()
            for name, array in feed.items():
                binding.bind_input(
                    name, "cuda", self._index, array.dtype.type, array.shape, array.pointer
                )
            for tensor in self.outputs:
                binding.bind_output(tensor.name, "cuda", self._index)
            session.run_with_iobinding(binding)
            binding.synchronize_outputs()
        return {
            tensor.name: DeviceArray(
                value.data_ptr(), tuple(value.shape()), np.dtype(tensor.dtype), self._index, value
            )
            for value, tensor in zip(binding.get_outputs(), self.outputs, strict=True)
        }

    def close(self) -> None:
        self._spread.close()
        self._session = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _pool(threads: int | None, lanes: int) -> int:
    """Size of the session's thread pool, counting the calling thread; 0 means one per core."""
    if lanes == 1:
        return threads or 0
    return max(1, (threads or cores()) - lanes + 1)


def _open(path: Path, provider: str, index: int, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = SILENT
    options.intra_op_num_threads = threads
    settings: dict[str, Any] = {}
    if provider in GPU:
        settings["device_id"] = index
    if provider == "CUDAExecutionProvider":
        settings["use_tf32"] = "0"  # TF32's 10-bit mantissa would not match PyTorch's fp32
    if provider == OPENVINO:
        settings |= {"device_type": "CPU", "precision": "FP32"}
        settings |= {"num_of_threads": str(threads)} if threads else {}
    order = [(provider, settings)] + ([] if provider == CPU else [(CPU, {})])
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=order)
    except Exception as error:  # ONNX Runtime's exceptions have no common base class
        if provider == CPU and "NOT_IMPLEMENTED" in str(error):
            raise EngineError(
                f"{path}: ONNX Runtime has no CPU kernels for its precision ({_reason(error)}); "
                "run it on a GPU, or export it with --precision fp32"
            ) from error
        if provider == CPU:
            raise EngineError(
                f"{path}: not an ONNX model that ONNX Runtime can load ({_reason(error)}); "
                "export it again"
            ) from error
        raise EngineError(
            f"{path}: {provider} cannot load it ({_reason(error)}); choose another --device"
        ) from error
    if session.get_providers()[0] != provider:
        raise EngineError(
            f"{path}: {provider} is installed but does not work on this machine; check its "
            "driver and libraries, or choose another --device"
        )
    return session


def _reason(error: Exception) -> str:
    """ONNX Runtime's message without its error code, on one line, at most 200 characters."""
    text = " ".join(str(error).split())
    return text.split(" : ", 2)[-1][:200]


def _info(node: onnxruntime.NodeArg) -> TensorInfo:
    shape = tuple(size if isinstance(size, int) else None for size in node.shape)
    return TensorInfo(node.name, DTYPES.get(node.type, node.type), shape)
