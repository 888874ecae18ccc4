"""Runs of one batch size: an execution context and its CUDA graph."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from runtime.engines.gpu import CudaError
from runtime.engines.tensorrt.loaded_plan import LoadedPlan

log = logging.getLogger(__name__)


def bucket_sizes(low: int, high: int) -> list[int]:
    """The batch sizes that have a bucket: powers of two inside the profile, and its ends.

    A batch runs in the smallest bucket that holds it, with padding rows.
    """
    powers = {1 << n for n in range(high.bit_length())}
    return sorted({low, high} | {size for size in powers if low < size < high})


class Bucket:
    """An execution context with fixed shapes, addresses and memory. Used by one lane.

    Capturing records the calls of one run once; a replay enqueues them all with a single call.
    TensorRT-RTX does this itself; for TensorRT it is done here, after an ordinary run, which
    TensorRT requires.

    Args:
        size: batch size.
        addresses: of GPU memory, by tensor name.
        workspace: address of `plan.workspace` bytes; other buckets of the lane may use it too,
            as only one runs at a time.
        stream: handle of the lane's stream.
    """

    def __init__(
        self,
        plan: LoadedPlan,
        size: int,
        addresses: Mapping[str, int],
        workspace: int,
        stream: int,
    ) -> None:
        self._plan, self.size, self._stream = plan, size, stream
        self._addresses, self._workspace = addresses, workspace
        self._context: Any = None
        self._graph: Any = None  # executable CUDA graph
        try:
            self._set_up(graphs=plan.captures_itself)
        except BaseException:
            self.free()
            raise

    def _set_up(self, graphs: bool) -> None:
        plan = self._plan
        self._context = plan.new_context(graphs)
        if self._context.active_optimization_profile != 0:  # only a plan's first context has it
            done = self._context.set_optimization_profile_async(0, self._stream)
            plan.succeeded(done, "set_optimization_profile_async")
        if plan.workspace:
            self._context.set_device_memory(self._workspace, plan.workspace)
        for name, address in self._addresses.items():
            plan.succeeded(self._context.set_tensor_address(name, address), "set_tensor_address")
        for tensor in plan.inputs:
            shape = (self.size, *tensor.shape[1:])
            done = self._context.set_input_shape(tensor.name, shape)
            plan.succeeded(done, "set_input_shape")

    def enqueue(self) -> None:
        """Enqueue an ordinary run."""
        done = self._context.execute_async_v3(self._stream)
        self._plan.succeeded(done, "execute_async_v3")

    def run(self) -> None:
        """Enqueue a run, by the graph if there is one."""
        if self._graph is None:
            self.enqueue()
        else:
            gpu = self._plan.gpu
            gpu.check(gpu.cudart.cudaGraphLaunch(self._graph, self._stream))

    def capture(self) -> bool:
        """Capture a run after an ordinary one has finished; whether `run` now replays a graph."""
        if self._plan.captures_itself:
            return True
        try:
            self._graph = self._captured()
        except CudaError as error:
            log.info("batch %d runs without a CUDA graph: %s", self.size, str(error))
        return self._graph is not None

    def _captured(self) -> Any:
        """An executable graph of one run.

        Raises:
            CudaError: the run cannot be captured.
        """
        gpu = self._plan.gpu
        cudart, check = gpu.cudart, gpu.check
        # Thread-local: other threads may allocate memory meanwhile.
        mode = cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        check(cudart.cudaStreamBeginCapture(self._stream, mode))
        done = self._context.execute_async_v3(self._stream)
        graph = check(cudart.cudaStreamEndCapture(self._stream))
        try:
            if not done:
                raise CudaError(self._plan.reason)
            return check(cudart.cudaGraphInstantiate(graph, 0))
        finally:
            check(cudart.cudaGraphDestroy(graph))

    def give_up_graph(self, why: str) -> None:
        """From now on, make ordinary runs. Logs why."""
        log.warning("batch %d runs without a CUDA graph: %s", self.size, why)
        self._drop_graph()
        if self._plan.captures_itself:
            self._context = None
            self._set_up(graphs=False)

    def _drop_graph(self) -> None:
        graph, self._graph = self._graph, None
        if graph is not None:
            gpu = self._plan.gpu
            gpu.check(gpu.cudart.cudaGraphExecDestroy(graph))

    def free(self) -> None:
        """Destroy the graph and the context; the stream must be idle."""
        try:
            self._drop_graph()
        finally:
            self._context = None
