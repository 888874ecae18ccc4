"""Training pairs: a 128×128 face with landmarks becomes network input and targets."""

from __future__ import annotations

from typing import TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from train.landmarks import FLIP_68, heatmaps
from train.network import RGB_MEAN
from train.sizes import LQ_SIZE, SR_SIZE


class Pair(TypedDict):
    """One example, or a batch of them.

    lq (…, 3, 16, 16) and gt (…, 3, 128, 128) normalised; heatmaps (…, 68, 32, 32) in 0..1;
    landmarks (…, 68, 2) pixels of the 128×128 face.
    """

    lq: Tensor
    gt: Tensor
    heatmaps: Tensor
    landmarks: Tensor


def shrink(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A face (H, W, 3) uint8 → (16, 16, 3), by Pillow's antialiased bicubic as the authors do."""
    small = Image.fromarray(image).resize((LQ_SIZE, LQ_SIZE), Image.Resampling.BICUBIC)
    return np.array(small)  # asarray would give a read-only view


def normalise(image: NDArray[np.uint8]) -> Tensor:
    """(…, H, W, 3) uint8 RGB → (…, 3, H, W) float32, RGB / 255 - RGB_MEAN."""
    scaled = torch.from_numpy(np.ascontiguousarray(image)).float() / 255 - torch.tensor(RGB_MEAN)
    return scaled.movedim(-1, -3)


def denormalise(tensor: Tensor) -> NDArray[np.uint8]:
    """(…, 3, H, W) normalised → (…, H, W, 3) uint8 RGB, rounded and clipped."""
    scaled = (tensor.detach().cpu().float().movedim(-3, -1) + torch.tensor(RGB_MEAN)) * 255
    return scaled.round().clamp(0, 255).to(torch.uint8).numpy()


class FacePairs(Dataset[Pair]):
    """Pairs from faces held in memory.

    Args:
        images: (N, 128, 128, 3) uint8 RGB.
        landmarks: (N, 68, 2) pixels.
        flip: mirror every other picture, drawn from torch's random state.
    """

    def __init__(
        self, images: NDArray[np.uint8], landmarks: NDArray[np.float32], flip: bool = False
    ) -> None:
        self.images, self.landmarks, self.flip = images, landmarks, flip

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Pair:
        image, points = self.images[index], self.landmarks[index]
        if self.flip and torch.rand(()) < 0.5:
            image, points = mirror(image, points)
        return {
            "lq": normalise(shrink(image)),
            "gt": normalise(image),
            "heatmaps": torch.from_numpy(heatmaps(points)),
            "landmarks": torch.from_numpy(points),
        }


def mirror(
    image: NDArray[np.uint8], points: NDArray[np.float32]
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """A face and its 68 landmarks seen in a mirror; the left eye's points become the right's."""
    flipped = points[list(FLIP_68)]
    flipped[:, 0] = SR_SIZE - 1 - flipped[:, 0]
    return np.ascontiguousarray(image[:, ::-1]), flipped
