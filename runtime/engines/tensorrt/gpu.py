"""The GPU's CUDA context, and TensorRT's log messages."""

from __future__ import annotations

import importlib
import logging
from pathlib import Path
from types import ModuleType
from typing import Any

from dic.engine_file import EngineError

log = logging.getLogger(__name__)

_CONTEXTS: dict[int, Any] = {}  # retained primary contexts by CUDA device index


def primary_context(path: Path, index: int) -> tuple[Any, Any]:
    """PyCUDA's driver module, and the GPU's primary context, which other libraries share.

    Args:
        path: the plan, for error messages.
        index: CUDA device index.

    Raises:
        EngineError: PyCUDA cannot be imported, or the GPU does not exist or cannot be used.
    """
    try:
        cuda = importlib.import_module("pycuda.driver")
    except ImportError as error:
        raise EngineError(
            f"{path}: pycuda is not installed or does not match the driver ({error}); "
            "pip install pycuda"
        ) from error
    try:
        cuda.init()
        count = cuda.Device.count()
        if index >= count:
            raise EngineError(
                f"{path}: device cuda:{index} does not exist; this machine has {count} GPUs, "
                "numbered from 0"
            )
        # Retained until the process exits: DeviceArrays may outlive their engine.
        if index not in _CONTEXTS:
            _CONTEXTS[index] = cuda.Device(index).retainprimary_context()
        return cuda, _CONTEXTS[index]
    except cuda.Error as error:
        raise EngineError(
            f"{path}: the GPU cannot be used ({error}); check the NVIDIA driver"
        ) from error


def plan_logger(trt: ModuleType) -> Any:
    """A TensorRT logger that keeps the last error in `last` and forwards messages to `logging`."""

    class Logger(trt.ILogger):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.last = "no reason given"

        def log(self, severity: Any, message: str) -> None:
            line = " ".join(message.split())
            if severity in (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR):
                self.last = line[:300]
            log.debug("%s: %s", severity.name.lower(), line)

    return Logger()
