"""Cutting one face out of a picture, and refusing what is none."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dic.console import UserError
from dic.landmarks import COMPONENT_GROUPS, CROPS
from dic.sizes import SR_SIZE
from train.data.annotations import Annotation, AnnotationError
from train.data.datasets import Entry, Face, Picture, annotation_of, check_box, cut, read_picture

SMALLEST_EXTENT = 0.15  # of the landmarks, as a share of the face's side
MOST_OUTSIDE = 0.1  # share of the landmarks: the corner of a jaw may be cut off, half a face not


@dataclass(frozen=True)
class Wishes:
    """What every face has to meet.

    Attributes:
        points: landmarks a face.
        crop: cut by its "landmarks", by its "box", or "none" for pictures that are faces already.
        smallest: side of the cut-out in pixels under which it is rejected.
        margin: share of the face's side that is kept on each side of it.
    """

    points: int = 68
    crop: str = "landmarks"
    smallest: int = SR_SIZE
    margin: float = 0.0


class RejectedError(Exception):
    """A picture that gives no face to train on: a kind to count, and what was found."""

    def __init__(self, kind: str, detail: object = "") -> None:
        super().__init__(kind)
        self.kind, self.detail = kind, (str(detail) or kind).splitlines()[0]


class Detector:
    """68 landmarks by the `face-alignment` package (Bulat & Tzimiropoulos, ICCV 2017).

    Raises:
        UserError: it is not installed.
    """

    def __init__(self) -> None:
        try:
            import face_alignment
        except ModuleNotFoundError as error:
            raise UserError("--detect needs face-alignment: pip install face-alignment") from error
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
        kind = face_alignment.LandmarksType.TWO_D
        self._aligner = face_alignment.FaceAlignment(kind, device=device)

    def __call__(self, image: NDArray[np.uint8]) -> Annotation | None:
        """The landmarks of the largest face in an RGB picture."""
        found = self._aligner.get_landmarks_from_image(image)
        if not found:
            return None
        return Annotation(max((np.asarray(f, np.float32) for f in found), key=_extent))


def _extent(points: NDArray[np.float32]) -> float:
    return float(np.ptp(points, axis=0).max())


def crop_box(points: NDArray[np.float32]) -> tuple[float, float, float, float]:
    """The square around a face, from hair to chin, of (K, 2): left, top, right, bottom."""
    factor, higher = CROPS[len(points)]
    low, high = points.min(0), points.max(0)
    longer = float((high - low).max())
    x, y = (low + high) / 2 - [0, higher * longer]
    left, top = round(x - factor * longer / 2), round(y - factor * longer / 2)
    side = max(1, round(factor * longer))
    return left, top, left + side, top + side


def cut_face(entry: Entry, wishes: Wishes, detector: Detector | None) -> Face | Picture:
    """Read, check and cut one face; RejectedError where it is none.

    Returns:
        the face, 128×128; with a margin a picture as large as it was, with the face's box.
    """
    try:
        image = read_picture(entry.picture.read())
    except Exception as error:  # damaged pictures raise what they like
        raise RejectedError("unreadable", error) from error
    height, width = image.shape[:2]
    annotation = _annotation(entry, image, detector)
    points = annotation.landmarks
    if len(points) != wishes.points:
        raise RejectedError(f"not {wishes.points} landmarks", f"{len(points)} landmarks")
    if wishes.crop == "box":
        if annotation.box is None:
            raise RejectedError("no box")
        box = annotation.box
    elif wishes.crop == "none":
        if height != width:
            raise RejectedError("not square", f"{width}×{height} pixels")
        box = (0, 0, width, height)
    else:
        box = crop_box(points)
    side = min(box[2] - box[0], box[3] - box[1])
    if side < wishes.smallest:
        raise RejectedError(f"smaller than {wishes.smallest} pixels", f"{side:.0f} pixels")
    if _share_outside(points, width, height) > MOST_OUTSIDE:
        raise RejectedError("face outside the picture")
    face, inside = cut(image, points, box)
    if _share_outside(inside, SR_SIZE, SR_SIZE) > MOST_OUTSIDE:
        raise RejectedError("landmarks outside the cut-out")
    if _extent(inside) < SMALLEST_EXTENT * SR_SIZE:
        raise RejectedError("landmarks all in one place", f"within {_extent(inside):.0f} pixels")
    if not _upright(inside):
        raise RejectedError("not upright", "the mouth is not below the eyes; are x and y swapped?")
    if wishes.margin:
        return _with_margin(Picture(image, points, box), wishes.margin)
    return face, inside


def _with_margin(picture: Picture, margin: float) -> Picture:
    """The box and what the picture shows beside it, not resized."""
    height, width = picture.image.shape[:2]
    left, top, right, bottom = check_box(picture.box, width, height)
    wide = round(margin * (right - left))
    x, y = max(0, left - wide), max(0, top - wide)
    part = picture.image[y : max(y + 1, bottom + wide), x : max(x + 1, right + wide)]
    return Picture(
        np.ascontiguousarray(part),
        picture.landmarks - np.array([x, y], np.float32),
        (left - x, top - y, right - x, bottom - y),
    )


def _annotation(entry: Entry, image: NDArray[np.uint8], detector: Detector | None) -> Annotation:
    if entry.annotation is not None:
        try:
            return annotation_of(entry)
        except AnnotationError as error:
            raise RejectedError("damaged landmarks", error) from error
    if detector is None:
        raise RejectedError("no landmarks")
    found = detector(image)
    if found is None:
        raise RejectedError("no face found")
    return found


def _upright(points: NDArray[np.float32]) -> bool:
    """Whether the mouth is below the eyes, within 45°."""
    groups = {5: ((0,), (1,), (), (3, 4))}.get(len(points), COMPONENT_GROUPS[len(points)])
    left, right, mouth = (points[list(groups[part])].mean(0) for part in (0, 1, 3))
    across, down = mouth - (left + right) / 2
    return bool(down > abs(across))


def _share_outside(points: NDArray[np.float32], width: int, height: int) -> float:
    outside = (points < -0.5) | (points > [width - 0.5, height - 0.5])
    return float(outside.any(axis=1).mean())
