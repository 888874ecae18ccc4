"""PSNR as the released evaluations compute it: uint8 RGB, 8 pixels cropped at every edge."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CROP_BORDER = 8
EQUAL = 120.0  # dB that a face without any error counts as in a mean


def psnr(face: NDArray[np.uint8], gt: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio in dB of two (H, W, 3) uint8 pictures; equal ones give inf."""
    mse = float(np.mean((cropped(face) - cropped(gt)) ** 2))
    return float("inf") if mse == 0 else 10 * float(np.log10(255**2 / mse))


def mean_psnr(faces: NDArray[np.uint8], gt: NDArray[np.uint8]) -> float:
    """The mean PSNR in dB of (N, H, W, 3) pictures; equal ones count as `EQUAL`."""
    return float(np.mean([min(psnr(f, truth), EQUAL) for f, truth in zip(faces, gt, strict=True)]))


def cropped(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Without the border that the evaluations leave out."""
    inside = slice(CROP_BORDER, -CROP_BORDER)
    return image[inside, inside].astype(np.float64)
