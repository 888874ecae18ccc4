"""Engines run by ONNX Runtime, on its CPU, CUDA, TensorRT and OpenVINO providers."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

# ONNX Runtime 1.32 reports its use to its maker, and keeps an identifier in the home folder,
# unless this is set before it is imported. Restoring a picture should tell nobody.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import onnxruntime

from dic.engine_file import EngineError, Metadata, TensorInfo
from runtime.engines.arrays import DeviceArray, accept
from runtime.engines.batching import Arrays, Lanes
from runtime.engines.contract import check_contract, check_feed, cores

CPU = "CPUExecutionProvider"
# TensorRT's second: it computes fp32 with TF32's 10 bits of mantissa, which does not verify.
GPU = ("CUDAExecutionProvider", "TensorrtExecutionProvider")
OPENVINO = "OpenVINOExecutionProvider"
SILENT = 4  # ONNX Runtime's severity "fatal": its errors come back as exceptions anyway
DTYPES = {"tensor(uint8)": "uint8", "tensor(float)": "float32", "tensor(float16)": "float16"}


def available(providers: Sequence[str]) -> list[str]:
    """Which of some providers this ONNX Runtime was built with."""
    return [name for name in providers if name in onnxruntime.get_available_providers()]


class OnnxRuntimeEngine:
    """An `Engine`; see `runtime.engines.load.load_engine`.

    Raises:
        EngineError: the provider does not work here, or the file is no DIC engine.
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
        taken: dict[str, Any] = accept(feed, self.device)
        check_feed(self.inputs, taken)
        self._opened()
        try:
            if any(isinstance(array, DeviceArray) for array in taken.values()):
                return self._run_on_device(taken)
            return self._spread(taken)
        except Exception as error:  # ONNX Runtime's exceptions have no common base of their own
            raise EngineError(f"{self.path}: {self.device} failed: {_reason(error)}") from error

    def _opened(self) -> onnxruntime.InferenceSession:
        if self._session is None:
            raise ValueError(f"{self.path}: the engine is closed")
        return self._session

    def _run_batch(self, feed: Arrays) -> Arrays:
        names = [tensor.name for tensor in self.outputs]
        return dict(zip(names, self._opened().run(names, feed), strict=True))

    def _run_on_device(self, feed: Mapping[str, Any]) -> dict[str, DeviceArray]:
        """Read the inputs where they are on the GPU, and leave the outputs there."""
        session = self._opened()
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
    """Threads of the session's pool, of which a run's caller is one; 0 is one for each core."""
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
        settings["use_tf32"] = "0"  # fp32 means fp32; 10 bits of mantissa are not PyTorch's
    if provider == OPENVINO:
        settings |= {"device_type": "CPU", "precision": "FP32"}
        settings |= {"num_of_threads": str(threads)} if threads else {}
    order = [(provider, settings)] + ([] if provider == CPU else [(CPU, {})])
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=order)
    except Exception as error:  # as above
        if provider == CPU and "NOT_IMPLEMENTED" in str(error):
            raise EngineError(
                f"{path}: the CPU has no layers of its precision ({_reason(error)}); run it on "
                "a GPU, or export it with --precision fp32"
            ) from error
        if provider == CPU:
            raise EngineError(f"{path}: not an ONNX model that runs: {_reason(error)}") from error
        raise EngineError(f"{path}: {provider}: {_reason(error)}") from error
    if session.get_providers()[0] != provider:
        raise EngineError(f"{path}: {provider} is installed but does not work here")
    return session


def _reason(error: Exception) -> str:
    """ONNX Runtime's message without its code prefix, in one line."""
    text = " ".join(str(error).split())
    return text.split(" : ", 2)[-1][:200]


def _info(node: onnxruntime.NodeArg) -> TensorInfo:
    shape = tuple(size if isinstance(size, int) else None for size in node.shape)
    return TensorInfo(node.name, DTYPES.get(node.type, node.type), shape)
