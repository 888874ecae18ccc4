"""Engines run by OpenVINO on the CPU: where a graph was not written for CPUs, the fastest there."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np

# Its converter, which comes along and is not used, reports its use to its maker, and keeps an
# identifier in the home folder, unless this cannot be imported. Restoring a picture should tell
# nobody.
if "openvino_telemetry" not in sys.modules:
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

import openvino

from dic.engine_file import EngineError, Metadata, TensorInfo
from runtime.engines.arrays import accept
from runtime.engines.batching import Arrays, Lanes
from runtime.engines.contract import check_contract, check_feed

# Fastest for one batch at a time, unless lanes are asked for; and in the graph's own precision:
# left to itself OpenVINO computes in bf16 where the CPU can.
SETTINGS = {"PERFORMANCE_HINT": "LATENCY", "EXECUTION_MODE_HINT": "ACCURACY"}
# One for the process, which never goes: its plugin puts the thread that makes it on a stack for
# signals of its own, and frees that when it goes. After another thread's freeing, or that of two
# in the order in which they were made, the next signal (Ctrl-C, or a child's end) was a crash.
_CORE = openvino.Core()
DTYPES = {"u8": "uint8", "f32": "float32", "f16": "float16"}


class OpenVinoEngine:
    """An `Engine`; see `runtime.engines.load.load_engine`.

    Raises:
        EngineError: OpenVINO does not take the file, or it is no DIC engine.
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
            raise EngineError(f"{path}: OpenVINO does not take it: {reason}") from error
        self._model: Any = model
        self.inputs = tuple(map(_info, model.inputs))
        self.outputs = tuple(map(_info, model.outputs))
        self._requests = threading.local()
        self._spread = Lanes(self._run_batch, lanes)
        check_contract(path, metadata, self.inputs, self.outputs)

    def run(self, feed: Mapping[str, Any]) -> dict[str, Any]:
        taken: dict[str, Any] = accept(feed, self.device)
        check_feed(self.inputs, taken)
        self._opened()
        try:
            return self._spread(taken)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1][:200]
            raise EngineError(f"{self.path}: OpenVINO failed: {reason}") from error

    def _opened(self) -> Any:
        if self._model is None:
            raise ValueError(f"{self.path}: the engine is closed")
        return self._model

    def _run_batch(self, feed: Arrays) -> Arrays:
        model = self._opened()
        # A request serves one thread at a time.
        if not hasattr(self._requests, "own"):
            self._requests.own = model.create_infer_request()
        given = self._requests.own.infer(
            {name: np.ascontiguousarray(array) for name, array in feed.items()}
        )
        # The request's own memory is written again by its next run.
        return {tensor.name: given[tensor.name].copy() for tensor in self.outputs}

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
