"""Cropping one face from a picture, and rejecting pictures that are unsuitable for training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dic.console import UserError
from dic.landmarks import COMPONENT_GROUPS, face_square
from dic.sizes import SR_SIZE
from train.data.annotations import Annotation, AnnotationError
from train.data.datasets import Entry, annotation_of
from train.data.pictures import Face, Picture, check_box, cut, read_picture

MIN_EXTENT = 0.15  # longer side of the landmarks' bounding box, relative to the crop's side
MAX_OUTSIDE = 0.1  # fraction of the landmarks: the corner of a jaw may be cut off, half a face not


@dataclass(frozen=True)
class CropOptions:
    """How faces are cropped, and the requirements that they must meet.

    Attributes:
        points: K, landmarks per face.
        crop: "landmarks" to crop by the landmarks, "box" by the given box, "none" for pictures that
            are aligned faces already.
        smallest: minimum side of the crop in pixels; smaller faces are rejected.
        margin: kept around the crop on each side, as a fraction of its side; 0 for none.
        memory: bytes that a picture may take; None for no limit.
    """

    points: int = 68
    crop: str = "landmarks"
    smallest: int = SR_SIZE
    margin: float = 0.0
    memory: int | None = None


class RejectedError(Exception):
    """A picture is unsuitable for training.

    Args:
        kind: the reason, a key of `rejected` in report.json (so the texts must not change).
        detail: of this picture.
    """

    def __init__(self, kind: str, detail: object = "") -> None:
        super().__init__(kind)
        self.kind, self.detail = kind, (str(detail) or kind).splitlines()[0]


class Detector:
    """Detects 68 landmarks with the `face-alignment` package (Bulat & Tzimiropoulos, ICCV 2017).

    Raises:
        UserError: the package is not installed.
    """

    def __init__(self) -> None:
        try:
            import face_alignment
        except ModuleNotFoundError as error:
            raise UserError(
                "--detect needs face-alignment; pip install 'dic-toolkit[detect]'"
            ) from error
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
        kind = face_alignment.LandmarksType.TWO_D
        self._aligner = face_alignment.FaceAlignment(kind, device=device)

    def __call__(self, image: NDArray[np.uint8]) -> Annotation | None:
        """Return the landmarks of the largest face, or None if no face is detected.

        Args:
            image: (H, W, 3) uint8 RGB.
        """
        faces = self._aligner.get_landmarks_from_image(image)
        if not faces:
            return None
        return Annotation(max((np.asarray(f, np.float32) for f in faces), key=_extent))


def _extent(points: NDArray[np.float32]) -> float:
    """Return the longer side of the bounding box of (K, 2) points."""
    return float(np.ptp(points, axis=0).max())


def crop_box(points: NDArray[np.float32]) -> tuple[float, float, float, float]:
    """Return the square around a face from hair to chin; see `dic.landmarks.CROPS`.

    Args:
        points: (K, 2) landmarks of an upright face, pixels.

    Returns:
        (left, top, right, bottom) in whole pixels, right and bottom exclusive.
    """
    (x, y), exact = face_square(points)
    left, top = round(x - exact / 2), round(y - exact / 2)
    side = max(1, round(exact))
    return left, top, left + side, top + side


def cut_face(entry: Entry, options: CropOptions, detector: Detector | None) -> Face | Picture:
    """Read, check and crop one face.

    Args:
        detector: detects the landmarks if the entry has none; None to reject such entries.

    Returns:
        the 128×128 face; with a margin, the face and its margin at the original resolution.

    Raises:
        RejectedError: the picture is unsuitable for training.
    """
    try:
        image = read_picture(entry.picture.read(), options.memory)
    except Exception as error:  # Pillow raises many types for damaged files
        raise RejectedError("unreadable", error) from error
    height, width = image.shape[:2]
    annotation = _annotation(entry, image, detector)
    points = annotation.landmarks
    if len(points) != options.points:
        raise RejectedError(f"not {options.points} landmarks", f"{len(points)} landmarks")
    if options.crop == "box":
        if annotation.box is None:
            raise RejectedError("no box")
        box = annotation.box
    elif options.crop == "none":
        if height != width:
            raise RejectedError("not square", f"{width}×{height} pixels")
        box = (0, 0, width, height)
    else:
        box = crop_box(points)
    side = min(box[2] - box[0], box[3] - box[1])
    if side < options.smallest:
        raise RejectedError(f"smaller than {options.smallest} pixels", f"{side:.0f} pixels")
    if _fraction_outside(points, width, height) > MAX_OUTSIDE:
        raise RejectedError("face outside the picture")
    face, inside = cut(image, points, box)
    if _fraction_outside(inside, SR_SIZE, SR_SIZE) > MAX_OUTSIDE:
        raise RejectedError("landmarks outside the cut-out")
    if _extent(inside) < MIN_EXTENT * SR_SIZE:
        raise RejectedError("landmarks all in one place", f"within {_extent(inside):.0f} pixels")
    if not _upright(inside):
        raise RejectedError("not upright", "the mouth is not below the eyes; are x and y swapped?")
    if options.margin:
        return _with_margin(Picture(image, points, box), options.margin)
    return face, inside


def _with_margin(picture: Picture, margin: float) -> Picture:
    """Crop a picture to its box plus the margin, as far as the picture extends; no resizing."""
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
    detected = detector(image)
    if detected is None:
        raise RejectedError("no face found")
    return detected


def _upright(points: NDArray[np.float32]) -> bool:
    """Return whether the direction from the eyes to the mouth is within 45° of straight down."""
    groups = {5: ((0,), (1,), (), (3, 4))}.get(len(points), COMPONENT_GROUPS[len(points)])
    left, right, mouth = (points[list(groups[part])].mean(0) for part in (0, 1, 3))
    across, down = mouth - (left + right) / 2
    return bool(down > abs(across))


def _fraction_outside(points: NDArray[np.float32], width: int, height: int) -> float:
    """Return the fraction of (K, 2) points that lie outside a picture."""
    outside = (points < -0.5) | (points > [width - 0.5, height - 0.5])
    return float(outside.any(axis=1).mean())
