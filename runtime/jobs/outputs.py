"""Extra outputs of a restored picture: landmarks as JSON and drawn, and a comparison image.

The landmarks' JSON format (`"schema": "dic-landmarks-1"`) is in docs/reference/json.md.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.faces.crop import Crop, cut, scaled
from runtime.faces.face import Face
from runtime.pictures.picture import Picture
from runtime.pictures.sheet import captioned, joined, tile

Bytes = NDArray[np.uint8]

SCHEMA = "dic-landmarks-1"
LANDMARK_COLOUR, BOX_COLOUR = (255, 60, 60), (80, 200, 120)  # RGB
CONFIDENT = 0.5  # least score of a landmark that is drawn filled; others are drawn hollow
DRAWN_SIDE = 1024  # pixels; smaller pictures are enlarged up to this side before drawing


@dataclass(frozen=True)
class Result:
    """A restored picture with its faces.

    Attributes:
        picture: the result to write.
        original: the input, (H, W, 3) uint8 RGB.
        faces: the restored faces, in pixels of the original.
        scale: pixels of the result per pixel of the original.
        corner: (x, y) of the result's upper left corner in the original.
    """

    picture: Picture
    original: Bytes
    faces: Sequence[Face]
    scale: float
    corner: tuple[int, int] = (0, 0)

    def place(self, face: Face) -> Crop:
        """The crop of a face in pixels of the result."""
        (left, top), crop = self.corner, face.crop
        x, y = (round(at * self.scale) for at in (crop.x - left, crop.y - top))
        return replace(crop, x=x, y=y, size=round(crop.size * self.scale))


def landmarks_json(name: str, result: Result) -> bytes:
    """The JSON document of a picture.

    Args:
        name: of the input file; "-" for standard input.
        result: the restored picture.
    """
    height, width = result.original.shape[:2]
    head = _head(name, (width, height), result.scale)
    return _dumped({**head, "faces": [face_entry(face) for face in result.faces]})


def _head(name: str, size: tuple[int, int], scale: float) -> dict[str, Any]:
    width, height = size
    return {"schema": SCHEMA, "image": name, "width": width, "height": height, "scale": scale}


def video_json(
    name: str,
    size: tuple[int, int],
    scale: int,
    frames: Sequence[tuple[float, list[dict[str, Any]]]],
) -> bytes:
    """The JSON document of a video.

    Args:
        name: of the input file.
        size: (width, height) of the input in pixels, upright.
        scale: enlargement factor of the result.
        frames: time in seconds and the entries (`face_entry`) of the faces of each frame.
    """
    listed = [{"time": round(at, 4), "faces": faces} for at, faces in frames]
    return _dumped({**_head(name, size, scale), "frames": listed})


def _dumped(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()


def face_entry(face: Face) -> dict[str, Any]:
    """The entry of one face in a JSON document."""
    points = face.points
    return {
        "box": list(face.box),
        "angle": round(face.crop.angle, 3),
        "matrix": np.round(face.matrix, 5).tolist(),
        "score": round(face.crop.score, 4),
        "landmarks": None if points is None else np.round(points, 2).tolist(),
        "scores": None if face.scores is None else np.round(face.scores, 3).tolist(),
    }


def drawn(result: Result) -> Bytes:
    """The result with crops and landmarks drawn on it, (H, W, 3) uint8 RGB; enlarged if small."""
    image = result.picture.rgb()
    zoom = max(1, DRAWN_SIDE // max(image.shape[:2]))
    size = (image.shape[1] * zoom, image.shape[0] * zoom)
    image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_NEAREST), np.uint8)
    for face in result.faces:
        crop, side = scaled(result.place(face), zoom), face.side
        corners = np.array([[0, 0], [side, 0], [side, side], [0, side]]) - 0.5
        square = np.round(crop.to_picture(corners, side)).astype(np.int32)
        cv2.polylines(image, [square], True, BOX_COLOUR, max(1, crop.size // 300), cv2.LINE_AA)
        if face.landmarks is None or face.scores is None:
            continue
        radius, points = max(1, crop.size // 100), crop.to_picture(face.landmarks, side)
        for (x, y), score in zip(points, face.scores, strict=True):
            width = -1 if score >= CONFIDENT else 1  # -1 fills the circle
            cv2.circle(image, (round(x), round(y)), radius, LANDMARK_COLOUR, width, cv2.LINE_AA)
    return image


def comparison(result: Result) -> Bytes:
    """A row per face, (H, W, 3) uint8 RGB: input, bicubic enlargement, each step, and result."""
    rows, image = [], result.picture.rgb()
    for face in result.faces:
        before = cut(result.original, face.crop)
        tiles = [
            ("input", tile(before, interpolation=cv2.INTER_NEAREST)),
            ("bicubic", tile(before)),
            *((f"step {n}", tile(step)) for n, step in enumerate(face.steps, start=1)),
            ("result", tile(cut(image, result.place(face)))),
        ]
        rows.append(joined([captioned(text, pixels) for text, pixels in tiles], axis=1))
    return joined(rows, axis=0)
