"""Training pairs: a 128×128 face with landmarks becomes network input and targets."""

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
from dic.contract import RGB_MEAN
from dic.landmarks import FLIPS, heatmaps
from dic.sizes import LQ_SIZE, SR_SIZE
from train.data.augment import degraded, varied
from train.data.datasets import BadFaceError, Face, Faces
from train.data.synthetic import draw_face
from train.recipe import Augment, Degrade, Recipe

MOST_SKIPPED = 100  # unreadable faces in a row; more is no accident


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


class Example(Pair):
    """What the loader gives: a pair, and the faces that could not be read on the way to it."""

    skipped: str  # one a line; empty mostly


class FacePairs(Dataset[Example]):
    """Training pairs from faces.

    A key is (epoch, index): everything random about a pair is drawn from them and the seed, so
    that any pair of any epoch can be made again. A face that cannot be read is skipped: the next
    that can be read takes its place.

    Args:
        faces: where they come from.
        flip: mirror every other picture.
        seed: of whatever is drawn.
        augment: how each face is varied.
        degrade: how what the network sees of it is damaged.
        drawn: share of the pairs that are drawn faces (`synthetic`), others in every epoch; they
            are as varied as they are meant to be, and are not varied again.
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
        self.drawn = round(len(faces) * drawn / (1 - drawn))  # in an epoch
        self.told: set[str] = set()  # unreadable faces that have been named

    @staticmethod
    def training(faces: Faces, recipe: Recipe) -> FacePairs:
        """Pairs as a recipe trains on them."""
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
        seen = image if self.degrade is None else degraded(image, self.degrade, rng)
        return {
            "lq": normalise(shrink(seen)),
            "gt": normalise(image),
            "heatmaps": torch.from_numpy(heatmaps(points)),
            "landmarks": torch.from_numpy(points),
            "skipped": "\n".join(skipped),
        }

    def _face(self, index: int, rng: np.random.Generator, skipped: list[str]) -> Face:
        """The first face from `index` on that can be read, varied; names those that cannot."""
        for offset in range(min(MOST_SKIPPED, len(self.faces))):
            number = (index + offset) % len(self.faces)
            try:
                if self.augment is None:
                    return self.faces[number]
                picture = self.faces.picture(number)
            except BadFaceError as error:
                skipped.append(str(error))
            else:
                return varied(picture, self.augment, rng)
        raise UserError(f"{len(skipped)} faces in a row cannot be read; first: {skipped[0]}")


class Batches(Sampler[list[tuple[int, int]]]):
    """Which faces each update sees: a shuffled pass over all of them, then another, without end.

    The order is a function of the seed alone and a position in it is a number, the update's: a
    run that goes on at update 1,000 sees what it would have seen. Several processes share each
    batch, and each takes its part in `parts` equal pieces, one after the other.

    Args:
        faces: how many there are.
        batch_size: of one update, over all processes; a multiple of `parts · world`.
        start: number of updates already done.
        rank, world: this process's number and how many there are.
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
        self.in_epoch = faces // batch_size  # the rest of a pass is dropped, another each time
        if not self.in_epoch:
            raise UserError(f"batch_size is {batch_size}, and there are only {faces} faces")

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        update = self.start
        order: NDArray[np.int64] | None = None
        while True:
            epoch, place = divmod(update, self.in_epoch)
            if order is None or place == 0:
                order = np.random.default_rng((self.seed, epoch)).permutation(self.faces)
            batch = order[place * self.batch_size : (place + 1) * self.batch_size]
            mine = batch.reshape(self.parts, self.world, -1)[:, self.rank]
            for part in mine:
                yield [(epoch, int(index)) for index in part]
            update += 1


def mirror(
    image: NDArray[np.uint8], points: NDArray[np.float32]
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """A face and its landmarks seen in a mirror; the left eye's points become the right's."""
    flipped = points[list(FLIPS[len(points)])]
    flipped[:, 0] = SR_SIZE - 1 - flipped[:, 0]
    return np.ascontiguousarray(image[:, ::-1]), flipped
