"""A supersampled canvas: polygons, strokes, glows and noise, with soft edges."""

from __future__ import annotations

from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from dic.sizes import SR_SIZE

Floats = NDArray[np.floating[Any]]
Bytes = NDArray[np.uint8]

SUPERSAMPLING = 2
CANVAS = SR_SIZE * SUPERSAMPLING
EDGES = 3  # edges are drawn on a grid as much finer
SUBPIXEL = 4  # fractional bits of OpenCV's polygon corners


class Canvas:
    """What is painted on.

    Attributes:
        pixels: (256, 256, 3) float32 RGB, 0..1 but for highlights.
        unit: canvas pixels in the unit that strokes' widths and glows' radii are given in.
    """

    def __init__(self, unit: float, rng: np.random.Generator) -> None:
        self.pixels = np.zeros((CANVAS, CANVAS, 3), np.float32)
        self.unit, self.rng = unit, rng

    def mask(self, polygon: Floats, blur: float = 0.0) -> tuple[slice, slice, Floats]:
        """A polygon's coverage (0..1) and the window of the canvas that it needs."""
        reach = 3 * blur + 2
        x0, y0 = np.maximum(np.floor(polygon.min(0) - reach), 0).astype(int)
        x1, y1 = np.minimum(np.ceil(polygon.max(0) + reach), CANVAS - 1).astype(int) + 1
        x0, y0 = min(x0, CANVAS - 1), min(y0, CANVAS - 1)
        x1, y1 = max(x1, x0 + 1), max(y1, y0 + 1)
        mask = _coverage(polygon, x0, y0, x1, y1, grid=1 if blur > 2 else EDGES)
        if blur > 0.4:
            mask = cast(Bytes, cv2.GaussianBlur(mask, (0, 0), blur))
        return slice(y0, y1), slice(x0, x1), mask.astype(np.float32) / 255

    def fill(
        self,
        polygon: Floats,
        colour: Floats,
        alpha: float = 1.0,
        blur: float = 0.0,
        clip: Floats | None = None,
        texture: Floats | None = None,
    ) -> None:
        """Paint a polygon inside another (`clip`); `texture` (canvas-sized) scales the colour."""
        rows, columns, mask = self.mask(polygon, blur)
        if clip is not None:
            window = (columns.start, rows.start, columns.stop, rows.stop)
            mask = mask * (_coverage(clip, *window) / np.float32(255))
        mask = (mask * alpha)[..., None]
        shade = colour if texture is None else colour * texture[rows, columns, None]
        under = self.pixels[rows, columns]
        under += mask * (shade - under)

    def stroke(
        self,
        line: Floats,
        width: float,
        colour: Floats,
        alpha: float,
        *,
        blur: float = 0.0,
        clip: Floats | None = None,
    ) -> None:
        """Paint a line; width in head units."""
        curve = smooth(line.astype(np.float32), closed=False)
        step = np.gradient(curve, axis=0)
        across = np.stack((-step[:, 1], step[:, 0]), -1)
        across /= np.linalg.norm(across, axis=1, keepdims=True) + 1e-6
        half = across * max(width * self.unit, 0.8) / 2
        polygon = np.concatenate((curve - half, (curve + half)[::-1])).astype(np.float32)
        self.fill(polygon, colour, alpha, blur, clip=clip)

    def glow(self, centre: Floats, radius: tuple[float, float], gain: float) -> None:
        """Brighten (gain > 0) or darken a soft ellipse; radius in head units."""
        rx, ry = radius[0] * self.unit, radius[1] * self.unit
        x0, x1 = max(int(centre[0] - 2.5 * rx), 0), min(int(centre[0] + 2.5 * rx) + 1, CANVAS)
        y0, y1 = max(int(centre[1] - 2.5 * ry), 0), min(int(centre[1] + 2.5 * ry) + 1, CANVAS)
        if x0 >= x1 or y0 >= y1:
            return
        gx = np.exp(-0.5 * ((np.arange(x0, x1, dtype=np.float32) - centre[0]) / rx) ** 2)
        gy = np.exp(-0.5 * ((np.arange(y0, y1, dtype=np.float32) - centre[1]) / ry) ** 2)
        self.pixels[y0:y1, x0:x1] *= (1 + gain * gy[:, None] * gx[None, :])[..., None]

    def noise(self, cells: tuple[int, int], strength: float) -> Floats:
        """Smooth noise of mean 1: `cells` random values a side, enlarged to the canvas."""
        small = self.rng.normal(1, strength, cells).astype(np.float32)
        return cast(Floats, cv2.resize(small, (CANVAS, CANVAS), interpolation=cv2.INTER_CUBIC))

    def strands(self, crown: Floats) -> Floats:
        """Noise of mean 1 that runs outwards from a point of the canvas."""
        noise = self.rng.normal(1, 0.22, (220, 12)).astype(np.float32)
        rolled = cv2.resize(noise, (CANVAS, 512), interpolation=cv2.INTER_LINEAR)
        # Without filling, pixels beyond the radius would be whatever was in memory.
        flags = cv2.INTER_LINEAR | cv2.WARP_POLAR_LINEAR | cv2.WARP_INVERSE_MAP
        flags |= cv2.WARP_FILL_OUTLIERS
        centre = (float(crown[0]), float(crown[1]))
        return cast(Floats, cv2.warpPolar(rolled, (CANVAS, CANVAS), centre, CANVAS * 1.6, flags))


def _coverage(polygon: Floats, x0: int, y0: int, x1: int, y1: int, grid: int = EDGES) -> Bytes:
    """How much of each pixel of a window a polygon covers, 0..255.

    OpenCV's own antialiased filling moves edges by up to half a pixel; filling a finer grid and
    averaging does not.
    """
    fine = np.zeros((grid * (y1 - y0), grid * (x1 - x0)), np.uint8)
    corners = (polygon - [x0, y0] + 0.5) * grid - 0.5
    fixed = np.round(corners * 2**SUBPIXEL).astype(np.int32)
    cv2.fillPoly(fine, [fixed], 255, cv2.LINE_8, SUBPIXEL)
    return cast(Bytes, cv2.resize(fine, (x1 - x0, y1 - y0), interpolation=cv2.INTER_AREA))


def smooth(polygon: Floats, closed: bool = True) -> Floats:
    """Catmull-Rom through the corners, four points a side: what is drawn passes the landmarks."""
    n = len(polygon)
    if closed:
        before, after, after2 = (
            np.roll(polygon, 1, 0),
            np.roll(polygon, -1, 0),
            np.roll(polygon, -2, 0),
        )
        start = polygon
    else:
        padded = np.concatenate((polygon[:1], polygon, polygon[-1:]))
        before, start, after = padded[: n - 1], padded[1:n], padded[2 : n + 1]
        after2 = np.concatenate((padded[3 : n + 1], padded[-1:]))
    curve = []
    for t in (0.0, 0.25, 0.5, 0.75):
        curve.append(
            0.5
            * (
                2 * start
                + (after - before) * t
                + (2 * before - 5 * start + 4 * after - after2) * t**2
                + (3 * start - before - 3 * after + after2) * t**3
            )
        )
    points = np.stack(curve, 1).reshape(-1, 2)
    return points if closed else np.concatenate((points, polygon[-1:]))
