"""What others make of the same network, to be measured beside the engines."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.latency import as_engine, reference
from runtime.load import load_engine
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
        EngineError: it is not installed, or does not take the file.
    """
    return as_engine(load_engine(path, "openvino"))
