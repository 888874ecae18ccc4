"""Pictures for the comparison with PyTorch and for int8 calibration: faces and extreme inputs."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dic.console import UserError
from dic.progress import Progress
from dic.sizes import LQ_SIZE
from train.data.datasets import FileRange
from train.data.pairs import shrink
from train.data.pictures import IMAGE_SUFFIXES, cut, read_picture
from train.data.synthetic import draw_faces

NO_LANDMARKS = np.zeros((0, 2), np.float32)


@dataclass(frozen=True)
class Pictures:
    """Input pictures, of which the first F are faces with ground truth.

    Attributes:
        gt: (F, 128, 128, 3) uint8 RGB, ground truth of the first F pictures.
        image: (N, 16, 16, 3) uint8 RGB, the inputs; the first F are `gt` shrunk as for training.
        source: a description of where the faces come from.
    """

    gt: NDArray[np.uint8]
    image: NDArray[np.uint8]
    source: str

    def __len__(self) -> int:
        return len(self.image)

    def kept(self, faces: int) -> list[int]:
        """Indices of the first `faces` faces and of all pictures that are not faces."""
        return [*range(min(faces, len(self.gt))), *range(len(self.gt), len(self))]

    def first(self, faces: int) -> Pictures:
        """The same pictures with only the first `faces` faces."""
        return Pictures(self.gt[:faces], self.image[self.kept(faces)], self.source)

    def with_extremes(self) -> Pictures:
        """Append `extremes()`: half precisions can fail on them and be right on faces."""
        return Pictures(self.gt, np.concatenate((self.image, extremes())), self.source)


@functools.cache
def synthetic(seed: int, count: int) -> Pictures:
    """`count` synthetic faces; the same for the same seed."""
    gt, _ = draw_faces(seed, count)
    return Pictures(gt, np.stack([shrink(face) for face in gt]), f"synthetic, seed {seed}")


def extremes() -> NDArray[np.uint8]:
    """Inputs that are not faces: black, white, one colour, a checkerboard, noise, one white pixel.

    Returns:
        (6, 16, 16, 3) uint8 RGB.
    """
    rows, columns = np.mgrid[:LQ_SIZE, :LQ_SIZE]
    pictures = np.zeros((6, LQ_SIZE, LQ_SIZE, 3), np.uint8)
    pictures[1] = 255
    pictures[2] = (200, 30, 60)
    pictures[3] = 255 * ((rows + columns) % 2)[..., None]
    pictures[4] = np.random.default_rng(0).integers(0, 256, pictures[4].shape)
    pictures[5, LQ_SIZE // 2, LQ_SIZE // 2] = 255
    return pictures


def from_folder(folder: Path, count: int) -> Pictures:
    """The first `count` aligned faces of a folder: square pictures in any subfolder, by path.

    Pictures that cannot be read or are not square are skipped with a message.

    Raises:
        UserError: `folder` is not a folder, or holds fewer than `count` such pictures.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: is not a folder; give a folder of aligned faces")
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    found: list[NDArray[np.uint8]] = []
    with Progress(total=count, desc="reading faces", unit="face", leave=False) as bar:
        for path in paths:
            if len(found) == count:
                break
            try:
                picture = read_picture(FileRange(str(path), path.name).read())
                height, width = picture.shape[:2]
                if height != width:
                    raise ValueError(f"{width}×{height} is not square")
                found.append(cut(picture, NO_LANDMARKS, (0, 0, width, height))[0])
            except Exception as error:  # decoders have no common exception for damaged files
                bar.say(f"{path}: skipped: {str(error) or type(error).__name__}")
                continue
            bar.update()
    if len(found) < count:
        raise UserError(
            f"{folder}: {len(found)} faces that can be read (square pictures); {count} are needed"
        )
    gt = np.stack(found)
    return Pictures(gt, np.stack([shrink(face) for face in gt]), "the user's")
