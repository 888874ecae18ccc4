"""Training pairs: the network's input and targets, made from 128×128 faces with landmarks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from dic.console import UserError
from dic.landmarks import FLIPS, heatmaps
from dic.pixels import RGB_MEAN
from dic.sizes import LQ_SIZE, SR_SIZE
from train.data.augment import degraded, varied
from train.data.datasets import BadFaceError, Faces
from train.data.pictures import Face
from train.data.synthetic import draw_face
from train.recipe import Augment, Degrade, Recipe

MAX_SKIPPED = 100  # unreadable faces in a row before training stops with an error


class Pair(TypedDict):
    """One training pair, or a batch of them, in float32.

    lq (…, 3, 16, 16) and gt (…, 3, 128, 128) normalised; heatmaps (…, K, 32, 32) in 0..1;
    landmarks (…, K, 2), (x, y) pixels of the 128×128 face.
    """

    lq: Tensor
    gt: Tensor
    heatmaps: Tensor
    landmarks: Tensor


def shrink(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Reduce a face (H, W, 3) uint8 to (16, 16, 3) with Pillow's antialiased bicubic.

    The authors do the same.
    """
    small = Image.fromarray(image).resize((LQ_SIZE, LQ_SIZE), Image.Resampling.BICUBIC)
    return np.array(small)  # np.asarray would return a read-only view


def normalise(image: NDArray[np.uint8]) -> Tensor:
    """Convert (…, H, W, 3) uint8 RGB to (…, 3, H, W) float32, RGB / 255 - RGB_MEAN."""
    scaled = torch.from_numpy(np.ascontiguousarray(image)).float() / 255 - torch.tensor(RGB_MEAN)
    return scaled.movedim(-1, -3)


def denormalise(tensor: Tensor) -> NDArray[np.uint8]:
    """Convert normalised (…, 3, H, W) to (…, H, W, 3) uint8 RGB, rounded and clipped to 0..255."""
    scaled = (tensor.detach().cpu().float().movedim(-3, -1) + torch.tensor(RGB_MEAN)) * 255
    return scaled.round().clamp(0, 255).to(torch.uint8).numpy()


class Example(Pair):
    """A pair, and the error messages of the unreadable faces that were skipped for it."""

    skipped: str  # one message per line; usually empty


class FacePairs(Dataset[Example]):
    """Training pairs from a data set of faces.

    Indexed by (epoch, index). All randomness of a pair derives from this key and the seed, so every
    pair is reproducible. An unreadable face is replaced by the next readable one.

    Args:
        faces: the data set.
        flip: mirror each face with probability 0.5.
        seed: of all randomness.
        augment: ranges of the augmentation; None for none.
        degrade: limits of the input's degradation; None for none.
        drawn: fraction of the pairs, 0 ≤ drawn < 1, that are synthetic faces (68 landmarks), added
            to those of the data set. They differ in every epoch and are not augmented.
    """

    def __init__(
        self,
        faces: Faces,
        flip: bool = False,
        seed: int = 0,
        augment: Augment | None = None,
        degrade: Degrade | None = None,
        drawn: float = 0.0,
    ) -> None:
        self.faces, self.flip, self.seed = faces, flip, seed
        self.augment, self.degrade = augment, degrade
        self.drawn = round(len(faces) * drawn / (1 - drawn))  # number per epoch
        self.reported: set[str] = set()  # messages of unreadable faces that were printed

    @staticmethod
    def training(faces: Faces, recipe: Recipe) -> FacePairs:
        """Return the training pairs of a recipe, with its augmentation and degradation."""
        augment = None if recipe.augment == Augment() else recipe.augment
        degrade = None if recipe.degrade == Degrade() else recipe.degrade
        drawn = recipe.data.drawn if recipe.data.kind == "files" else 0.0
        return FacePairs(faces, recipe.data.flip, recipe.seed, augment, degrade, drawn)

    def __len__(self) -> int:
        return len(self.faces) + self.drawn

    def __getitem__(self, key: tuple[int, int]) -> Example:
        epoch, index = key
        rng = np.random.default_rng((self.seed, epoch, index))
        flipped = self.flip and rng.random() < 0.5
        skipped: list[str] = []
        if index >= len(self.faces):
            drawn = draw_face(self.seed, epoch * self.drawn + index - len(self.faces))
            image, points = drawn.image, drawn.landmarks
        else:
            image, points = self._face(index, rng, skipped)
        if flipped:
            image, points = mirror(image, points)
        observed = image if self.degrade is None else degraded(image, self.degrade, rng)
        return {
            "lq": normalise(shrink(observed)),
            "gt": normalise(image),
            "heatmaps": torch.from_numpy(heatmaps(points)),
            "landmarks": torch.from_numpy(points),
            "skipped": "\n".join(skipped),
        }

    def _face(self, index: int, rng: np.random.Generator, skipped: list[str]) -> Face:
        """Return the first readable face from `index` on, augmented.

        The messages of unreadable faces are appended to `skipped`.
        """
        for offset in range(min(MAX_SKIPPED, len(self.faces))):
            number = (index + offset) % len(self.faces)
            try:
                if self.augment is None:
                    return self.faces[number]
                picture = self.faces.picture(number)
            except BadFaceError as error:
                skipped.append(str(error))
            else:
                return varied(picture, self.augment, rng)
        raise UserError(
            f"{len(skipped)} faces in a row cannot be read (first: {skipped[0]}); check the data"
        )


class Batches(Sampler[list[tuple[int, int]]]):
    """Endless batches of (epoch, index) keys, shuffled anew in every epoch.

    The order depends on the seed only, and the position in it is the number of the update, so a
    resumed run sees the same batches as an uninterrupted one. Each batch is divided among the
    processes; each process yields its share as `parts` equal micro-batches.

    Args:
        faces: number of faces per epoch.
        batch_size: faces per update, over all processes; a multiple of `parts · world`.
        seed: of the order.
        start: number of updates already done.
        rank, world: index of this process, and number of processes.
        parts: micro-batches per update (gradient accumulation).

    Raises:
        UserError: fewer faces than `batch_size`.
    """

    def __init__(
        self,
        faces: int,
        batch_size: int,
        seed: int,
        start: int = 0,
        rank: int = 0,
        world: int = 1,
        parts: int = 1,
    ) -> None:
        self.faces, self.batch_size, self.seed, self.start = faces, batch_size, seed, start
        self.rank, self.world, self.parts = rank, world, parts
        # Updates per epoch. The incomplete last batch is dropped; it differs in every epoch.
        self.in_epoch = faces // batch_size
        if not self.in_epoch:
            raise UserError(
                f"batch_size is {batch_size}, but there are only {faces} faces; lower batch_size"
            )

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        update = self.start
        order: NDArray[np.int64] | None = None
        while True:
            epoch, batch_number = divmod(update, self.in_epoch)
            if order is None or batch_number == 0:
                order = np.random.default_rng((self.seed, epoch)).permutation(self.faces)
            first = batch_number * self.batch_size
            batch = order[first : first + self.batch_size]
            for part in batch.reshape(self.parts, self.world, -1)[:, self.rank]:
                yield [(epoch, int(index)) for index in part]
            update += 1


def mirror(
    image: NDArray[np.uint8], points: NDArray[np.float32]
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Mirror a face horizontally and renumber its landmarks (left eye ↔ right eye, etc.).

    Args:
        image: (128, 128, 3) uint8.
        points: (K, 2), pixels; K must be a key of `dic.landmarks.FLIPS`.
    """
    flipped = points[list(FLIPS[len(points)])]
    flipped[:, 0] = SR_SIZE - 1 - flipped[:, 0]
    return np.ascontiguousarray(image[:, ::-1]), flipped
