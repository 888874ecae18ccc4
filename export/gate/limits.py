"""Limits on the difference between an engine and PyTorch, for each precision.

**One block, float32.** Two correct implementations of a block differ only by rounding, because they
sum the same products in a different order. An engine's block is correct if its error against the
exact result (the same block in float64, on the same input) is about as large as the error of
PyTorch's float32 block. The error is the root mean square over the pixels of a channel: over ~1,000
roundings it varies far less than the maximum, and a fault in a single channel still shows.

The margin: adding n products of similar scale one after the other rounds the growing partial sum
each time, an error of about u·√(n/6) of the sum's standard deviation, u = 2⁻²⁴. The longest sums
are those of the strided convolutions, n = 48·12·12 = 6,912: 2·10⁻⁶ of the standard deviation, about
5·10⁻⁷ of the largest value. A fast kernel sums in blocks, and its error may be several times
smaller. Depending on the processor, PyTorch and the engine may each do either. The limit is
therefore `PYTORCH_FACTOR` times the error of PyTorch's block, plus `FLOOR`, 2⁻²¹ of the block's
largest value, which alone covers the longest sum in the least accurate order. Measured
(`benchmarks/NOTES.md`: full size, gains 0.8 to 1.5, plain and packed, one and two threads, ONNX
Runtime with and without its optimisations, PyTorch with AVX-512, AVX2 and SSE4.1): correct graphs
reach at most 0.6 of the limit; a change of 10⁻³ in one of 21.8 million weights exceeds it.

**One block, lower precisions.** The same, with a floor that covers rounding to the precision's
mantissa in a block of many layers (`FLOORS`).

**The whole graph, float32.** A network may amplify rounding errors from step to step, an untrained
one by a factor of 100 or more, so no absolute limit on the outputs works. If all blocks are correct
on one picture, the graph is correct on that picture, and the difference of its outputs from
PyTorch's is amplified rounding. On every other picture, alone or in a batch, the difference may be
at most `DRIFT` times as large, relative to the output's largest value (measured: up to 6 times).

**The whole graph, lower precisions.** PSNR against the ground truth must not drop, landmarks must
not move, and no picture may be far from PyTorch's, by the limits in `LIMITS`.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from export.choices import Precision

PYTORCH_FACTOR = 5.0
FLOOR = 2.0**-21
FLOORS = {
    Precision.FP32: FLOOR,
    Precision.FP16: 2.0**-9,
    Precision.BF16: 2.0**-6,
    Precision.INT8: 2.0**-4,
}
DRIFT = 50.0
LARGEST_DRIFT = 1e-3  # a larger error is not rounding, on any picture
# Two heatmap cells tie if they differ by at most this share of the peak's height over the median. A
# correct engine may rank them either way, and decode another landmark (`dic.landmarks.decode`).
TIE_MARGIN = {
    Precision.FP32: 1e-4,
    Precision.FP16: 1e-2,
    Precision.BF16: 5e-2,
    Precision.INT8: 1e-1,
}


@dataclass(frozen=True)
class Limits:
    """The largest allowed differences from PyTorch; infinite where there is no limit.

    Attributes:
        error: root mean square of an output's difference on any picture, as a share of the
            output's largest value.
        psnr: loss of PSNR against the ground truth, dB, mean over the faces.
        landmarks: mean distance of landmarks, pixels of the 128×128 face, over those whose heatmap
            has a clear peak (`export.gate.agreement.clear_peaks`).
        levels: root mean square of the difference of any picture, grey levels.
    """

    error: float = math.inf
    psnr: float = math.inf
    landmarks: float = math.inf
    levels: float = math.inf

    def times(self, tolerance: float) -> Limits:
        """The limits multiplied by a tolerance."""
        return Limits(*(tolerance * limit for limit in dataclasses.astuple(self)))

    def finite(self) -> dict[str, float]:
        """The limits that are set, by name; JSON cannot represent infinity."""
        return {k: v for k, v in dataclasses.asdict(self).items() if math.isfinite(v)}


# float32's error limit depends on the error on the first picture: `drift_limits`.
LIMITS = {
    Precision.FP32: Limits(),
    Precision.FP16: Limits(psnr=0.02, landmarks=0.1, levels=0.5),
    Precision.BF16: Limits(psnr=0.02, landmarks=0.1, levels=4.0),
    Precision.INT8: Limits(psnr=0.15, landmarks=0.5, levels=64.0),
}


def drift_limits(first: float) -> Limits:
    """A float32 engine's limits.

    Args:
        first: its `error` on the picture whose blocks were compared.
    """
    return Limits(error=min(LARGEST_DRIFT, DRIFT * (first + FLOOR)), landmarks=0.1)
