"""What an engine of each precision may differ from PyTorch by.

**One block, in float32.** Two right implementations of a block differ by rounding alone: they sum
the same products in another order. Each is off the exact result by an error of the same kind, so
an engine's block is right when it is about as near to the exact result (the block in float64,
given the same input) as PyTorch's own float32 block is. Compared are root mean squares over the
pixels of each channel: of ~1,000 roundings they are steady where the largest is not, and a fault
in one channel stands out.

How much further off may it be? A sum of n products of one scale, made one after the other, rounds
its growing partial sums: an error of about u·√(n/6) of the sum's standard deviation, u = 2⁻²⁴.
The longest sums are those of the strided convolutions, n = 48·12·12 = 6,912: 2·10⁻⁶ of the standard
deviation, some 5·10⁻⁷ of the largest value. A fast kernel sums in blocks and may be off by several
times less. PyTorch and the engine may each be either, depending on the processor. So allowed is
`OWN` times what PyTorch's own block is off by, and `FLOOR`, 2⁻²¹ of the block's largest value,
which alone covers the longest sum in the slowest order. Measured (`benchmarks/NOTES.md`, full size,
gains 0.8 to 1.5, plain and packed, one and two threads, ONNX Runtime with and without its
optimisations, PyTorch with AVX-512, AVX2 and SSE4.1): right graphs are at most at 0.6 of it; one
weight of 21.8 million that is off by 10⁻³ is beyond it.

**One block, in less.** The same, with the floor at what rounding to the precision's mantissa does
in a block of many layers (`FLOORS`).

**The whole.** A network may amplify its rounding from step to step as it likes; an untrained one
does by 100 and more. No fixed number of an output is right or wrong then. Once the blocks of one
picture are right, the whole of it is, and what engine and PyTorch differ by there is what rounding
grows into. On no other picture, alone or in a batch, may a float32 engine differ by more than
`DRIFT` times as much, in units of the output's scale (measured: up to 6 times). Lower precisions
are as good instead: as near to the true faces, landmarks in the same places, and no picture far
from PyTorch's.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from export.choices import Precision

OWN = 5.0
FLOOR = 2.0**-21
FLOORS = {
    Precision.FP32: FLOOR,
    Precision.FP16: 2.0**-9,
    Precision.BF16: 2.0**-6,
    Precision.INT8: 2.0**-4,
}
DRIFT = 50.0
FARTHEST = 1e-3  # more is no rounding, on whatever picture
# A landmark whose heatmap is as high elsewhere, up to this share of its peak, lies nowhere: a
# right engine may put it in either place (`dic.landmarks.decode` knows peaks only).
TIES = {
    Precision.FP32: 1e-4,
    Precision.FP16: 1e-2,
    Precision.BF16: 5e-2,
    Precision.INT8: 1e-1,
}


@dataclass(frozen=True)
class Limits:
    """What an engine may differ by; infinite where nothing is said.

    Attributes:
        error: root mean square of an output's difference on any picture, as a share of its
            largest value.
        psnr: dB further from the true faces than PyTorch, the mean over the faces.
        landmarks: mean distance from PyTorch's landmarks, pixels of the 128×128 face; of those
            that lie somewhere (`TIES`).
        levels: root mean square of the difference of any picture, grey levels.
    """

    error: float = math.inf
    psnr: float = math.inf
    landmarks: float = math.inf
    levels: float = math.inf

    def times(self, tolerance: float) -> Limits:
        return Limits(*(tolerance * limit for limit in dataclasses.astuple(self)))

    def finite(self) -> dict[str, float]:
        """Those that are set, by name, for JSON, which has no infinity."""
        return {k: v for k, v in dataclasses.asdict(self).items() if math.isfinite(v)}


# float32's error is limited by what it measures on its first picture; see above.
LIMITS = {
    Precision.FP32: Limits(),
    Precision.FP16: Limits(psnr=0.02, landmarks=0.1, levels=0.5),
    Precision.BF16: Limits(psnr=0.02, landmarks=0.1, levels=4.0),
    Precision.INT8: Limits(psnr=0.15, landmarks=0.5, levels=64.0),
}


def drift_limits(first: float) -> Limits:
    """A float32 engine's limits, by its `error` on the picture whose blocks were compared."""
    return Limits(error=min(FARTHEST, DRIFT * (first + FLOOR)), landmarks=0.1)
