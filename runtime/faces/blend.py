"""Blending restored faces into their photograph without visible seams."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.faces.crop import SURE, Crop, scaled
from runtime.faces.options import Interpolation
from runtime.pictures.picture import Picture
from runtime.pictures.resample import resize

Bytes = NDArray[np.uint8]
Weights = NDArray[np.float32]

FLAGS = {
    Interpolation.NEAREST: cv2.INTER_NEAREST,
    Interpolation.LINEAR: cv2.INTER_LINEAR,
    Interpolation.CUBIC: cv2.INTER_CUBIC,
    Interpolation.LANCZOS: cv2.INTER_LANCZOS4,
}
PROJECTION_SIDE = 64  # pixels; largest resolution of the back-projection
# By the photograph's quantisation and grain up to so many grey levels: rounds, and whether Lanczos
# (else bicubic) enlarges the difference. Sharp projection would put back a JPEG's noise, and a
# scan's (measured in benchmarks/NOTES.md).
PROJECTION = (
    (1.0, 2.5, 4, True),
    (20.0, 7.5, 2, False),
    (np.inf, np.inf, 1, False),
)
# Comparison of a restored face with the photograph: side in pixels, standard deviation of the
# blur in those pixels, and the mean differences in grey levels that give weights of 1 and 0.
COMPARISON_SIDE = 16
COMPARISON_BLUR = 0.75
DIFFERENCE = (6, 20)
# Distances from the crop's centre, in half sides, where the mask begins to fade and is 0.
FEATHER = (0.9, 0.99)
ROUNDNESS = 8  # of the square: exponent of the superellipse
# Outline of the face: the convex hull of the landmarks, extended upwards by this share of their
# height. Outside it the mask fades between these distances, in sides of the crop.
FOREHEAD = 0.45
FADE = (0.12, 0.3)


def enlarged(photo: Picture, scale: int, way: Interpolation = Interpolation.CUBIC) -> Picture:
    """Enlarge a photograph and its alpha channel `scale` times; a copy if `scale` is 1."""

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


def projection(quantisation: float, grain: float) -> tuple[int, bool]:
    """Rounds of back-projection for a photograph, and whether Lanczos enlarges the difference.

    Args:
        quantisation, grain: see `Picture`.
    """
    return next(
        (rounds, lanczos)
        for coarse, noisy, rounds, lanczos in PROJECTION
        if quantisation <= coarse and grain <= noisy
    )


def back_project(face: Bytes, crop: Bytes, quantisation: float = 0.0, grain: float = 0.0) -> Bytes:
    """Make a restored face consistent with the photograph (Irani and Peleg, 1991).

    Iterative back-projection: reduced to the crop's resolution, the face should equal the crop.
    The difference is enlarged and added, which removes seams and tints and restores detail that
    the crop has beyond the network's 16×16 pixels. Crops of more than 64 pixels are reduced to 64.

    Args:
        face: (128, 128, 3) uint8 RGB, restored from `crop`.
        crop: (S, S, 3) uint8 RGB.
        quantisation, grain: of the photograph, see `Picture`.

    Returns:
        (128, 128, 3) uint8 RGB.
    """
    side = min(crop.shape[0], PROJECTION_SIDE)
    target = resize(crop, (side, side)).astype(np.float32)
    full = (face.shape[1], face.shape[0])
    rounds, lanczos = projection(quantisation, grain)
    way = cv2.INTER_LANCZOS4 if lanczos else cv2.INTER_CUBIC
    for _ in range(rounds):
        residual = target - resize(face, (side, side))
        correction = cv2.resize(residual, full, interpolation=way)
        face = np.clip(np.round(face + correction), 0, 255).astype(np.uint8)
    return face


def consistency(face: Bytes, crop: Bytes) -> Weights:
    """Per-pixel consistency of a restored face with the photograph.

    Both are compared at 16×16 pixels, what the network has seen. Where they
    contradict each other, the network invented structure (such as a second jaw line), and the
    enlarged photograph looks better (measured in benchmarks/NOTES.md).

    Args:
        face: (128, 128, 3) uint8 RGB, as returned by the engine.
        crop: (S, S, 3) uint8 RGB.

    Returns:
        (128, 128) float32 weights in 0..1; 1 where they agree.
    """
    side = min(crop.shape[0], COMPARISON_SIDE)
    photo, restored = (resize(image, (side, side)).astype(np.float32) for image in (crop, face))
    difference = np.abs(photo - restored).mean(2)
    difference = cv2.GaussianBlur(difference, (0, 0), COMPARISON_BLUR)
    size = (face.shape[1], face.shape[0])
    return _fade(cv2.resize(difference, size, interpolation=cv2.INTER_LINEAR), *DIFFERENCE)


def face_mask(
    side: int, landmarks: NDArray[np.float32] | None, scores: NDArray[np.float32] | None
) -> Weights:
    """Blending mask of a restored face.

    The outline of the face from its landmarks, multiplied by a rounded square that fades to 0 at
    the crop's edge; the square alone if there are no landmarks, fewer than 60, or their mean score
    is below `SURE`.

    Args:
        side: of the face in pixels.
        landmarks: (K, 2) pixels of the face.
        scores: (K,) heatmap peaks.

    Returns:
        (side, side) float32 weights in 0..1.
    """
    across = (np.arange(side, dtype=np.float32) + 0.5) / side * 2 - 1
    powers = across**ROUNDNESS
    square = _fade((powers[:, None] + powers[None, :]) ** (1 / ROUNDNESS), *FEATHER)
    outside = outline(side, landmarks, scores)
    if outside is None:
        return square
    distance = cv2.distanceTransform(outside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return square * _fade(distance / np.float32(side), *FADE)


def outline(
    side: int, landmarks: NDArray[np.float32] | None, scores: NDArray[np.float32] | None
) -> Bytes | None:
    """Draw a face: the convex hull of its landmarks, extended over the forehead.

    Args:
        side: of the face in pixels.
        landmarks: (K, 2) pixels of the face.
        scores: (K,) heatmap peaks.

    Returns:
        (side, side) uint8, 0 within the face; None if there are no landmarks, fewer than 60, or
        their mean score is below `SURE`.
    """
    if landmarks is None or scores is None or len(landmarks) < 60 or scores.mean() < SURE:
        return None
    low, high = landmarks.min(0), landmarks.max(0)
    brow = landmarks - [0, FOREHEAD * (high[1] - low[1])]
    hull = cv2.convexHull(np.concatenate((landmarks, brow)).astype(np.float32))
    outside = np.full((side, side), 255, np.uint8)
    cv2.fillConvexPoly(outside, np.round(hull * 16).astype(np.int32), 0, cv2.LINE_AA, shift=4)
    return outside


def _fade(distance: NDArray[Any], inner: float, outer: float) -> Weights:
    """Smoothstep: 1 for distances up to `inner`, 0 from `outer`."""
    t = np.clip((outer - distance) / (outer - inner), 0, 1)
    return (t * t * (3 - 2 * t)).astype(np.float32)


def paste(picture: Picture, face: Bytes, crop: Crop, scale: int, mask: Weights) -> None:
    """Blend a face into an enlarged picture, in place. Pixels where the mask is 0 do not change.

    Args:
        picture: the photograph, already enlarged `scale` times.
        face: (S, S, 3) uint8 RGB.
        crop: the face's crop in pixels of the photograph before enlargement.
        scale: the enlargement factor.
        mask: (S, S) weights in 0..1.
    """
    crop = scaled(crop, scale)
    height, width = picture.pixels.shape[:2]
    low, high = crop.reach()
    left, top = np.floor(low.clip(0)).astype(int)
    right, bottom = np.ceil(high.clip(max=[width - 1, height - 1])).astype(int) + 1
    if left >= right or top >= bottom:
        return  # the crop lies entirely outside the picture
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
    """Resample an image of a crop into a region of the picture; 0 outside a rotated crop."""
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
