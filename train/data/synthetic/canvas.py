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
CANVAS = SR_SIZE * SUPERSAMPLING  # side in canvas pixels
EDGE_GRID = 3  # subsamples per canvas pixel and axis for the coverage of edges
SUBPIXEL_BITS = 4  # fractional bits of the polygon corners given to OpenCV


class Canvas:
    """A float image with drawing operations.

    Coordinates are (x, y) canvas pixels, with integers at pixel centres. `blur` is the standard
    deviation of a Gaussian in canvas pixels. Colours are RGB, 0..1.

    Attributes:
        pixels: (256, 256, 3) float32 RGB, 0..1 except for highlights.
        unit: canvas pixels per head unit, in which stroke widths and glow radii are given.
    """

    def __init__(self, unit: float, rng: np.random.Generator) -> None:
        self.pixels = np.zeros((CANVAS, CANVAS, 3), np.float32)
        self.unit, self.rng = unit, rng

    def mask(self, polygon: Floats, blur: float = 0.0) -> tuple[slice, slice, Floats]:
        """Return the window (rows, columns) around a polygon (n, 2) and its coverage, 0..1."""
        reach = 3 * blur + 2
        x0, y0 = np.maximum(np.floor(polygon.min(0) - reach), 0).astype(int)
        x1, y1 = np.minimum(np.ceil(polygon.max(0) + reach), CANVAS - 1).astype(int) + 1
        x0, y0 = min(x0, CANVAS - 1), min(y0, CANVAS - 1)
        x1, y1 = max(x1, x0 + 1), max(y1, y0 + 1)
        mask = _coverage(polygon, x0, y0, x1, y1, grid=1 if blur > 2 else EDGE_GRID)
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
        """Fill a polygon (n, 2), inside the polygon `clip` if given.

        `texture` (256, 256), if given, is multiplied with the colour.
        """
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
        """Draw a smooth curve through points (n, 2); `width` in head units."""
        curve = smooth(line.astype(np.float32), closed=False)
        step = np.gradient(curve, axis=0)
        across = np.stack((-step[:, 1], step[:, 0]), -1)
        across /= np.linalg.norm(across, axis=1, keepdims=True) + 1e-6
        half = across * max(width * self.unit, 0.8) / 2
        polygon = np.concatenate((curve - half, (curve + half)[::-1])).astype(np.float32)
        self.fill(polygon, colour, alpha, blur, clip=clip)

    def glow(self, centre: Floats, radius: tuple[float, float], gain: float) -> None:
        """Brighten (gain > 0) or darken (gain < 0) a soft ellipse; radii in head units."""
        rx, ry = radius[0] * self.unit, radius[1] * self.unit
        x0, x1 = max(int(centre[0] - 2.5 * rx), 0), min(int(centre[0] + 2.5 * rx) + 1, CANVAS)
        y0, y1 = max(int(centre[1] - 2.5 * ry), 0), min(int(centre[1] + 2.5 * ry) + 1, CANVAS)
        if x0 >= x1 or y0 >= y1:
            return
        gx = np.exp(-0.5 * ((np.arange(x0, x1, dtype=np.float32) - centre[0]) / rx) ** 2)
        gy = np.exp(-0.5 * ((np.arange(y0, y1, dtype=np.float32) - centre[1]) / ry) ** 2)
        self.pixels[y0:y1, x0:x1] *= (1 + gain * gy[:, None] * gx[None, :])[..., None]

    def noise(self, cells: tuple[int, int], strength: float) -> Floats:
        """Return smooth noise (256, 256) of mean 1, interpolated from `cells` random values."""
        small = self.rng.normal(1, strength, cells).astype(np.float32)
        return cast(Floats, cv2.resize(small, (CANVAS, CANVAS), interpolation=cv2.INTER_CUBIC))

    def strands(self, crown: Floats) -> Floats:
        """Return noise (256, 256) of mean 1 in radial strands around the point `crown`."""
        noise = self.rng.normal(1, 0.22, (220, 12)).astype(np.float32)
        polar = cv2.resize(noise, (CANVAS, 512), interpolation=cv2.INTER_LINEAR)
        # Without WARP_FILL_OUTLIERS, pixels beyond the radius are uninitialised memory.
        flags = cv2.INTER_LINEAR | cv2.WARP_POLAR_LINEAR | cv2.WARP_INVERSE_MAP
        flags |= cv2.WARP_FILL_OUTLIERS
        centre = (float(crown[0]), float(crown[1]))
        return cast(Floats, cv2.warpPolar(polar, (CANVAS, CANVAS), centre, CANVAS * 1.6, flags))


def _coverage(polygon: Floats, x0: int, y0: int, x1: int, y1: int, grid: int = EDGE_GRID) -> Bytes:
    """Return a polygon's coverage of each pixel in a window, 0..255.

    The polygon is filled on a finer grid and averaged, because OpenCV's antialiased filling moves
    edges by up to half a pixel.
    """
    fine = np.zeros((grid * (y1 - y0), grid * (x1 - x0)), np.uint8)
    corners = (polygon - [x0, y0] + 0.5) * grid - 0.5
    fixed = np.round(corners * 2**SUBPIXEL_BITS).astype(np.int32)
    cv2.fillPoly(fine, [fixed], 255, cv2.LINE_8, SUBPIXEL_BITS)
    return cast(Bytes, cv2.resize(fine, (x1 - x0, y1 - y0), interpolation=cv2.INTER_AREA))


def smooth(polygon: Floats, closed: bool = True) -> Floats:
    """Return a Catmull-Rom spline through the corners (n, 2), four points per side.

    Such a spline passes through its control points, here the landmarks.
    """
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
