"""SSIM and landmark error as in the released evaluations.

SSIM (Wang et al., 2004) on uint8 RGB with 8 pixels cropped at every edge, an 11×11 Gaussian window
with σ 1.5, averaged over the channels: scikit-image's implementation with the options to match.
PSNR is in `dic.metrics`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dic.metrics import cropped

# The distance between two points normalises the landmark error; each is the mean of a slice of the
# landmarks. For 68 landmarks, they are the outer eye corners; for 5, the eyes; for Helen's 194,
# where the indices of the eye corners are not published, the centres of the eye outlines.
EYES: dict[int, tuple[slice, slice]] = {
    68: (slice(36, 37), slice(45, 46)),
    5: (slice(0, 1), slice(1, 2)),
    194: (slice(134, 154), slice(114, 134)),
}


def ssim(face: NDArray[np.uint8], gt: NDArray[np.uint8]) -> float:
    """Return the structural similarity of two (H, W, 3) uint8 RGB images, at most 1."""
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


def nme(points: NDArray[np.floating[Any]], gt: NDArray[np.floating[Any]]) -> float:
    """Return the normalised mean error of landmarks (..., K, 2), as a fraction (not percent).

    It is the mean landmark distance divided by the distance between the eyes (`EYES`); K must be a
    key of EYES.
    """
    distance = np.linalg.norm(points - gt, axis=-1).mean(-1)
    left, right = (gt[..., eye, :].mean(-2) for eye in EYES[gt.shape[-2]])
    return float((distance / np.linalg.norm(left - right, axis=-1)).mean())
