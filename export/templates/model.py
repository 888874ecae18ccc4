"""Runs an engine in Triton's Python backend, through dic-toolkit's own runtime.

`python -m export.triton --backend python` copies this file. It needs dic-toolkit, in Triton's
Python or in the environment that `EXECUTION_ENV_PATH` in config.pbtxt names. Two more parameters:

    engine      name of the engine's file, beside this one
    device      as `load_engine` takes it; "auto" follows the instance's kind: its GPU if it has one
"""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as triton
from numpy.typing import NDArray

# DLPack's name of a capsule that was read. A capsule only refers to its name: this keeps it.
READ = b"used_dltensor"


class TritonPythonModel:
    """One instance of the model, in a process of its own. Triton calls it from one thread."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the engine and verify it on this machine.

        Args:
            args: of Triton: the configuration as JSON, and the instance's kind and device.

        Raises:
            TritonModelException: the engine cannot run here; the message is one line.
        """
        try:
            from runtime import EngineError, load_engine
        except ImportError as error:
            raise triton.TritonModelException(
                f"Triton's Python {sys.version.split()[0]} cannot import dic-toolkit ({error}): "
                "install dic-toolkit[cpu] or dic-toolkit[gpu] there, or let EXECUTION_ENV_PATH in "
                "config.pbtxt name an environment of the same Python that has it"
            ) from None
        parameters = json.loads(args["model_config"])["parameters"]
        path = Path(__file__).with_name(parameters["engine"]["string_value"])
        device = parameters["device"]["string_value"]
        if device == "auto" and args["model_instance_kind"] == "GPU":
            device = f"cuda:{args['model_instance_device_id']}"
        try:
            self._engine = load_engine(path, device)
        except EngineError as error:
            raise triton.TritonModelException(str(error)) from None
        self._failed = EngineError
        triton.Logger.log_info(f"{path}: on {self._engine.device} by {self._engine.backend}")

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer requests, run as one batch.

        If that batch fails, each request runs alone, so that an error answers only its own request.

        Args:
            requests: of Triton, which has checked their names, types and shapes; together of at
                most `max_batch_size` faces.
        """
        try:
            return self._run(requests)
        except (ValueError, self._failed) as error:
            if len(requests) > 1:
                return [self.execute([request])[0] for request in requests]
            wrong = isinstance(error, ValueError)
            code = triton.TritonError.INVALID_ARG if wrong else triton.TritonError.UNAVAILABLE
            return [triton.InferenceResponse(error=triton.TritonError(str(error), code))]

    def finalize(self) -> None:
        """Free the engine's memory."""
        self._engine.close()

    def _run(self, requests: list[Any]) -> list[Any]:
        given: dict[str, list[NDArray[Any]]] = {
            tensor.name: [
                np.from_dlpack(triton.get_input_tensor_by_name(request, tensor.name))
                for request in requests
            ]
            for tensor in self._engine.inputs
        }
        outputs = self._engine.run({name: np.concatenate(parts) for name, parts in given.items()})
        ends = np.cumsum([len(part) for part in next(iter(given.values()))])
        return [
            triton.InferenceResponse(
                [_tensor(name, array[end - count : end]) for name, array in outputs.items()]
            )
            for end, count in zip(ends, np.diff(ends, prepend=0), strict=True)
        ]


def _tensor(name: str, array: NDArray[Any]) -> Any:
    """An array as Triton's tensor, without a copy.

    By DLPack, because Triton 2.51 and earlier send arrays of NumPy 2 as empty. Triton renames the
    capsule that it has read, but not to what DLPack says, of which NumPy would complain.
    """
    capsule = array.__dlpack__()
    tensor = triton.Tensor.from_dlpack(name, capsule)
    ctypes.pythonapi.PyCapsule_SetName(ctypes.py_object(capsule), READ)
    return tensor
