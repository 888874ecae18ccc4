"""Export options as plain data; importing this module does not import PyTorch."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path


class Precision(enum.Enum):
    """The precision an engine computes in; the value is stored in the metadata."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"


class Target(enum.Enum):
    """The device a graph is meant for.

    GPU is the network as it is; CPU is the network rewritten by `export.graph.packed`.
    """

    GPU = "gpu"
    CPU = "cpu"


@dataclass(frozen=True)
class Choices:
    """Export options other than the signature.

    Attributes:
        target: the device the graph is meant for.
        precision: the precision the graph computes in.
        faces: folder of aligned faces to compare with PyTorch on; None for synthetic faces.
        calibration: folder of aligned faces for int8 calibration; None for synthetic faces.
        tolerance: factor on the gate's limits, greater than 0.
        external_data: store the weights in a separate file, `NAME.onnx.data`.
    """

    target: Target = Target.GPU
    precision: Precision = Precision.FP32
    faces: Path | None = None
    calibration: Path | None = None
    tolerance: float = 1.0
    external_data: bool = False
