"""The library that runs a plan: its import, and whether it takes the plan."""

from __future__ import annotations

import importlib
import logging
from pathlib import Path
from types import ModuleType
from typing import Any

from dic.driver import has_driver
from dic.engine_file import EngineError
from dic.tensorrt_log import plan_logger

log = logging.getLogger(__name__)

RTX = "TensorRT-RTX"
MODULES = {"TensorRT": "tensorrt", RTX: "tensorrt_rtx"}
INSTALL = {
    "TensorRT": "pip install tensorrt 'dic-toolkit[gpu]'",
    RTX: "pip install 'dic-toolkit[rtx,gpu]'",
}
# Why a TensorRT-RTX plan cannot run, by the flags of TensorRT-RTX's EngineInvalidityDiagnostics.
INVALIDITY = {
    "VERSION_MISMATCH": "built by another version of TensorRT-RTX",
    "UNSUPPORTED_CC": "not built for this GPU's compute capability",
    "OLD_CUDA_DRIVER": "the CUDA driver is too old",
    "OLD_CUDA_RUNTIME": "the CUDA runtime is too old",
    "INSUFFICIENT_GPU_MEMORY": "not enough GPU memory",
    "MALFORMED_ENGINE": "the plan is damaged",
    "CUDA_ERROR": "CUDA reports an error",
}


def open_library(path: Path, label: str, plan: bytes) -> ModuleType:
    """Import the module that runs a library's plans, on a machine with a driver.

    Args:
        path, plan: the plan and its content.
        label: the library that built it, a key of MODULES.

    Raises:
        EngineError: the module is not installed or cannot be imported, or there is no driver.
    """
    name = MODULES[label]
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise EngineError(
            f"{path}: a {label} plan, but {name} is not installed; {INSTALL[label]}"
        ) from error
    except (ImportError, OSError, RuntimeError) as error:
        raise EngineError(
            f"{path}: {name} is installed but cannot be imported ({error}); reinstall it"
        ) from error
    if not has_driver():  # TensorRT would abort the process
        if label == RTX:  # tells what else is wrong with the plan
            runtime = module.Runtime(plan_logger(module))
            _refuse(path, [*_reasons(module, runtime, plan)[1], "no NVIDIA driver works here"])
        raise EngineError(f"{path}: a {label} plan, but no NVIDIA driver works here; install one")
    return module


def check_validity(path: Path, trt: ModuleType, runtime: Any, plan: bytes) -> None:
    """Check a TensorRT-RTX plan by its header, with the target GPU's context current.

    Raises:
        EngineError: it cannot run; the message lists the reasons.
    """
    validity, reasons = _reasons(trt, runtime, plan)
    if validity == trt.EngineValidity.INVALID:
        _refuse(path, reasons or ["invalid"])
    if reasons:
        log.info("%s: %s", path, "; ".join(reasons))


def _reasons(trt: ModuleType, runtime: Any, plan: bytes) -> tuple[Any, list[str]]:
    """The validity of a plan on the current GPU, and why it is not better."""
    validity, flags = runtime.get_engine_validity(plan)
    known = trt.EngineInvalidityDiagnostics.__members__
    found = [INVALIDITY.get(name, name) for name, flag in known.items() if int(flags) & int(flag)]
    if not has_driver():  # then every plan reports a CUDA error, which is not the plan's fault
        found = [reason for reason in found if reason != INVALIDITY["CUDA_ERROR"]]
    return validity, found


def _refuse(path: Path, reasons: list[str]) -> None:
    raise EngineError(
        f"{path}: this TensorRT-RTX plan cannot run here ({'; '.join(reasons)}); run its ONNX "
        "file, or build the plan again for this machine"
    )
