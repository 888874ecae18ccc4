"""What is written beside a restored picture: its landmarks, drawn and as JSON; a comparison.

The JSON of a picture (`"schema": "dic-landmarks-1"`; of a video, `frames` is a list of them with
`time` in seconds for `image`):

    image        the file's name; of a stream "-"
    width, height   of that file, upright, in pixels
    scale        by how much the result is larger
    faces        a list, largest first, of
        box      [x, y, width, height] of the restored square, before it is turned
        angle    degrees by which it is turned clockwise about its centre
        matrix   2×3, pixels of the restored 128×128 face to pixels of the file
        score    the detector's
        landmarks   [[x, y], …] in pixels of the file, iBUG's 68 (or Helen's 194); null without
        scores   how sure each is, about 1 where it is; null without
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
from runtime.faces.restore import Face
from runtime.pictures.files import Picture

Bytes = NDArray[np.uint8]

SCHEMA = "dic-landmarks-1"
FOUND, BOX = (255, 60, 60), (80, 200, 120)  # RGB
SURE = 0.5  # a landmark less sure is drawn hollow
DRAWN_SIDE = 1024  # pixels to which a small picture is enlarged before it is drawn on
TILE = 256  # pixels of a face in a comparison
GAP = 8
CAPTION = 28


@dataclass(frozen=True)
class Result:
    """A restored picture, and where in it its faces are.

    Attributes:
        picture: what is written.
        original: what was read, (H, W, 3) uint8 RGB.
        faces: in pixels of the original.
        scale: pixels of the result a pixel of the original.
        corner: x, y of the result's left upper corner in the original.
    """

    picture: Picture
    original: Bytes
    faces: Sequence[Face]
    scale: float
    corner: tuple[int, int] = (0, 0)

    def place(self, face: Face) -> Crop:
        """The square of a face in pixels of the result."""
        (left, top), crop = self.corner, face.crop
        x, y = (round(at * self.scale) for at in (crop.x - left, crop.y - top))
        return replace(crop, x=x, y=y, size=round(crop.size * self.scale))


def landmarks_json(name: str, result: Result) -> bytes:
    """The document of a picture (see above)."""
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
    """The document of a video, of its frames' times in seconds and entries of faces."""
    listed = [{"time": round(at, 4), "faces": faces} for at, faces in frames]
    return _dumped({**_head(name, size, scale), "frames": listed})


def _dumped(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()


def face_entry(face: Face) -> dict[str, Any]:
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
    """The result with its faces' squares and landmarks, (H, W, 3) uint8 RGB."""
    image = result.picture.rgb()
    zoom = max(1, DRAWN_SIDE // max(image.shape[:2]))
    size = (image.shape[1] * zoom, image.shape[0] * zoom)
    image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_NEAREST), np.uint8)
    for face in result.faces:
        crop, side = scaled(result.place(face), zoom), face.image.shape[0]
        corners = np.array([[0, 0], [side, 0], [side, side], [0, side]]) - 0.5
        square = np.round(crop.to_picture(corners, side)).astype(np.int32)
        cv2.polylines(image, [square], True, BOX, max(1, crop.size // 300), cv2.LINE_AA)
        if face.landmarks is None or face.scores is None:
            continue
        radius, points = max(1, crop.size // 100), crop.to_picture(face.landmarks, side)
        for (x, y), score in zip(points, face.scores, strict=True):
            width = -1 if score >= SURE else 1
            cv2.circle(image, (round(x), round(y)), radius, FOUND, width, cv2.LINE_AA)
    return image


def comparison(result: Result) -> Bytes:
    """A row a face: as it was, enlarged bicubically, after each step, and the result."""
    rows, image = [], result.picture.rgb()
    for face in result.faces:
        before = cut(result.original, face.crop)
        tiles = [
            ("input", _tile(before, cv2.INTER_NEAREST)),
            ("bicubic", _tile(before, cv2.INTER_CUBIC)),
            *((f"step {n}", _tile(step)) for n, step in enumerate(face.steps, start=1)),
            ("result", _tile(cut(image, result.place(face)))),
        ]
        columns = [np.concatenate((_caption(text), tile)) for text, tile in tiles]
        rows.append(_joined(columns, axis=1))
    return _joined(rows, axis=0)


def _tile(image: Bytes, way: int = cv2.INTER_CUBIC) -> Bytes:
    way = cv2.INTER_AREA if image.shape[0] > TILE else way
    return np.asarray(cv2.resize(image, (TILE, TILE), interpolation=way), np.uint8)


def _caption(text: str) -> Bytes:
    strip = np.full((CAPTION, TILE, 3), 255, np.uint8)
    font = cv2.FONT_HERSHEY_SIMPLEX
    cv2.putText(strip, text, (4, CAPTION - 9), font, 0.6, (0, 0, 0), 1, cv2.LINE_AA)
    return strip


def _joined(parts: Sequence[Bytes], axis: int) -> Bytes:
    """Parts beside one another (axis 1) or below one another, with white between."""
    shape = list(parts[0].shape)
    shape[axis] = GAP
    gap = np.full(shape, 255, np.uint8)
    spaced = [piece for part in parts for piece in (gap, part)][1:]
    return np.concatenate(spaced, axis=axis)
