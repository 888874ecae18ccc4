"""Preview images: a network's results beside input and ground truth, and sheets of faces."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from dic.landmarks import decode
from dic.sizes import SR_SIZE
from train.data.pairs import FacePairs, denormalise
from train.model.network import DIC

FACES = 8
HEADER = 16  # height of the column titles in pixels
PREDICTED, TRUE = (255, 64, 64), (64, 255, 64)  # colours of landmarks, RGB

Bytes = NDArray[np.uint8]


@torch.no_grad()
def progress_picture(network: DIC, pairs: FacePairs) -> Bytes:
    """Restore some faces and return an image (H, W, 3) uint8 RGB with one row per face.

    The columns are input, bicubic enlargement, each step, and ground truth, without and with
    landmarks: those of the last step in red, the true ones in green.
    """
    keys = [(0, index) for index in range(min(FACES, len(pairs)))]
    batch = [pairs[key] for key in keys]
    lq = torch.stack([pair["lq"] for pair in batch])
    network.eval()
    steps = network(lq.to(network.components.device))
    network.train()
    small, gt = denormalise(lq), denormalise(torch.stack([pair["gt"] for pair in batch]))
    columns = {"input": _enlarged(small, Image.Resampling.NEAREST)}
    columns["bicubic"] = _enlarged(small, Image.Resampling.BICUBIC)
    columns |= {f"step {n}": denormalise(sr) for n, sr in enumerate(steps.sr, start=1)}
    columns["truth"] = gt
    predicted, _ = decode(steps.heatmaps[-1].float().cpu().numpy())
    true = np.stack([pair["landmarks"].numpy() for pair in batch])
    columns["landmarks"] = np.stack(
        [
            marked(marked(face, t, TRUE), p, PREDICTED)
            for face, t, p in zip(gt, true, predicted, strict=True)
        ]
    )
    strips = [np.concatenate((_header(name), *faces)) for name, faces in columns.items()]
    return np.concatenate(strips, axis=1)


def sheet(faces: Sequence[tuple[Bytes, NDArray[np.float32]]], columns: int = 6) -> Bytes:
    """Arrange faces (128, 128, 3), with their landmarks (K, 2) in green, in rows of `columns`."""
    tiles = [marked(face, points, TRUE) for face, points in faces]
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % columns)
    rows = [np.concatenate(tiles[i : i + columns], 1) for i in range(0, len(tiles), columns)]
    return np.concatenate(rows)


def _enlarged(small: Bytes, method: Image.Resampling) -> Bytes:
    size = (SR_SIZE, SR_SIZE)
    return np.stack([np.asarray(Image.fromarray(face).resize(size, method)) for face in small])


def marked(face: Bytes, points: NDArray[np.float32], colour: tuple[int, int, int]) -> Bytes:
    """Return a copy of the face with a dot on each landmark."""
    drawn = face.copy()
    for x, y in np.round(points).astype(int):
        cv2.circle(drawn, (int(x), int(y)), 1, colour, -1)
    return drawn


def _header(name: str) -> Bytes:
    strip = np.full((HEADER, SR_SIZE, 3), 255, np.uint8)
    font = cv2.FONT_HERSHEY_SIMPLEX
    cv2.putText(strip, name, (3, HEADER - 5), font, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
    return strip
