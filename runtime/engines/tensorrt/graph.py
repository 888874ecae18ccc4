"""CUDA graphs of a plan's runs, through cuda-bindings because PyCUDA does not support them."""

from __future__ import annotations

import importlib
import logging
from typing import Any

log = logging.getLogger(__name__)


class CudaGraph:
    """A CUDA graph of an execution context's run at its current batch size.

    A captured graph is valid for one set of shapes. When the batch size changes, it is destroyed,
    and captured again after one ordinary run at the new size, which TensorRT requires.
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
        """Launch the graph; False if the caller must enqueue an ordinary run instead."""
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
        """Destroy the graph, if there is one."""
        if self._graph is not None:
            self._cudart.cudaGraphExecDestroy(self._graph)
            self._graph = None

    def _capture(self) -> Any:
        """Capture one run into an executable graph; None, and no further tries, if it fails."""
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
            log.info("no CUDA graphs: capturing the plan's run failed (%s)", error)
            self._cudart = None
            return None
        return executable
