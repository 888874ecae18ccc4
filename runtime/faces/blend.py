"""Putting restored faces back into their photograph without a seam."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.faces.crop import SURE, Crop, scaled
from runtime.faces.options import Interpolation
from runtime.pictures.files import Picture
from runtime.pictures.resample import resize

Bytes = NDArray[np.uint8]
Weights = NDArray[np.float32]

FLAGS = {
    Interpolation.NEAREST: cv2.INTER_NEAREST,
    Interpolation.LINEAR: cv2.INTER_LINEAR,
    Interpolation.CUBIC: cv2.INTER_CUBIC,
    Interpolation.LANCZOS: cv2.INTER_LANCZOS4,
}
AGREE_UP_TO = 64  # pixels of a crop's side
AGREE_ROUNDS = 2
BELIEF_SIDE = 24  # pixels at which a restored face is held against the photograph
BELIEF_BLUR = 0.75  # of those
BELIEF = (6, 20)  # grey levels of difference up to which, and from which not, it is believed
FEATHER = (0.66, 0.98)  # where a pasted face begins to fade and where it is gone, in half sides
# The face within its square: the landmarks' hull and a forehead above it, fading out over these
# distances in sides.
FOREHEAD = 0.35  # of the landmarks' height
FADE = (0.06, 0.2)


def enlarged(photo: Picture, scale: int, way: Interpolation = Interpolation.CUBIC) -> Picture:
    """The photograph, enlarged; a copy where `scale` is 1."""

    def enlarge(channels: NDArray[Any]) -> NDArray[Any]:
        if scale == 1:
            return channels.copy()
        size = (channels.shape[1] * scale, channels.shape[0] * scale)
        done = cv2.resize(channels, size, interpolation=FLAGS[way])
        return cast(NDArray[Any], done.reshape(size[1], size[0], *channels.shape[2:]))

    pixels = enlarge(photo.pixels)
    if photo.alpha is None:
        return replace(photo, pixels=pixels)
    if scale > 1:
        # Colours count by their opacity (Porter and Duff, 1984): hidden ones must not bleed into
        # the edge of what is seen.
        opacity = photo.alpha.astype(np.float32) / photo.peak
        seen = enlarge(opacity)
        edge = (seen > 0.5 / photo.peak) & (np.abs(seen - 1) > 0.5 / photo.peak)
        for channel in range(pixels.shape[2]):
            weighted = enlarge(photo.pixels[:, :, channel] * opacity)[edge] / seen[edge]
            pixels[:, :, channel][edge] = np.clip(np.round(weighted), 0, photo.peak)
    return replace(photo, pixels=pixels, alpha=enlarge(photo.alpha))


def agree(face: Bytes, crop: Bytes) -> Bytes:
    """Make a restored face agree with the photograph (back-projection, Irani and Peleg, 1991).

    Shrunk to the photograph's resolution, the restored face should show what the photograph
    shows there. What it lacks is enlarged and added, so that no seam or tint shows where it is
    pasted, and detail between the network's 16 pixels and the photograph's is not lost (of a crop
    of more than 64 pixels, what 64 show).

    Args:
        face: (128, 128, 3) uint8 RGB, restored from `crop`.
        crop: (S, S, 3) uint8 RGB.
    """
    side = min(crop.shape[0], AGREE_UP_TO)
    seen = resize(crop, (side, side)).astype(np.float32)
    full = (face.shape[1], face.shape[0])
    for _ in range(AGREE_ROUNDS):
        lacking = seen - resize(face, (side, side))
        smooth = cv2.resize(lacking, full, interpolation=cv2.INTER_CUBIC)
        face = np.clip(np.round(face + smooth), 0, 255).astype(np.uint8)
    return face


def belief(face: Bytes, crop: Bytes) -> Weights:
    """How far a restored face may be believed, (128, 128) in 0..1.

    Where it contradicts what the photograph shows at a resolution little finer than the network's
    input, it was made up: a jaw beside the jaw, say. There the enlarged photograph is better
    (figures in benchmarks/NOTES.md).

    Args:
        face: (128, 128, 3) uint8 RGB, as the engine gave it.
        crop: (S, S, 3) uint8 RGB.
    """
    side = min(crop.shape[0], BELIEF_SIDE)
    seen, given = (resize(image, (side, side)).astype(np.float32) for image in (crop, face))
    off = cv2.GaussianBlur(np.abs(seen - given).mean(2), (0, 0), BELIEF_BLUR)
    size = (face.shape[1], face.shape[0])
    return _fade(cv2.resize(off, size, interpolation=cv2.INTER_LINEAR), *BELIEF)


def face_mask(
    side: int, landmarks: NDArray[np.float32] | None, scores: NDArray[np.float32] | None
) -> Weights:
    """How much of a restored face is pasted where, (side, side) in 0..1.

    The shape of the face, from its landmarks, within a rounded square that is 0 at its edge; the
    square alone where the landmarks are missing, or not trusted.
    """
    across = (np.arange(side, dtype=np.float32) + 0.5) / side * 2 - 1
    square = _fade((across[:, None] ** 4 + across[None, :] ** 4) ** 0.25, *FEATHER)
    if landmarks is None or scores is None or len(landmarks) < 60 or scores.mean() < SURE:
        return square
    low, high = landmarks.min(0), landmarks.max(0)
    brow = landmarks - [0, FOREHEAD * (high[1] - low[1])]
    hull = cv2.convexHull(np.concatenate((landmarks, brow)).astype(np.float32))
    outside = np.full((side, side), 255, np.uint8)
    cv2.fillConvexPoly(outside, np.round(hull * 16).astype(np.int32), 0, cv2.LINE_AA, shift=4)
    distance = cv2.distanceTransform(outside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return square * _fade(distance / np.float32(side), *FADE)


def _fade(distance: NDArray[Any], inner: float, outer: float) -> Weights:
    """1 up to `inner`, 0 from `outer`, smooth between."""
    t = np.clip((outer - distance) / (outer - inner), 0, 1)
    return (t * t * (3 - 2 * t)).astype(np.float32)


def paste(picture: Picture, face: Bytes, crop: Crop, scale: int, mask: Weights) -> None:
    """Blend a face into an enlarged picture, in place. Where the mask is 0 nothing is touched.

    Args:
        picture: the photograph, already enlarged by `scale`.
        face: (S, S, 3) uint8 RGB.
        crop: in pixels of the photograph before it was enlarged.
        mask: (S, S), from `face_mask`.
    """
    crop = scaled(crop, scale)
    height, width = picture.pixels.shape[:2]
    low, high = crop.reach()
    left, top = np.floor(low.clip(0)).astype(int)
    right, bottom = np.ceil(high.clip(max=[width - 1, height - 1])).astype(int) + 1
    if left >= right or top >= bottom:
        return  # it lies beyond the picture
    fitted = _placed(face.astype(np.float32), crop, left, top, right, bottom)
    weight = _placed(mask, crop, left, top, right, bottom)[:, :, None]
    if picture.pixels.shape[2] == 1:
        fitted = cv2.cvtColor(fitted, cv2.COLOR_RGB2GRAY)[:, :, None]
    fitted *= picture.peak / 255
    region = picture.pixels[top:bottom, left:right]
    under = region.astype(np.float32)
    blend = np.clip(np.round(under + weight * (fitted - under)), 0, picture.peak)
    region[...] = np.where(weight > 0, blend, region)


def _placed(
    image: NDArray[np.float32], crop: Crop, left: int, top: int, right: int, bottom: int
) -> NDArray[Any]:
    """An image of a crop's square as it lies in a region of the picture; 0 outside the square."""
    size = (crop.size, crop.size)
    way = cv2.INTER_AREA if crop.size < image.shape[0] else cv2.INTER_CUBIC
    fitted: NDArray[Any] = np.clip(cv2.resize(image, size, interpolation=way), 0, image.max())
    if crop.angle:
        matrix = crop.matrix(crop.size)
        matrix[:, 2] -= (left, top)
        done = cv2.warpAffine(fitted, matrix, (right - left, bottom - top), flags=cv2.INTER_LINEAR)
        return cast(NDArray[Any], done)
    inside = np.s_[top - crop.y : bottom - crop.y, left - crop.x : right - crop.x]
    return fitted[inside]
