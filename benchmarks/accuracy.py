"""Accuracy of engines against ground truth and against the PyTorch reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from runtime.console import Progress
from train.data import shrink
from train.faces import draw_faces
from train.metrics import nme, psnr, ssim
from train.sizes import SR_SIZE

FLOOR = "bicubic"
SEED = 20200614  # of no training set: recipes count their seeds from 0
CHUNK = 8

Run = Callable[[NDArray[np.uint8]], dict[str, NDArray[Any]]]


@dataclass(frozen=True)
class Accuracy:
    """Means over the faces.

    Attributes:
        name: of the contender.
        psnr: dB against the ground truth.
        ssim: against the ground truth.
        nme: landmark error over the distance of the outer eye corners; None without landmarks.
        difference: the largest from the reference's faces, grey levels; None where not compared.
    """

    name: str
    psnr: float
    ssim: float
    nme: float | None
    difference: int | None


def measure_accuracy(
    contenders: dict[str, Run],
    faces: int,
    earlier: dict[str, Run] | None = None,
    seed: int = SEED,
) -> list[Accuracy]:
    """Restore unseen synthetic faces with every contender; the first is the reference.

    Args:
        contenders: name → function from (B, 16, 16, 3) uint8 to an engine's outputs.
        faces: how many.
        earlier: the reference after fewer steps; not compared with it face by face.

    Returns:
        the bicubic floor, the earlier steps, then the contenders, each in their order.
    """
    earlier = earlier or {}
    runs = earlier | contenders
    images, points = draw_faces(seed, faces)
    lq = np.stack([shrink(image) for image in images])
    rows = [_score(FLOOR, np.stack([_bicubic(small) for small in lq]), images)]
    reference: NDArray[np.uint8] | None = None
    with Progress(total=len(runs) * faces, desc="accuracy", unit="face") as bar:
        for name, run in runs.items():
            parts = []
            for start in range(0, faces, CHUNK):
                parts.append(run(lq[start : start + CHUNK]))
                bar.update(len(parts[-1]["face"]))
            restored = np.concatenate([part["face"] for part in parts])
            found = None
            if "landmarks" in parts[0] and parts[0]["landmarks"].shape[1] == points.shape[1]:
                found = nme(np.concatenate([part["landmarks"] for part in parts]), points)
            off = None
            if name not in earlier:
                reference = restored if reference is None else reference
                off = int(np.abs(restored.astype(int) - reference).max())
            rows.append(_score(name, restored, images, found, off))
    return rows


def _score(
    name: str,
    restored: NDArray[np.uint8],
    gt: NDArray[np.uint8],
    found: float | None = None,
    off: int | None = None,
) -> Accuracy:
    return Accuracy(
        name,
        float(np.mean(list(map(psnr, restored, gt)))),
        float(np.mean(list(map(ssim, restored, gt)))),
        found,
        off,
    )


def _bicubic(small: NDArray[np.uint8]) -> NDArray[np.uint8]:
    big = Image.fromarray(small).resize((SR_SIZE, SR_SIZE), Image.Resampling.BICUBIC)
    return np.asarray(big)
