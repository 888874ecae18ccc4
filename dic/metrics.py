"""RMS, and PSNR as in the released evaluations: on uint8 RGB, 8 pixels cropped at every edge."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

CROP_BORDER = 8
EQUAL = 120.0  # dB; stands in for infinity when a mean includes an error-free face


def psnr(face: NDArray[np.uint8], gt: NDArray[np.uint8]) -> float:
    """Return the PSNR in dB of two (H, W, 3) uint8 images; inf if they are equal."""
    mse = float(np.mean((cropped(face) - cropped(gt)) ** 2))
    return float("inf") if mse == 0 else 10 * float(np.log10(255**2 / mse))


def mean_psnr(faces: NDArray[np.uint8], gt: NDArray[np.uint8]) -> float:
    """Return the mean PSNR in dB of (N, H, W, 3) uint8 images; equal pairs count as `EQUAL`."""
    return float(np.mean([min(psnr(f, truth), EQUAL) for f, truth in zip(faces, gt, strict=True)]))


def rms(values: NDArray[Any], reference: NDArray[Any]) -> NDArray[np.float64]:
    """Return (N,) root mean squares of the difference of two (N, ...) arrays, in float64."""
    difference = values.astype(np.float64) - reference
    mean = (difference**2).mean(axis=tuple(range(1, difference.ndim)))
    return np.asarray(np.sqrt(mean))


def cropped(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Remove CROP_BORDER pixels at every edge: (H, W, 3) uint8 → (H-16, W-16, 3) float64."""
    inside = slice(CROP_BORDER, -CROP_BORDER)
    return image[inside, inside].astype(np.float64)
