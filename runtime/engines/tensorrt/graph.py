"""CUDA graphs of a plan's runs; PyCUDA has none, cuda-bindings has."""

from __future__ import annotations

import importlib
import logging
from typing import Any

log = logging.getLogger(__name__)


class CudaGraph:
    """A CUDA graph of a context's run at the batch size it has; PyCUDA has none, cuda-bindings has.

    A context's graph is of no use once its shapes have changed: it is dropped, and captured anew
    after a plain run at the new size, which TensorRT needs to prepare itself.
    """

    def __init__(self, context: Any, stream: Any) -> None:
        self._context, self._stream = context, stream
        self._batch, self._graph = 0, None
        try:
            self._cudart: Any = importlib.import_module("cuda.bindings.runtime")
        except ImportError:
            log.info("no CUDA graphs: cuda-bindings is not installed")
            self._cudart = None

    def launch(self, batch: int) -> bool:
        """Run by the graph; False where the caller must run without."""
        if batch != self._batch:
            self.drop()
            self._batch = batch
            return False
        if self._graph is None and self._cudart is not None:
            self._graph = self._capture()
        if self._graph is None:
            return False
        (error,) = self._cudart.cudaGraphLaunch(self._graph, self._stream.handle)
        return int(error) == 0

    def drop(self) -> None:
        if self._graph is not None:
            self._cudart.cudaGraphExecDestroy(self._graph)
            self._graph = None

    def _capture(self) -> Any:
        cudart, handle = self._cudart, self._stream.handle
        mode = cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        (error,) = cudart.cudaStreamBeginCapture(handle, mode)
        executable = None
        if not int(error):
            done = self._context.execute_async_v3(handle)
            error, graph = cudart.cudaStreamEndCapture(handle)
            if not int(error):
                if done:
                    error, executable = cudart.cudaGraphInstantiate(graph, 0)
                cudart.cudaGraphDestroy(graph)
        if executable is None or int(error):
            log.info("no CUDA graphs: the plan's run cannot be captured (%s)", error)
            self._cudart = None
            return None
        return executable
