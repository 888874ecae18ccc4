"""Faces for measuring accuracy: synthetic ones that no recipe trains on, or a data set."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dic.console import UserError
from dic.progress import Progress
from train.data.datasets import annotation_of, find_faces
from train.data.pairs import shrink
from train.data.pictures import cut, read_picture
from train.data.synthetic import draw_faces

SEED = 20200614  # not a training seed: recipes count theirs from 0


@dataclass(frozen=True)
class FaceSet:
    """Faces with ground truth.

    Attributes:
        gt: (N, 128, 128, 3) uint8 RGB.
        lq: (N, 16, 16, 3) uint8 RGB, `gt` shrunk as for training.
        points: (N, K, 2) landmarks, (x, y) pixels of `gt`; None if they are not known.
        source: a description of where the faces come from.
    """

    gt: NDArray[np.uint8]
    lq: NDArray[np.uint8]
    points: NDArray[np.float32] | None
    source: str

    def __len__(self) -> int:
        return len(self.gt)


def synthetic(count: int, seed: int = SEED) -> FaceSet:
    """Synthetic faces with 68 landmarks."""
    gt, points = draw_faces(seed, count)
    return FaceSet(gt, _shrunk(gt), points, f"{count} synthetic faces, seed {seed}")


def from_files(source: str, landmarks: str, count: int | None) -> FaceSet:
    """The faces of a data set in a form that `train` reads: a folder of pictures, or tar shards.

    `points` is None unless every face has landmarks. Faces that cannot be read are skipped with a
    message.

    Args:
        landmarks: a file with all landmarks; empty to read those next to the pictures.
        count: use the first `count` faces; None for all.

    Raises:
        UserError: there are no faces, or none can be read.
    """
    entries = find_faces(source, landmarks)[:count]
    gt: list[NDArray[np.uint8]] = []
    points: list[NDArray[np.float32]] = []
    for entry in Progress(entries, desc="reading faces", unit="face", leave=False):
        try:
            image = read_picture(entry.picture.read())
            box, marks = None, np.zeros((0, 2), np.float32)
            if entry.annotation is not None:
                annotation = annotation_of(entry)
                box, marks = annotation.box, annotation.landmarks
            height, width = image.shape[:2]
            if box is None and height != width:
                raise ValueError(f"{width}×{height} is not square and has no face box")
            face, marks = cut(image, marks, box or (0, 0, width, height))
        except Exception as error:  # decoders have no common exception for damaged files
            print(f"skipped: {entry.name}: {error or type(error).__name__}", file=sys.stderr)
            continue
        gt.append(face)
        points.append(marks)
    if not gt:
        raise UserError(f"{source}: no faces that can be read; see the messages above")
    faces = np.stack(gt)
    known = len({len(marks) for marks in points}) == 1 and len(points[0]) > 0
    name = f"{len(faces)} faces of {Path(source).name}"
    return FaceSet(faces, _shrunk(faces), np.stack(points) if known else None, name)


def _shrunk(gt: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.stack([shrink(face) for face in gt])
