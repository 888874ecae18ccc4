"""Pictures to compare on: faces, and extremes that no face is. Also what int8 is calibrated on."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dic.console import UserError
from dic.progress import Progress
from dic.sizes import LQ_SIZE
from train.data.pairs import shrink
from train.data.pictures import IMAGE_SUFFIXES, cut, read_picture
from train.data.synthetic import draw_faces

NOTHING = np.zeros((0, 2), np.float32)  # landmarks of a face that has none


@dataclass(frozen=True)
class Pictures:
    """What a network sees, and of the faces among it the truth.

    Attributes:
        gt: (F, 128, 128, 3) uint8 RGB, of the first F pictures: the faces.
        image: (N, 16, 16, 3) uint8 RGB; of the faces `gt` shrunk as for training.
        source: where the faces come from, for people to read.
    """

    gt: NDArray[np.uint8]
    image: NDArray[np.uint8]
    source: str

    def __len__(self) -> int:
        return len(self.image)

    def kept(self, faces: int) -> list[int]:
        """The first faces, and all pictures that are none."""
        return [*range(min(faces, len(self.gt))), *range(len(self.gt), len(self))]

    def first(self, faces: int) -> Pictures:
        """With fewer faces; all else stays."""
        return Pictures(self.gt[:faces], self.image[self.kept(faces)], self.source)

    def with_extremes(self) -> Pictures:
        """And pictures that are no faces: half precisions fail on such that never fail on faces."""
        return Pictures(self.gt, np.concatenate((self.image, extremes())), self.source)


@functools.cache
def synthetic(seed: int, count: int) -> Pictures:
    """Drawn faces."""
    gt, _ = draw_faces(seed, count)
    return Pictures(gt, np.stack([shrink(face) for face in gt]), f"synthetic, seed {seed}")


def extremes() -> NDArray[np.uint8]:
    """(6, 16, 16, 3): black, white, one colour, checkers, noise, a single lit pixel."""
    rows, columns = np.mgrid[:LQ_SIZE, :LQ_SIZE]
    pictures = np.zeros((6, LQ_SIZE, LQ_SIZE, 3), np.uint8)
    pictures[1] = 255
    pictures[2] = (200, 30, 60)
    pictures[3] = 255 * ((rows + columns) % 2)[..., None]
    pictures[4] = np.random.default_rng(0).integers(0, 256, pictures[4].shape)
    pictures[5, LQ_SIZE // 2, LQ_SIZE // 2] = 255
    return pictures


def from_folder(folder: Path, count: int) -> Pictures:
    """The first faces of a folder of aligned ones: square pictures, at any depth, by name.

    A picture that cannot be read, or is not square, is named and left out.

    Raises:
        UserError: there are fewer than `count`.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: is not a folder of pictures")
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
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
    return Pictures(gt, np.stack([shrink(face) for face in gt]), "the user's")
