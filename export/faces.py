"""Faces to ask questions with: what the gate compares on, what int8 is calibrated on."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from train.console import UserError
from train.data import shrink
from train.datasets import PICTURES, cut, read_picture
from train.faces import draw_faces
from train.progress import Progress

NOTHING = np.zeros((0, 2), np.float32)  # landmarks of a face that has none


@dataclass(frozen=True)
class Faces:
    """Faces and what a network sees of them.

    Attributes:
        gt: (N, 128, 128, 3) uint8 RGB.
        image: (N, 16, 16, 3) uint8 RGB, `gt` shrunk as for training.
        source: where they come from, for people to read.
    """

    gt: NDArray[np.uint8]
    image: NDArray[np.uint8]
    source: str

    def __len__(self) -> int:
        return len(self.gt)


@functools.cache
def synthetic(seed: int, count: int) -> Faces:
    """Drawn faces."""
    gt, _ = draw_faces(seed, count)
    return Faces(gt, np.stack([shrink(face) for face in gt]), f"synthetic, seed {seed}")


def from_folder(folder: Path, count: int) -> Faces:
    """The first faces of a folder of aligned ones: square pictures, at any depth, by name.

    A picture that cannot be read, or is not square, is named and left out.

    Raises:
        UserError: there are fewer than `count`.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: is not a folder of pictures")
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in PICTURES)
    found: list[NDArray[np.uint8]] = []
    with Progress(total=count, desc="reading faces", unit="face", leave=False) as bar:
        for path in paths:
            if len(found) == count:
                break
            try:
                picture = read_picture(path.read_bytes())
                height, width = picture.shape[:2]
                if height != width:
                    raise ValueError(f"{width}×{height} is not square")
                found.append(cut(picture, NOTHING, (0, 0, width, height))[0])
            except Exception as error:  # damaged pictures raise what they like
                bar.say(f"{path}: left out: {str(error) or type(error).__name__}")
                continue
            bar.update()
    if len(found) < count:
        raise UserError(
            f"{folder}: {len(found)} faces that can be read (aligned, square); {count} are needed"
        )
    gt = np.stack(found)
    return Faces(gt, np.stack([shrink(face) for face in gt]), "the user's")
