"""What decides which engine is written: plain data, without PyTorch."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path


class Precision(enum.Enum):
    """What an engine computes in; the files' metadata carry the value."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"


class Target(enum.Enum):
    """What a graph is made for: GPU is the network as it is, CPU is rewritten (`packed`)."""

    GPU = "gpu"
    CPU = "cpu"


@dataclass(frozen=True)
class Choices:
    """What else decides what is written.

    Attributes:
        target: see `Target`.
        precision: what the graph computes in.
        faces: a folder of aligned faces to compare on; drawn ones without it.
        calibration: a folder of aligned faces that int8's ranges are taken from; drawn without it.
        tolerance: times the gate's limits.
        external_data: keep the weights in a file beside, `NAME.onnx.data`.
    """

    target: Target = Target.GPU
    precision: Precision = Precision.FP32
    faces: Path | None = None
    calibration: Path | None = None
    tolerance: float = 1.0
    external_data: bool = False
