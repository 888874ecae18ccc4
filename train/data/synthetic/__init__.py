"""Synthetic faces: images drawn from random parameters, with exact positions of 68 landmarks.

They replace data sets whose licences do not allow shipping. A face is a random three-dimensional
head (shape, expression, pose) whose landmarks are projected to the image plane; then background,
hair, neck, shaded skin, eyes, brows, nose, mouth and sometimes a beard or glasses are painted in
2D, and camera noise is added. Painting follows the projected landmarks, so these are exact by
construction.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import cv2
import numpy as np
from numpy.typing import NDArray

from dic.progress import Progress
from dic.sizes import SR_SIZE
from train.data.synthetic.canvas import SUPERSAMPLING, Floats
from train.data.synthetic.head import Head
from train.data.synthetic.painter import Painter

MIN_FACES_FOR_POOL = 100  # fewer faces are drawn faster than worker processes start


@dataclass(frozen=True)
class Face:
    """One synthetic face.

    Attributes:
        image: (128, 128, 3) uint8 RGB.
        landmarks: (68, 2) float32, (x, y) pixels; integers are pixel centres.
    """

    image: NDArray[np.uint8]
    landmarks: NDArray[np.float32]


def draw_face(seed: int, index: int = 0) -> Face:
    """Draw face number `index` of the infinite sequence `seed`; the result is reproducible."""
    rng = np.random.default_rng((seed, index))
    head = Head.random(rng)
    points = head.landmarks()
    image = Painter(head, points, rng).paint()
    return Face(image, to_pixels(points))


def to_pixels(points: Floats) -> NDArray[np.float32]:
    """Convert (…, 2) canvas coordinates to image pixels; in both, integers are pixel centres."""
    return ((points + 0.5) / SUPERSAMPLING - 0.5).astype(np.float32)


def draw_faces(
    seed: int, count: int, start: int = 0, workers: int = 0
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Draw faces `start` … `start + count - 1` of the sequence `seed`.

    From 500 faces on, a progress bar is shown.

    Args:
        workers: number of processes that draw; 0 or 1 to draw in this process. The result does not
            depend on it.

    Returns:
        images (count, 128, 128, 3) uint8 RGB, landmarks (count, 68, 2) float32.
    """
    images = np.empty((count, SR_SIZE, SR_SIZE, 3), np.uint8)
    landmarks = np.empty((count, 68, 2), np.float32)
    jobs = [(seed, i) for i in range(start, start + count)]
    with Progress(total=count, desc="drawing faces", unit="face", disable=count < 500) as bar:
        if workers > 1 and count >= MIN_FACES_FOR_POOL:
            with ProcessPoolExecutor(workers, get_context("spawn"), _single_thread) as pool:
                drawn = pool.map(_draw_job, jobs, chunksize=32)
                for i, face in enumerate(drawn):
                    images[i], landmarks[i] = face.image, face.landmarks
                    bar.update()
        else:
            for i, job in enumerate(jobs):
                face = draw_face(*job)
                images[i], landmarks[i] = face.image, face.landmarks
                bar.update()
    return images, landmarks


def _single_thread() -> None:
    cv2.setNumThreads(1)


def _draw_job(job: tuple[int, int]) -> Face:
    return draw_face(*job)
