"""What others make of the same network, to be measured beside the engines."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.latency import reference
from runtime.console import UserError
from train.network import DIC

Faces = NDArray[np.uint8]
Run = Callable[[Faces], dict[str, NDArray[Any]]]


def channels_last(network: DIC, landmarks: bool) -> Run:
    """PyTorch in the layout in which its CPU convolutions are fastest."""
    moved: Any = copy.deepcopy(network)
    return reference(moved.to(memory_format=torch.channels_last), landmarks)


def openvino(path: Path) -> Run:
    """OpenVINO on an exported ONNX file, tuned for latency.

    Raises:
        UserError: it is not installed, or does not take the file.
    """
    try:
        import openvino as ov
    except ModuleNotFoundError as error:
        raise UserError("--peers needs OpenVINO: pip install openvino") from error
    core = ov.Core()
    try:
        model = core.read_model(str(path))
        compiled = core.compile_model(
            model, "CPU", {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        )
    except RuntimeError as error:
        raise UserError(f"{path}: OpenVINO: {str(error).splitlines()[0]}") from error
    request = compiled.create_infer_request()
    names = [output.get_any_name() for output in compiled.outputs]

    def run(image: Faces) -> dict[str, NDArray[Any]]:
        given = request.infer({"image": image})
        return {name: given[name].copy() for name in names}

    return run
