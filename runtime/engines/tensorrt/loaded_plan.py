"""A deserialised plan: TensorRT's objects that all its runs share."""

from __future__ import annotations

import threading
from pathlib import Path
from types import ModuleType
from typing import Any

from dic.engine_file import EngineError
from dic.tensorrt_log import plan_logger
from runtime.engines.gpu import Gpu
from runtime.engines.tensorrt.interface import describe
from runtime.engines.tensorrt.library import RTX, check_validity
from runtime.engines.tensorrt.runtime_cache import RuntimeCache


class LoadedPlan:
    """The only strong references to a plan's runtime, engine and configuration.

    Make, use and free it with the GPU's context current: TensorRT's objects are destroyed with
    their last reference, on the GPU that is current then. No other object may keep a reference
    to them, not even a local variable, which an exception's traceback would keep.

    Args:
        path, plan: the plan and its content.
        host_code: allow the plan to run code on the host, which version-compatible plans contain.

    Attributes:
        inputs, outputs, batches: see `Interface`.
        workspace: bytes of GPU memory that an execution context needs.
        captures_itself: the library has CUDA graphs of its own (TensorRT-RTX).
        lock: held while contexts and graphs are made: a library may forbid allocations of other
            threads while it captures.

    Raises:
        EngineError: the plan cannot run here, or is foreign.
    """

    def __init__(
        self, path: Path, trt: ModuleType, label: str, gpu: Gpu, plan: bytes, host_code: bool
    ) -> None:
        self.path, self.gpu, self._trt, self.lock = path, gpu, trt, threading.RLock()
        self.captures_itself = label == RTX
        self._logger = plan_logger(trt)
        self._runtime: Any = None
        self._engine: Any = None
        self._config: Any = None
        self._cache: RuntimeCache | None = None
        try:
            self._load(label, plan, host_code)
        except BaseException:
            self.free()
            raise

    def _load(self, label: str, plan: bytes, host_code: bool) -> None:
        trt, path = self._trt, self.path
        try:
            self._runtime = trt.Runtime(self._logger)
        except (RuntimeError, TypeError) as error:  # the bindings' for a null pointer
            raise EngineError(
                f"{path}: {label} does not start on cuda:{self.gpu.index} ({self.reason}); check "
                "the NVIDIA driver"
            ) from error
        if label == RTX:
            check_validity(path, trt, self._runtime, plan)
        if host_code:
            self._runtime.engine_host_code_allowed = True
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise EngineError(
                f"{path}: {label} {trt.__version__} cannot load the plan ({self.reason}); build it "
                "again on this machine with python -m export.tensorrt"
            )
        found = describe(trt, self._engine).checked(path)
        self.inputs, self.outputs, self.batches = found.inputs, found.outputs, found.batches
        self.workspace = int(self._engine.device_memory_size_v2)
        if self.captures_itself:
            self._configure(plan)

    def _configure(self, plan: bytes) -> None:
        """TensorRT-RTX compiles kernels here: before a run's results count, and only once."""
        trt, gpu = self._trt, self.gpu
        self._config = self._engine.create_runtime_config()
        strategies = trt.DynamicShapesKernelSpecializationStrategy
        self._config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
        self._config.set_execution_context_allocation_strategy(
            trt.ExecutionContextAllocationStrategy.USER_MANAGED
        )
        held = self._config.create_runtime_cache()
        self._cache = RuntimeCache(held, f"{gpu.identity}, {trt.__version__}", plan)
        self.succeeded(self._config.set_runtime_cache(held), "set_runtime_cache")

    def new_context(self, graphs: bool) -> Any:
        """An execution context without memory; the caller holds its only reference.

        Args:
            graphs: TensorRT-RTX captures its runs into CUDA graphs.

        Raises:
            EngineError: TensorRT cannot make one.
        """
        if self._config is None:
            strategy = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
            made = self._engine.create_execution_context(strategy)
        else:
            strategies = self._trt.CudaGraphStrategy
            self._config.cuda_graph_strategy = (
                strategies.WHOLE_GRAPH_CAPTURE if graphs else strategies.DISABLED
            )
            made = self._engine.create_execution_context(self._config)
        if made is None:
            raise EngineError(
                f"{self.path}: no execution context on cuda:{self.gpu.index} ({self.reason}); free "
                "GPU memory, or build the plan with a smaller --max-batch"
            )
        return made

    def succeeded(self, result: Any, what: str) -> None:
        """Check the result of a TensorRT function that returns whether it succeeded.

        Raises:
            EngineError: it did not; the message quotes TensorRT's last error.
        """
        if not result:
            raise EngineError(
                f"{self.path}: TensorRT failed on cuda:{self.gpu.index} in {what} ({self.reason}); "
                "build the plan again, or use another --device"
            )

    @property
    def reason(self) -> str:
        """TensorRT's last error."""
        return self._logger.last

    def save_cache(self) -> None:
        """Keep the kernels that TensorRT-RTX has compiled."""
        if self._cache is not None:
            self._cache.save()

    def free(self) -> None:
        """Destroy TensorRT's objects, dependents first. All contexts must be gone."""
        self._cache = self._config = None
        self._engine = None
        self._runtime = None
