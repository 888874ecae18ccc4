"""Engines run by ONNX Runtime: on its CPU, CUDA and TensorRT providers, by what is installed."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

# ONNX Runtime 1.32 reports its use to its maker, and keeps an identifier in the home folder,
# unless this is set before it is imported. Restoring a picture should tell nobody.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime
from numpy.typing import NDArray

from runtime.engine import EngineError, Metadata, TensorInfo, check_contract, check_feed

log = logging.getLogger(__name__)

CPU = "CPUExecutionProvider"
# TensorRT's second: it computes fp32 with TF32's 10 bits of mantissa, which does not verify.
GPU = ("CUDAExecutionProvider", "TensorrtExecutionProvider")
SILENT = 4  # ONNX Runtime's severity "fatal": its errors come back as exceptions anyway
DTYPES = {"tensor(uint8)": "uint8", "tensor(float)": "float32", "tensor(float16)": "float16"}


class OnnxRuntimeEngine:
    """An `Engine`; see `runtime.engine.load_engine`."""

    def __init__(self, path: Path, device: str, index: int) -> None:
        self.path = path
        self._session: onnxruntime.InferenceSession | None
        provider, self._session = _open(path, device, index)
        self.device = "cpu" if provider == CPU else f"cuda:{index}"
        self.backend = f"ONNX Runtime {onnxruntime.__version__} {provider}"
        self.metadata = Metadata.parse(path, self._session.get_modelmeta().custom_metadata_map)
        self.inputs = tuple(map(_info, self._session.get_inputs()))
        self.outputs = tuple(map(_info, self._session.get_outputs()))
        check_contract(path, self.metadata, self.inputs, self.outputs)

    def run(self, feed: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        if self._session is None:
            raise ValueError(f"{self.path}: the engine is closed")
        check_feed(self.inputs, feed)
        names = [tensor.name for tensor in self.outputs]
        return dict(zip(names, self._session.run(names, dict(feed)), strict=True))

    def close(self) -> None:
        self._session = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _open(path: Path, device: str, index: int) -> tuple[str, onnxruntime.InferenceSession]:
    """The first provider that works, and a session on it; what does not work is logged."""
    available = onnxruntime.get_available_providers()
    candidates = [name for name in GPU if name in available] if device != "cpu" else []
    if device in ("auto", "cpu"):
        candidates.append(CPU)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = SILENT
    reasons: list[str] = []
    for provider in candidates:
        settings: dict[str, Any] = {} if provider == CPU else {"device_id": index}
        if provider == "CUDAExecutionProvider":
            settings["use_tf32"] = "0"  # fp32 means fp32; 10 bits of mantissa are not PyTorch's
        order = [(provider, settings)] + ([] if provider == CPU else [(CPU, {})])
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=order)
        except Exception as error:  # ONNX Runtime's exceptions have no common base of their own
            if provider == CPU and "NOT_IMPLEMENTED" in str(error):
                raise EngineError(
                    f"{path}: the CPU has no layers of its precision ({_reason(error)}); run it on "
                    "a GPU, or export it with --precision fp32"
                ) from error
            if provider == CPU or "INVALID_PROTOBUF" in str(error):
                raise EngineError(
                    f"{path}: not an ONNX model that runs: {_reason(error)}"
                ) from error
            reasons.append(f"{provider}: {_reason(error)}")
            log.info("%s", reasons[-1])
            continue
        if session.get_providers()[0] == provider:
            return provider, session
        log.info("%s is installed but does not work here", provider)
    if reasons:
        raise EngineError(f"{path}: device {device} does not work: {'; '.join(reasons)}")
    raise EngineError(
        f"device {device}: ONNX Runtime {onnxruntime.__version__} has no working GPU provider here "
        f"(it has {', '.join(available)}); install dic-toolkit[gpu], or use --device cpu"
    )


def _reason(error: Exception) -> str:
    """ONNX Runtime's message without its code prefix, in one line."""
    text = " ".join(str(error).split())
    return text.split(" : ", 2)[-1][:200]


def _info(node: onnxruntime.NodeArg) -> TensorInfo:
    shape = tuple(size if isinstance(size, int) else None for size in node.shape)
    return TensorInfo(node.name, DTYPES.get(node.type, node.type), shape)
