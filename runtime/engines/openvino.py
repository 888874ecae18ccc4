"""ONNX files run by OpenVINO on the CPU, the fastest there unless exported with `--target cpu`."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np

from dic.engine_file import EngineError, Metadata, TensorInfo
from runtime.engines.arrays import accept
from runtime.engines.batching import Arrays, Lanes
from runtime.engines.contract import check_contract, check_feed
from runtime.engines.environment import environment

# OpenVINO 2026.4 sends a usage event, and stores a client ID in the home folder, when it is
# imported without an opt-out; its telemetry package sends nothing from CI jobs.
with environment("CI", "true"):
    import openvino

# LATENCY is fastest for one batch at a time; NUM_STREAMS overrides it for several lanes. ACCURACY
# keeps the graph's precision: by default OpenVINO computes in bf16 on CPUs that support it.
SETTINGS = {"PERFORMANCE_HINT": "LATENCY", "EXECUTION_MODE_HINT": "ACCURACY"}
# One per process, never destroyed: the CPU plugin gives the thread that creates a Core an
# alternate signal stack and frees that stack with the Core. If another thread destroyed it, or two
# were destroyed in order of creation, the next signal (Ctrl-C, SIGCHLD) crashed the process.
_CORE = openvino.Core()
DTYPES = {"u8": "uint8", "f32": "float32", "f16": "float16"}


class OpenVinoEngine:
    """An `Engine` run by OpenVINO's CPU plugin.

    Args:
        path: the ONNX file.
        metadata: the file's `dic.*` metadata.
        threads: CPU threads to use; None uses all cores.
        lanes: parallel runs (OpenVINO's streams).

    Raises:
        EngineError: OpenVINO cannot compile the file, or it is not a DIC engine.
    """

    max_batch: int | None = None
    device = "cpu"

    def __init__(self, path: Path, metadata: Metadata, threads: int | None, lanes: int = 1) -> None:
        self.path, self.metadata, self.lanes = path, metadata, lanes
        version = openvino.get_version().partition("-")[0]
        self.backend = f"OpenVINO {version}"
        settings = SETTINGS | ({"INFERENCE_NUM_THREADS": str(threads)} if threads else {})
        settings |= {"NUM_STREAMS": str(lanes)} if lanes > 1 else {}
        try:
            model = _CORE.compile_model(str(path), "CPU", settings)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1][:200]
            raise EngineError(
                f"{path}: OpenVINO cannot compile it ({reason}); use --device cpu, or export it "
                "again"
            ) from error
        self._model: Any = model
        self.inputs = tuple(map(_info, model.inputs))
        self.outputs = tuple(map(_info, model.outputs))
        self._requests = threading.local()
        self._spread = Lanes(self._run_batch, lanes)
        check_contract(path, metadata, self.inputs, self.outputs)

    def run(self, feed: Mapping[str, Any]) -> dict[str, Any]:
        arrays: dict[str, Any] = accept(feed, self.device)
        check_feed(self.inputs, arrays)
        self._opened()
        try:
            return self._spread(arrays)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1][:200]
            raise EngineError(
                f"{self.path}: OpenVINO failed ({reason}); try a smaller batch or --device cpu"
            ) from error

    def _opened(self) -> Any:
        if self._model is None:
            raise ValueError(f"{self.path}: the engine is closed")
        return self._model

    def _run_batch(self, feed: Arrays) -> Arrays:
        model = self._opened()
        # An infer request is not thread-safe.
        if not hasattr(self._requests, "own"):
            self._requests.own = model.create_infer_request()
        results = self._requests.own.infer(
            {name: np.ascontiguousarray(array) for name, array in feed.items()}
        )
        # The request's next run overwrites its output tensors.
        return {tensor.name: results[tensor.name].copy() for tensor in self.outputs}

    def close(self) -> None:
        self._spread.close()
        self._model = None
        self._requests = threading.local()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _info(port: Any) -> TensorInfo:
    kind = port.get_element_type().get_type_name()
    shape = tuple(
        None if size.is_dynamic else size.get_length() for size in port.get_partial_shape()
    )
    return TensorInfo(port.get_any_name(), DTYPES.get(kind, kind), shape)
