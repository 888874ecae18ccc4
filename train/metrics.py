"""PSNR, SSIM and landmark error as the released evaluations compute them.

On uint8 RGB with 8 pixels cropped at every edge; SSIM after Wang et al., 2004, with an 11×11
Gaussian window of σ 1.5, the mean over the channels (scikit-image's, with its matching options).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dic.metrics import cropped

# The two points whose distance landmark errors are measured by, each a mean of landmarks: of 68 the
# eyes' outer corners, of 5 the eyes; of Helen's 194, whose corners have no published numbers, the
# centres of the eyes' outlines.
EYES: dict[int, tuple[slice, slice]] = {
    68: (slice(36, 37), slice(45, 46)),
    5: (slice(0, 1), slice(1, 2)),
    194: (slice(134, 154), slice(114, 134)),
}


def ssim(face: NDArray[np.uint8], gt: NDArray[np.uint8]) -> float:
    """Structural similarity of two (H, W, 3) uint8 pictures, at most 1."""
    from skimage.metrics import structural_similarity

    similarity: Any = structural_similarity(
        cropped(face),
        cropped(gt),
        data_range=255,
        channel_axis=2,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    return float(similarity)


def landmark_error(points: NDArray[np.floating[Any]], gt: NDArray[np.floating[Any]]) -> float:
    """Mean distance in pixels between (..., K, 2) landmarks."""
    return float(np.linalg.norm(points - gt, axis=-1).mean())


def nme(points: NDArray[np.floating[Any]], gt: NDArray[np.floating[Any]]) -> float:
    """Normalised mean error of (..., K, 2): distance over that between the eyes (`EYES`)."""
    distance = np.linalg.norm(points - gt, axis=-1).mean(-1)
    left, right = (gt[..., eye, :].mean(-2) for eye in EYES[gt.shape[-2]])
    return float((distance / np.linalg.norm(left - right, axis=-1)).mean())
