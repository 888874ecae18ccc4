"""Stand-ins for the runtime classes of `tensorrt` and `tensorrt_rtx`.

Signatures are those of TensorRT-RTX 1.7.1, which `test_signatures.py` compares with the installed
module. A plan is computed by ONNX Runtime on the ONNX file in it, when its stream is waited for.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from .machine import Machine
from .objects import EXECUTION_TIME, Gpu, SimulatedError
from .plan import HEADER_SIZE, VERSION, SimulatedPlan
from .tensorrt_types import (
    DTYPES,
    CudaGraphStrategy,
    DataType,
    DynamicShapesKernelSpecializationStrategy,
    EngineInvalidityDiagnostics,
    EngineValidity,
    ExecutionContextAllocationStrategy,
    ILogger,
    Severity,
    TensorFormat,
    TensorIOMode,
    TensorLocation,
    nptype,
)

CAPTURE_BEFORE_RUN = "a graph captured before an ordinary run of the same shapes"


@cache
def session(model: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


# What `test_signatures.py` compares; in NUMBERED the numbers matter, as flags are tested by bit.
CLASSES = (
    "Runtime", "ICudaEngine", "IExecutionContext", "IRuntimeConfig", "IRuntimeCache", "DataType",
    "TensorIOMode", "TensorLocation", "TensorFormat", "CudaGraphStrategy", "EngineValidity",
    "DynamicShapesKernelSpecializationStrategy", "ExecutionContextAllocationStrategy",
    "EngineInvalidityDiagnostics",
)  # fmt: skip
NUMBERED = ("EngineInvalidityDiagnostics",)


def make(machine: Machine, name: str) -> ModuleType:
    """The module `tensorrt` or `tensorrt_rtx`, for one machine."""
    module: Any = ModuleType(name)
    module.__version__ = VERSION
    shared = (
        TensorIOMode, TensorLocation, TensorFormat, DataType, ILogger, nptype,
        ExecutionContextAllocationStrategy, ICudaEngine, IExecutionContext,
    )  # fmt: skip
    only_rtx = (
        CudaGraphStrategy, DynamicShapesKernelSpecializationStrategy, EngineValidity,
        EngineInvalidityDiagnostics, IRuntimeConfig, IRuntimeCache,
    )  # fmt: skip
    for thing in (*shared, *(only_rtx if name == "tensorrt_rtx" else ())):
        setattr(module, thing.__name__, thing)
    base = RtxRuntime if name == "tensorrt_rtx" else Runtime
    module.Runtime = type("Runtime", (base,), {"machine": machine, "module": name})
    return module


class Destroyed:
    """A TensorRT object: destroyed with its last reference, while its GPU must be current."""

    machine: Machine
    gpu: Gpu

    def _live(self) -> None:
        self.machine.live.add(id(self))

    def __del__(self) -> None:
        if hasattr(self, "gpu"):
            self.machine.live.discard(id(self))
            self.machine.must_be_current(self.gpu, type(self).__name__)


class Runtime(Destroyed):
    module: str
    engine_header_size = HEADER_SIZE

    def __init__(self, logger: ILogger) -> None:
        if not isinstance(logger, ILogger):
            raise TypeError("incompatible constructor arguments")
        self.logger, self.engine_host_code_allowed = logger, False
        if not self.machine.stack:  # the real one takes the first GPU; enough to read headers
            return
        try:
            gpu = self.machine.current()
        except SimulatedError as error:
            logger.log(Severity.ERROR, f"CUDA initialization failure with error: {error}")
            gpu = None
        if gpu is None:
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self.gpu = gpu
        self._live()

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        gpu = self.machine.current()
        plan = SimulatedPlan.from_bytes(bytes(serialized_engine))
        why = ""
        if plan is None or plan.module != self.module:
            why = "Serialization assertion failed: stdVersionRead == kSERIALIZATION_VERSION"
        elif plan.version != VERSION and not plan.host_code:
            why = f"The engine plan file was built with version {plan.version}, not {VERSION}"
        elif plan.capability not in (None, gpu.capability):
            why = "The engine plan file is generated on an incompatible device"
        elif plan.host_code and not self.engine_host_code_allowed:
            why = "Plan contains host code, which is not allowed: engineHostCodeAllowed is false"
        if why:
            self.logger.log(Severity.ERROR, f"IRuntime::deserializeCudaEngine: Error Code 1: {why}")
            return None
        assert plan is not None
        try:
            weights = self.machine.allocate(len(plan.onnx))
        except SimulatedError as error:
            self.logger.log(Severity.ERROR, f"deserializeCudaEngine: Error Code 2: {error}")
            return None
        return ICudaEngine(self, gpu, plan, weights)


class RtxRuntime(Runtime):
    def get_engine_validity(self, buffer: bytes) -> tuple[EngineValidity, int]:
        header = bytes(buffer)[:HEADER_SIZE]
        if len(header) < HEADER_SIZE or header[:4] != b"vtrt":
            return EngineValidity.INVALID, int(EngineInvalidityDiagnostics.MALFORMED_ENGINE)
        return EngineValidity.VALID, 0


class IRuntimeCache:
    def __init__(self, machine: Machine) -> None:
        self._machine, self._environment = machine, machine.current().name
        self.compiled: set[str] = set()

    def serialize(self) -> bytes:
        return json.dumps([self._environment, VERSION, sorted(self.compiled)]).encode()

    def deserialize(self, blob: bytes) -> bool:
        with suppress(ValueError):
            name, version, compiled = json.loads(bytes(blob))
            if (name, version) == (self._machine.current().name, VERSION):
                self.compiled |= set(compiled)
                return True
        return False

    def reset(self) -> bool:
        self.compiled.clear()
        return True


class IRuntimeConfig:
    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.cuda_graph_strategy = CudaGraphStrategy.DISABLED
        self.dynamic_shapes_kernel_specialization_strategy = (
            DynamicShapesKernelSpecializationStrategy.LAZY
        )
        self._allocation = ExecutionContextAllocationStrategy.STATIC
        self._cache = IRuntimeCache(machine)

    def set_execution_context_allocation_strategy(
        self, strategy: ExecutionContextAllocationStrategy
    ) -> None:
        self._allocation = strategy

    def create_runtime_cache(self) -> IRuntimeCache:
        return IRuntimeCache(self._machine)

    def set_runtime_cache(self, cache: IRuntimeCache) -> bool:
        self._cache = cache
        return True

    def get_runtime_cache(self) -> IRuntimeCache:
        return self._cache


class ICudaEngine(Destroyed):
    def __init__(self, runtime: Runtime, gpu: Gpu, plan: SimulatedPlan, weights: Any) -> None:
        self.machine, self.gpu, self._runtime = runtime.machine, gpu, runtime
        self._plan, self._weights, self._session = plan, weights, session(plan.onnx)
        graph = onnx.load_from_string(plan.onnx).graph
        self._tensors = {
            value.name: value.type.tensor_type for value in (*graph.input, *graph.output)
        }
        self._inputs = [value.name for value in graph.input]
        self.logger, self.digest = runtime.logger, hashlib.sha256(plan.onnx).hexdigest()
        self._live()

    def __del__(self) -> None:
        super().__del__()
        if self.machine.stack and self.machine.stack[-1] is self.gpu:
            with suppress(SimulatedError):
                self.machine.free(self._weights)

    @property
    def num_io_tensors(self) -> int:
        return len(self._tensors)

    @property
    def num_optimization_profiles(self) -> int:
        return len(self._plan.batch)

    @property
    def device_memory_size_v2(self) -> int:
        return self._plan.workspace

    def get_tensor_name(self, index: int) -> str:
        return list(self._tensors)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self._inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        return DTYPES[self._tensors[name].elem_type]

    def get_tensor_location(self, name: str) -> TensorLocation:
        return TensorLocation.DEVICE

    def get_tensor_format(self, name: str) -> TensorFormat:
        return TensorFormat.LINEAR

    def is_shape_inference_io(self, name: str) -> bool:
        return False

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        sizes = self._tensors[name].shape.dim
        return tuple(d.dim_value if d.HasField("dim_value") else -1 for d in sizes)

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        if name not in self._inputs:
            raise RuntimeError("get_tensor_profile_shape: not an input")
        shape = self.get_tensor_shape(name)
        return [
            tuple(batch if n == 0 and size < 0 else max(size, 8) if size < 0 else size
                  for n, size in enumerate(shape))
            for batch in self._plan.batch[profile_index]
        ]  # fmt: skip

    def create_runtime_config(self) -> IRuntimeConfig:
        return IRuntimeConfig(self.machine)

    def create_execution_context(
        self,
        strategy: Any = ExecutionContextAllocationStrategy.STATIC,
    ) -> IExecutionContext | None:
        """Takes a strategy or an IRuntimeConfig, as the real, overloaded one."""
        config = strategy if isinstance(strategy, IRuntimeConfig) else None
        if config is not None:
            strategy = config._allocation
        own = strategy is not ExecutionContextAllocationStrategy.USER_MANAGED
        try:
            self.machine.current()
            memory = self.machine.allocate(self._plan.workspace) if own else None
        except SimulatedError as error:
            self.logger.log(Severity.ERROR, f"createExecutionContext: Error Code 2: {error}")
            return None
        return IExecutionContext(self, config, memory)


class IExecutionContext(Destroyed):
    def __init__(self, engine: ICudaEngine, config: IRuntimeConfig | None, memory: Any) -> None:
        self.machine, self.engine, self._config, self._own = engine.machine, engine, config, memory
        self.gpu = self.machine.current()
        self._graphs = config and config.cuda_graph_strategy  # copied, as by the real one
        self._workspace = (memory.address, len(memory.data)) if memory else None
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._ran: set[Any] = set()  # shapes that ran before, which capture needs
        self.active_optimization_profile = 0
        self._live()

    def __del__(self) -> None:
        super().__del__()
        if self._own is not None and self.machine.stack:
            with suppress(SimulatedError):
                self.machine.free(self._own)

    def _fail(self, why: str) -> bool:
        self.engine.logger.log(Severity.ERROR, f"IExecutionContext: Error Code 3: {why}")
        return False

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self.machine.stream(stream_handle)
        return profile_index < self.engine.num_optimization_profiles

    def set_device_memory(self, memory: int, size: int) -> None:
        self._workspace = (memory, size)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        low, _, high = self.engine.get_tensor_profile_shape(name, 0)
        inside = all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True))
        if not inside:
            return self._fail(f"{name} {shape} is not in the range of profile 0")
        self._shapes[name] = tuple(shape)
        return True

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if name not in self.engine._tensors:
            return self._fail(f"no tensor {name}")
        self._addresses[name] = int(memory)
        return True

    def is_stream_capturable(self, stream: int) -> bool:
        return not self.machine.faults.no_capture

    def execute_async_v3(self, stream_handle: int) -> bool:
        machine, engine = self.machine, self.engine
        with machine.lock:
            try:
                stream = machine.stream(stream_handle)
            except SimulatedError as error:
                return self._fail(f"enqueueV3: Error Code 1: Cuda Runtime ({error})")
            machine.enqueues += 1
            if machine.enqueues in machine.faults.false_at:
                return self._fail("enqueueV3: planted failure")
            missing = set(engine._tensors) - set(self._addresses)
            if missing or set(engine._inputs) - set(self._shapes):
                return self._fail(f"address or shape not set: {sorted(missing)}")
            if self._workspace is None or self._workspace[1] < engine._plan.workspace:
                return self._fail("no device memory, or too little, was set")
            shapes = tuple(sorted(self._shapes.items()))
            if stream.capture is not None:
                if shapes not in self._ran:
                    machine.violations.append(CAPTURE_BEFORE_RUN)
                if machine.faults.no_capture:
                    stream.invalid = True
                    return self._fail("enqueueV3: Error Code 1: operation not permitted in capture")
                if not machine.stack or machine.stack[-1] is not engine.gpu:
                    return True  # records nothing, without an error
            replay = self._specialise(shapes)
            self._ran.add(shapes)
            if not (replay and machine.faults.empty_graphs):
                machine.enqueue(stream, self._work(dict(shapes), dict(self._addresses)))
            return True

    def _specialise(self, shapes: Any) -> bool:
        """Count what TensorRT-RTX compiles; whether this run replays the library's own graph."""
        if self._config is None:
            return False
        kernel = f"{self.engine.digest} {shapes}"
        lazy = DynamicShapesKernelSpecializationStrategy.LAZY
        if self._config.dynamic_shapes_kernel_specialization_strategy is lazy:
            self.machine.fallbacks += 1
        elif kernel not in self._config._cache.compiled:
            self.machine.compilations += 1
            self._config._cache.compiled.add(kernel)
        if self._graphs is CudaGraphStrategy.WHOLE_GRAPH_CAPTURE and shapes in self._ran:
            self.machine.replays += 1
            return True
        return False

    def _work(self, shapes: dict[str, tuple[int, ...]], addresses: dict[str, int]) -> Any:
        machine, engine, gpu = self.machine, self.engine, self.gpu
        workspace = self._workspace
        assert workspace is not None

        def read(name: str) -> NDArray[Any]:
            dtype = np.dtype(nptype(engine.get_tensor_dtype(name)))
            size = int(np.prod(shapes[name])) * dtype.itemsize
            return machine.view(addresses[name], size, gpu).view(dtype).reshape(shapes[name]).copy()

        def run() -> None:
            machine.executions += 1
            machine.time += EXECUTION_TIME
            if machine.executions == machine.faults.sticky_at:
                gpu.failed = True
                return
            machine.view(*workspace, gpu)[:] = machine.executions % 256
            names = [name for name in engine._tensors if name not in engine._inputs]
            results = engine._session.run(names, {name: read(name) for name in engine._inputs})
            for name, array in zip(names, results, strict=True):
                flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
                machine.view(addresses[name], len(flat), gpu)[:] = flat

        return run
