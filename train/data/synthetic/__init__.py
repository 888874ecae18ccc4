"""Synthetic faces: pictures drawn from parameters, with their 68 landmarks known exactly.

They stand in for a data set that cannot be shipped. A face is a random head in three dimensions
(shape, expression, pose), projected, and painted in two: background, hair, neck, skin under a
light, eyes with irises, brows, nose, mouth, sometimes a beard or glasses, then camera noise.
What is painted follows the projected landmarks, so the landmarks are exact by construction.
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

WORTH_A_POOL = 100  # faces; fewer are drawn before the workers have started


@dataclass(frozen=True)
class Face:
    """One synthetic face.

    Attributes:
        image: (128, 128, 3) uint8 RGB.
        landmarks: (68, 2) float32, (x, y) pixels; whole numbers are pixel centres.
    """

    image: NDArray[np.uint8]
    landmarks: NDArray[np.float32]


def draw_face(seed: int, index: int = 0) -> Face:
    """Face number `index` of the endless set `seed`; the same two numbers give the same face."""
    rng = np.random.default_rng((seed, index))
    head = Head.random(rng)
    points = head.landmarks()
    image = Painter(head, points, rng).paint()
    return Face(image, to_pixels(points))


def to_pixels(points: Floats) -> NDArray[np.float32]:
    """Canvas positions → pixels of the picture; in both, whole numbers are pixel centres."""
    return ((points + 0.5) / SUPERSAMPLING - 0.5).astype(np.float32)


def draw_faces(
    seed: int, count: int, start: int = 0, workers: int = 0
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Faces `start` … `start + count - 1` of the set `seed`, with a progress bar for many.

    Args:
        workers: processes that draw; 0 draws here. The result does not depend on it.

    Returns:
        images (count, 128, 128, 3) uint8 RGB, landmarks (count, 68, 2) float32.
    """
    images = np.empty((count, SR_SIZE, SR_SIZE, 3), np.uint8)
    landmarks = np.empty((count, 68, 2), np.float32)
    jobs = [(seed, i) for i in range(start, start + count)]
    with Progress(total=count, desc="drawing faces", unit="face", disable=count < 500) as bar:
        if workers > 1 and count >= WORTH_A_POOL:
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
