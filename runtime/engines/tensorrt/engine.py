"""A plan as an engine: loaded, held, run by as many threads as call it."""

from __future__ import annotations

import importlib
import json
import logging
import queue
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import numpy as np

from dic.console import UserError
from dic.driver import has_driver
from dic.engine_file import EngineError, TensorInfo, sidecar
from dic.files import write_whole
from runtime.engines.arrays import DeviceArray, accept
from runtime.engines.contract import check_contract, check_feed
from runtime.engines.tensorrt.execution import Execution
from runtime.engines.tensorrt.gpu import plan_logger, primary_context
from runtime.engines.tensorrt.plan_file import plan_metadata

log = logging.getLogger(__name__)

MODULES = {"TensorRT": "tensorrt", "TensorRT-RTX": "tensorrt_rtx"}
INSTALL = {
    "TensorRT": "pip install tensorrt 'dic-toolkit[gpu]'",
    "TensorRT-RTX": "pip install 'dic-toolkit[rtx,gpu]'",
}
# Why a TensorRT-RTX plan does not fit, by the flags of EngineInvalidityDiagnostics.
MISFITS = {
    "VERSION_MISMATCH": "built by another version",
    "UNSUPPORTED_CC": "not built for this GPU's compute capability",
    "OLD_CUDA_DRIVER": "the driver is too old",
    "OLD_CUDA_RUNTIME": "the CUDA runtime is too old",
    "INSUFFICIENT_GPU_MEMORY": "too little GPU memory",
    "MALFORMED_ENGINE": "the plan is damaged",
    "CUDA_ERROR": "CUDA reports an error",
}


class TensorRTEngine:
    """An `Engine`; see `runtime.engines.load.load_engine`.

    Args:
        label: whose plan it is, a key of MODULES.
        index: of the GPU.

    Raises:
        EngineError: nothing here runs it, and why: no library, no driver, another GPU or version.
    """

    def __init__(self, path: Path, label: str, index: int) -> None:
        self.path, self.device, self._index = path, f"cuda:{index}", index
        self._trt = trt = _library(path, label)
        self.backend = f"{label} {trt.__version__}"
        plan = path.read_bytes()
        self._logger = plan_logger(trt)
        if label == "TensorRT-RTX":  # its header is read without a GPU, and tells most
            _check_fits(path, trt, self._logger, plan)
        self._cuda, self._context = primary_context(path, index)
        self._lanes: queue.LifoQueue[Execution] = queue.LifoQueue()
        self._held: dict[str, Any] = {}
        # Also for whoever forgets to close: TensorRT's objects must go while the GPU's context
        # is current, and before the process does.
        self._release = weakref.finalize(self, _release, self._context, self._lanes, self._held)
        with self._current():
            self._held["runtime"] = runtime = trt.Runtime(self._logger)
            if label == "TensorRT":  # version-compatible plans bring a runtime of their own
                runtime.engine_host_code_allowed = True
            self._held["engine"] = self._plan = runtime.deserialize_cuda_engine(plan)
            if self._plan is None:
                raise EngineError(
                    f"{path}: {self.backend} cannot load the plan: {self._logger.last}; build it "
                    "anew for this machine with python -m export.tensorrt"
                )
            self._held["config"] = self._runtime_config()
        names = [self._plan.get_tensor_name(i) for i in range(self._plan.num_io_tensors)]
        taken = trt.TensorIOMode.INPUT
        self._inputs = [n for n in names if self._plan.get_tensor_mode(n) == taken]
        self.inputs = tuple(self._info(n) for n in names if n in self._inputs)
        self.outputs = tuple(self._info(n) for n in names if n not in self._inputs)
        profile = self._plan.get_tensor_profile_shape(self._inputs[0], 0)
        self.max_batch: int | None = int(profile[2][0])
        self.lanes = 1
        self._min_batch = int(profile[0][0])
        self.metadata = plan_metadata(path, plan, self.inputs, self.outputs)
        check_contract(path, self.metadata, self.inputs, self.outputs)

    def run(self, feed: Mapping[str, Any]) -> dict[str, Any]:
        if not self._release.alive:
            raise ValueError(f"{self.path}: the engine is closed")
        taken = accept(feed, self.device)
        check_feed(self.inputs, taken, self.max_batch)
        batch = next(iter(taken.values())).shape[0]
        on_device = any(isinstance(array, DeviceArray) for array in taken.values())
        try:
            with self._current(), self._lane() as lane:
                return lane.run(taken, batch, on_device)
        except self._cuda.Error as error:
            reason = " ".join(str(error).split())
            raise EngineError(f"{self.path}: {self.device} failed: {reason}") from error

    @contextmanager
    def _lane(self) -> Iterator[Execution]:
        try:
            lane = self._lanes.get_nowait()
        except queue.Empty:
            lane = Execution(self)
        try:
            yield lane
        finally:
            self._lanes.put(lane)

    @contextmanager
    def _current(self) -> Iterator[None]:
        """Within, this thread's calls go to the engine's GPU."""
        self._context.push()
        try:
            yield
        finally:
            self._context.pop()

    def _runtime_config(self) -> Any:
        """TensorRT-RTX captures CUDA graphs itself, one for each batch size."""
        if not hasattr(self._trt, "CudaGraphStrategy"):
            return None
        config = self._plan.create_runtime_config()
        config.cuda_graph_strategy = self._trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        return config

    def _info(self, name: str) -> TensorInfo:
        dtype = np.dtype(self._trt.nptype(self._plan.get_tensor_dtype(name))).name
        shape = tuple(self._plan.get_tensor_shape(name))
        return TensorInfo(name, dtype, (None if shape[0] < 0 else shape[0], *shape[1:]))

    def record_verified(self) -> None:
        """Say in the plan's sidecar that it gave PyTorch's faces, and where."""
        beside = sidecar(self.path)
        with self._current():
            name = self._cuda.Device(self._index).name()
        try:
            entries = json.loads(beside.read_text())
            entries["verified"] = f"{name}, {self.backend}"
            write_whole(beside, (json.dumps(entries, indent=1) + "\n").encode())
        except (OSError, ValueError, UserError) as error:
            log.info("%s: verified, which cannot be recorded: %s", self.path, error)

    def close(self) -> None:
        """Free the GPU's memory. Runs of other threads must have ended."""
        self._plan = None
        self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _release(context: Any, lanes: queue.LifoQueue[Execution], held: dict[str, Any]) -> None:
    """Free what an engine holds, in the order in which its parts need each other."""
    context.push()
    try:
        while not lanes.empty():
            lanes.get_nowait().free()
        for name in ("config", "engine", "runtime"):
            held.pop(name, None)
    finally:
        context.pop()


def _library(path: Path, label: str) -> ModuleType:
    """The module that runs a label's plans."""
    name = MODULES[label]
    try:
        found = importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise EngineError(
            f"{path}: a {label} plan, and {name} is not installed; {INSTALL[label]}"
        ) from error
    except (ImportError, OSError, RuntimeError) as error:
        raise EngineError(f"{path}: {name} is installed but does not load: {error}") from error
    if label == "TensorRT" and not has_driver():  # it would end the process
        raise EngineError(f"{path}: a {label} plan, and no NVIDIA driver works here")
    return found


def _check_fits(path: Path, trt: ModuleType, logger: Any, plan: bytes) -> None:
    """Raise EngineError where a TensorRT-RTX plan cannot run here, by its header."""
    runtime = trt.Runtime(logger)
    validity, flags = runtime.get_engine_validity(plan)
    known = trt.EngineInvalidityDiagnostics.__members__
    reasons = [MISFITS.get(name, name) for name, flag in known.items() if int(flags) & int(flag)]
    if not has_driver():
        # Without one every plan meets a CUDA error, which is nothing to blame the plan for.
        reasons = [reason for reason in reasons if reason != MISFITS["CUDA_ERROR"]]
        reasons.append("no NVIDIA driver works here")
    elif validity != trt.EngineValidity.INVALID:
        if reasons:
            log.info("%s: %s", path, "; ".join(reasons))
        return
    raise EngineError(
        f"{path}: a TensorRT-RTX plan that cannot run here: {'; '.join(reasons) or 'invalid'}"
    )
