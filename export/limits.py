"""Precisions, and what an engine of each may differ from PyTorch by."""

from __future__ import annotations

import dataclasses
import enum
import math
from dataclasses import dataclass


class Precision(enum.Enum):
    """What an engine computes in; the files' metadata carry the value."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"


@dataclass(frozen=True)
class Limits:
    """What an engine may differ by.

    Attributes:
        error: largest difference of any number, on the normalised scale (black to white is 1).
        psnr: dB further from the true faces than PyTorch, the mean over the faces.
        landmarks: mean distance from PyTorch's landmarks, pixels of the 128×128 face.
    """

    error: float
    psnr: float
    landmarks: float

    def times(self, tolerance: float) -> Limits:
        return Limits(*(tolerance * limit for limit in dataclasses.astuple(self)))

    def finite(self) -> dict[str, float]:
        """Those that are set, by name, for JSON, which has no infinity."""
        return {k: v for k, v in dataclasses.asdict(self).items() if math.isfinite(v)}


UNLIMITED = float("inf")
# A landmark is decoded from two cells of 4 pixels, so where cells tie it may jump even in fp32.
LIMITS = {
    Precision.FP32: Limits(error=1e-5, psnr=0.001, landmarks=0.01),
    Precision.FP16: Limits(error=UNLIMITED, psnr=0.02, landmarks=0.1),
    Precision.BF16: Limits(error=UNLIMITED, psnr=0.02, landmarks=0.1),
    Precision.INT8: Limits(error=UNLIMITED, psnr=0.15, landmarks=0.5),
}
