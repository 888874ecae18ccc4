"""Synthetic faces: pictures drawn from parameters, with their 68 landmarks known exactly.

They stand in for a data set that cannot be shipped. A face is a random head in three dimensions
(shape, expression, pose), projected, and painted in two: background, hair, neck, skin under a
light, eyes with irises, brows, nose, mouth, sometimes a beard or glasses, then camera noise.
What is painted follows the projected landmarks, so the landmarks are exact by construction.

The head's frame: x to the right of the picture, y down, z towards the viewer; the unit is half
the width between the ears (about 70 mm); the origin lies between the eyes. Proportions follow
common anthropometric means (Farkas, "Anthropometry of the Head and Face", 1994).
"""

from __future__ import annotations

import math
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from train.console import Progress
from train.network import SR_SIZE

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

SUPERSAMPLING = 2
CANVAS = SR_SIZE * SUPERSAMPLING
SUBPIXEL = 4  # fractional bits of OpenCV's polygon corners
TURN_CENTRE = 0.6  # depth of the axis about which a head turns


@dataclass(frozen=True)
class Face:
    """One synthetic face.

    Attributes:
        image: (128, 128, 3) uint8 RGB.
        landmarks: (68, 2) float32, (x, y) pixels; whole numbers are pixel centres.
    """

    image: Bytes
    landmarks: Floats


def draw_face(seed: int, index: int = 0) -> Face:
    """Face number `index` of the endless set `seed`; the same two numbers give the same face."""
    rng = np.random.default_rng((seed, index))
    head = _Head.random(rng)
    points = head.landmarks()
    image = _Painter(head, points, rng).paint()
    return Face(image, (points / SUPERSAMPLING - _HALF).astype(np.float32))


# A supersampled pixel's centre k lies at (k - 0.5) / 2 of the final picture's pixel centres.
_HALF = (SUPERSAMPLING - 1) / (2 * SUPERSAMPLING)


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
        if workers > 1:
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


@dataclass(frozen=True)
class _Head:
    """Shape, expression and pose. Lengths in head units, angles in radians."""

    width: float
    jaw_roundness: float
    cheek_fall: float
    chin: float
    eye_distance: float
    eye_width: float
    eye_open: float
    eye_tilt: float
    brow_height: float
    brow_arch: float
    brow_slant: float
    nose_length: float
    nose_width: float
    mouth_height: float
    mouth_width: float
    lip_upper: float
    lip_lower: float
    mouth_open: float
    smile: float
    skull: float
    forehead: float
    yaw: float
    pitch: float
    roll: float
    scale: float  # canvas pixels a unit
    centre: tuple[float, float]  # canvas position of the head's origin
    asymmetry: Floats  # (68, 3), small offsets that no mirror symmetry explains

    @staticmethod
    def random(rng: np.random.Generator) -> _Head:
        def around(mean: float, spread: float) -> float:
            return float(np.clip(rng.normal(mean, spread), mean - 2.2 * spread, mean + 2.2 * spread))

        open_mouth = max(0.0, around(0.16, 0.1)) if rng.random() < 0.45 else 0.0
        middle = CANVAS / 2
        return _Head(
            width=around(1.0, 0.05),
            jaw_roundness=around(0.74, 0.08),
            cheek_fall=around(1.22, 0.12),
            chin=around(1.62, 0.09),
            eye_distance=around(0.45, 0.03),
            eye_width=around(0.215, 0.02),
            eye_open=max(0.015, around(0.075, 0.022)) if rng.random() > 0.03 else 0.012,
            eye_tilt=around(0.02, 0.02),
            brow_height=around(0.30, 0.05),
            brow_arch=around(0.07, 0.035),
            brow_slant=around(0.0, 0.04),
            nose_length=around(0.70, 0.06),
            nose_width=around(0.25, 0.035),
            mouth_height=around(1.05, 0.05),
            mouth_width=around(0.37, 0.045),
            lip_upper=around(0.085, 0.022),
            lip_lower=around(0.115, 0.028),
            mouth_open=open_mouth,
            smile=around(0.06, 0.06),
            skull=around(1.52, 0.08),
            forehead=around(0.92, 0.12),
            yaw=around(0.0, 0.24),
            pitch=around(0.0, 0.13),
            roll=around(0.0, 0.09),
            scale=SUPERSAMPLING * around(36.0, 2.4),
            centre=(middle + around(0, 6.0), middle - SUPERSAMPLING * 11 + around(0, 6.0)),
            asymmetry=rng.normal(0, 0.008, (68, 3)).astype(np.float32),
        )

    def project(self, points: Floats) -> Floats:
        """Head frame (n, 3) → canvas (n, 2): turn, nod, tilt, then weak perspective."""
        x, y, z = points.T
        z = z - TURN_CENTRE
        x, z = (
            x * math.cos(self.yaw) + z * math.sin(self.yaw),
            z * math.cos(self.yaw) - x * math.sin(self.yaw),
        )
        y, z = (
            y * math.cos(self.pitch) - z * math.sin(self.pitch),
            z * math.cos(self.pitch) + y * math.sin(self.pitch),
        )
        x, y = (
            x * math.cos(self.roll) - y * math.sin(self.roll),
            y * math.cos(self.roll) + x * math.sin(self.roll),
        )
        near = self.scale / (1 - 0.05 * z)
        return np.stack((self.centre[0] + x * near, self.centre[1] + y * near), -1).astype(
            np.float32
        )

    def landmarks(self) -> Floats:
        """The 68 points on the canvas, (68, 2)."""
        return self.project(self._landmarks_3d() + self.asymmetry)

    def _landmarks_3d(self) -> Floats:
        parts = [self._jaw(), *self._brows(), self._nose(), *self._eyes(), self._mouth()]
        return np.concatenate(parts).astype(np.float32)

    def _jaw(self) -> Floats:
        t = np.linspace(-1, 1, 17)
        angle = t * math.pi / 2
        x = np.sign(t) * np.abs(np.sin(angle)) ** self.jaw_roundness * self.width
        y = 0.05 + (self.chin - 0.05) * np.cos(angle) ** self.cheek_fall
        # The outline is what the viewer sees: on the side that turns away, the cheek's edge,
        # which lies further forward than the ear.
        away = np.clip(np.sign(t) * self.yaw / 0.45, 0, 1)
        z = (0.1 + 0.55 * away) * np.abs(t) ** 2 + 1.05 * (1 - np.abs(t) ** 2)
        return np.stack((x, y, z), -1)

    def _brows(self) -> list[Floats]:
        t = np.linspace(0, 1, 5)
        x = self.eye_distance - 0.29 + t * 0.62
        y = -self.brow_height - self.brow_arch * np.sin(math.pi * t**1.2) + self.brow_slant * t
        z = 1.25 - 0.45 * t**2
        right = np.stack((x, y, z), -1)
        return [_mirror(right)[::-1], right]

    def _nose(self) -> Floats:
        t = np.linspace(0, 1, 4)
        bridge = np.stack((0 * t, -0.04 + (self.nose_length - 0.16) * t, 1.28 + 0.42 * t), -1)
        s = np.linspace(-1, 1, 5)
        base = np.stack(
            (s * self.nose_width * 0.8, self.nose_length + 0.05 * (1 - s**2), 1.45 - 0.17 * s**2),
            -1,
        )
        return np.concatenate((bridge, base))

    def _eyes(self) -> list[Floats]:
        # Corner, two of the upper lid, corner, two of the lower lid.
        t = np.array([-1, -0.38, 0.38, 1, 0.38, -0.38])
        lid = np.array([0, -1.25, -1.25, 0, 0.75, 0.75])
        x = self.eye_distance + t * self.eye_width
        y = lid * self.eye_open - self.eye_tilt * t
        z = 1.12 - 0.11 * (t + 1)
        right = np.stack((x, y, z), -1)
        return [_mirror(right)[[3, 2, 1, 0, 5, 4]], right]

    def _mouth(self) -> Floats:
        w, up, low, gap = self.mouth_width, self.lip_upper, self.lip_lower, self.mouth_open / 2
        s = np.array([-1, -0.62, -0.24, 0, 0.24, 0.62, 1])
        upper = -gap - up * np.array([0, 0.72, 1.08, 0.86, 1.08, 0.72, 0])
        t = np.array([0.66, 0.3, 0, -0.3, -0.66])
        lower = gap + low * np.array([0.62, 0.95, 1.0, 0.95, 0.62])
        i = np.array([-0.84, -0.3, 0, 0.3, 0.84])
        inner_upper = -gap * np.array([0, 0.9, 1, 0.9, 0])
        j = np.array([0.3, 0, -0.3])
        x = np.concatenate((s, t, i, j)) * w
        y = np.concatenate((upper, lower, inner_upper, gap * np.array([0.9, 1, 0.9])))
        corner = (x / w) ** 2
        y = y * np.where(corner > 0.65, 0.5, 1) + self.mouth_height - self.smile * corner
        z = 1.36 - 0.22 * corner
        return np.stack((x, y, z), -1)


def _mirror(points: Floats) -> Floats:
    return points * np.array([-1, 1, 1])


# Skin from light to dark, RGB 0..1; a face takes a place between two neighbours.
_SKIN = np.array(
    [[0.94, 0.80, 0.72], [0.88, 0.70, 0.59], [0.78, 0.58, 0.45], [0.58, 0.40, 0.29], [0.36, 0.23, 0.17]],
    np.float32,
)
_HAIR = np.array(
    [[0.06, 0.05, 0.05], [0.16, 0.10, 0.07], [0.30, 0.19, 0.11], [0.55, 0.40, 0.22], [0.45, 0.20, 0.10], [0.62, 0.61, 0.60]],
    np.float32,
)
_IRIS = np.array(
    [[0.22, 0.13, 0.08], [0.33, 0.22, 0.12], [0.35, 0.42, 0.30], [0.35, 0.48, 0.60], [0.40, 0.42, 0.45]],
    np.float32,
)


class _Painter:
    """Paints one head onto a supersampled canvas, from the back to the front."""

    def __init__(self, head: _Head, points: Floats, rng: np.random.Generator) -> None:
        self.head, self.points, self.rng = head, points, rng
        self.unit = head.scale
        self.canvas: Floats = np.empty((CANVAS, CANVAS, 3), np.float32)
        tone = rng.uniform(0, len(_SKIN) - 1.001)
        low = int(tone)
        skin = _SKIN[low] + (tone - low) * (_SKIN[low + 1] - _SKIN[low])
        self.skin = np.clip(skin * rng.normal(1, 0.025, 3), 0.05, 1).astype(np.float32)
        dark = tone > 2.6
        hair = _HAIR[rng.integers(0, 2 if dark else len(_HAIR))]
        self.hair = np.clip(hair * rng.normal(1, 0.15) * rng.normal(1, 0.04, 3), 0.02, 0.9).astype(np.float32)
        self.iris = _IRIS[0 if dark else rng.integers(0, len(_IRIS))]
        light = rng.normal([0, -0.45, 0], [0.6, 0.35, 0])
        light[2] = rng.uniform(0.7, 1.3)
        self.light = light / np.linalg.norm(light)
        self.outline = self._outline()

    def paint(self) -> Bytes:
        rng = self.rng
        self._background()
        style = rng.random()
        length = 0.1 if style < 0.45 else float(rng.uniform(0.6, 2.6))
        bald = style < 0.06
        if not bald:
            self._hair_behind(length)
        self._body()
        self._ears()
        self._skin()
        beard = rng.random()
        if beard < 0.16:
            self._beard(full=beard < 0.09)
        self._sockets()
        self._nose()
        self._mouth()
        for eye in (self.points[36:42], self.points[42:48]):
            self._eye(eye)
        self._brow(self.points[17:22])
        self._brow(self.points[22:27])
        if not bald:
            self._hair_front()
        if rng.random() < 0.15:
            self._glasses()
        return self._develop()

    # ---------------------------------------------------------------- tools

    def _at(self, *points: tuple[float, float, float]) -> Floats:
        return self.head.project(np.array(points, np.float32))

    def _mask(self, polygon: Floats, blur: float = 0.0) -> tuple[slice, slice, Floats]:
        """A polygon's coverage (0..1) and the window of the canvas that it needs."""
        reach = 3 * blur + 2
        x0, y0 = np.maximum(np.floor(polygon.min(0) - reach), 0).astype(int)
        x1, y1 = np.minimum(np.ceil(polygon.max(0) + reach), CANVAS - 1).astype(int) + 1
        x0, y0 = min(x0, CANVAS - 1), min(y0, CANVAS - 1)
        x1, y1 = max(x1, x0 + 1), max(y1, y0 + 1)
        mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
        corners = np.round((polygon - [x0, y0]) * 2**SUBPIXEL).astype(np.int32)
        cv2.fillPoly(mask, [corners], 255, cv2.LINE_AA, SUBPIXEL)
        if blur > 0.4:
            mask = cast(Bytes, cv2.GaussianBlur(mask, (0, 0), blur))
        return slice(y0, y1), slice(x0, x1), mask.astype(np.float32) / 255

    def _fill(
        self,
        polygon: Floats,
        colour: Floats,
        alpha: float = 1.0,
        blur: float = 0.0,
        clip: Floats | None = None,
        texture: Floats | None = None,
    ) -> None:
        """Paint a polygon. `clip` is another polygon; `texture` (canvas-sized) scales the colour."""
        rows, columns, mask = self._mask(polygon, blur)
        if clip is not None:
            mask = mask * self._full_mask(clip)[rows, columns]
        mask = (mask * alpha)[..., None]
        shade = colour if texture is None else colour * texture[rows, columns, None]
        window = self.canvas[rows, columns]
        window += mask * (shade - window)

    def _full_mask(self, polygon: Floats) -> Floats:
        mask = np.zeros((CANVAS, CANVAS), np.uint8)
        corners = np.round(polygon * 2**SUBPIXEL).astype(np.int32)
        cv2.fillPoly(mask, [corners], 255, cv2.LINE_AA, SUBPIXEL)
        return mask.astype(np.float32) / 255

    def _glow(self, centre: Floats, radius: tuple[float, float], gain: float) -> None:
        """Brighten (gain > 0) or darken a soft ellipse; radius in head units."""
        rx, ry = radius[0] * self.unit, radius[1] * self.unit
        x0, x1 = max(int(centre[0] - 2.5 * rx), 0), min(int(centre[0] + 2.5 * rx) + 1, CANVAS)
        y0, y1 = max(int(centre[1] - 2.5 * ry), 0), min(int(centre[1] + 2.5 * ry) + 1, CANVAS)
        if x0 >= x1 or y0 >= y1:
            return
        gx = np.exp(-0.5 * ((np.arange(x0, x1, dtype=np.float32) - centre[0]) / rx) ** 2)
        gy = np.exp(-0.5 * ((np.arange(y0, y1, dtype=np.float32) - centre[1]) / ry) ** 2)
        self.canvas[y0:y1, x0:x1] *= (1 + gain * gy[:, None] * gx[None, :])[..., None]

    def _noise(self, cells: tuple[int, int], strength: float) -> Floats:
        """Smooth noise of mean 1: `cells` random values a side, enlarged to the canvas."""
        small = self.rng.normal(1, strength, cells).astype(np.float32)
        return cast(Floats, cv2.resize(small, (CANVAS, CANVAS), interpolation=cv2.INTER_CUBIC))

    def _strands(self) -> Floats:
        """Hair texture: noise that runs outwards from the crown."""
        noise = self.rng.normal(1, 0.22, (220, 12)).astype(np.float32)
        rolled = cv2.resize(noise, (CANVAS, 512), interpolation=cv2.INTER_LINEAR)
        crown = self._at((float(self.rng.normal(0, 0.35)), -self.head.skull, 0.5))[0]
        flags = cv2.WARP_POLAR_LINEAR | cv2.WARP_INVERSE_MAP | cv2.INTER_LINEAR
        centre = (float(crown[0]), float(crown[1]))
        return cast(Floats, cv2.warpPolar(rolled, (CANVAS, CANVAS), centre, CANVAS * 1.3, flags))

    def _outline(self) -> Floats:
        """The skin's edge: jaw, then over the skull."""
        angle = np.linspace(0, math.pi, 19)[1:-1]
        h = self.head
        away = np.sign(np.cos(angle)) * h.yaw / 0.45
        skull = np.stack(
            (
                1.02 * h.width * np.cos(angle),
                0.05 - (h.skull + 0.05) * np.sin(angle),
                np.where(away > 0, 0.65, 0.35) * np.ones_like(angle),
            ),
            -1,
        )
        return np.concatenate((self.points[:17], h.project(skull.astype(np.float32))))

    # ---------------------------------------------------------------- layers

    def _background(self) -> None:
        rng = self.rng
        base = rng.uniform(0.05, 0.95, 3)
        grey = base.mean()
        base = grey + (base - grey) * rng.uniform(0.0, 0.5)
        cells = int(rng.choice([2, 3, 5, 9, 16]))
        field = rng.normal(0, rng.uniform(0.02, 0.22), (cells, cells, 3)).astype(np.float32)
        field = field * 0.25 + field.mean(2, keepdims=True) * 0.9
        field = cv2.resize(field, (CANVAS, CANVAS), interpolation=cv2.INTER_CUBIC)
        self.canvas[:] = base + field
        for _ in range(int(rng.integers(0, 5))):
            corner = rng.uniform(0, CANVAS, (1, 2))
            shape = corner + rng.normal(0, CANVAS / 4, (4, 2))
            colour = (rng.uniform(0, 1) + rng.normal(0, 0.12, 3)).astype(np.float32)
            self._fill(shape.astype(np.float32), colour, rng.uniform(0.2, 0.9), rng.uniform(0, 8))

    def _hair_behind(self, length: float) -> None:
        h, rng = self.head, self.rng
        volume = rng.uniform(1.08, 1.32)
        angle = np.linspace(0, math.pi, 15)
        top = np.stack(
            (
                volume * h.width * np.cos(angle),
                0.1 - (h.skull * rng.uniform(1.04, 1.16) + 0.1) * np.sin(angle),
                0 * angle,
            ),
            -1,
        )
        wide = volume * h.width * rng.uniform(0.85, 1.2)
        ends = np.array([[-wide, length, -0.2], [wide, length, -0.2]])
        polygon = h.project(np.concatenate((top, ends)).astype(np.float32))
        self._fill(polygon, self.hair * 0.8, blur=rng.uniform(0.5, 3), texture=self._strands())

    def _body(self) -> None:
        h, rng = self.head, self.rng
        colour = rng.uniform(0.02, 0.95, 3).astype(np.float32)
        colour = colour.mean() + (colour - colour.mean()) * rng.uniform(0.1, 0.8)
        wide = rng.uniform(0.55, 0.72)
        neck = self._at(
            (-wide, h.chin * 0.55, 0.2), (wide, h.chin * 0.55, 0.2), (wide + 0.08, 3, 0), (-wide - 0.08, 3, 0)
        )
        self._fill(neck, self.skin * rng.uniform(0.45, 0.85), blur=1.0, texture=self._noise((4, 4), 0.12))
        y = h.chin + rng.uniform(0.35, 0.65)
        shoulders = self._at(
            (-0.6, y, 0), (0, y + rng.uniform(0, 0.4), 0.4), (0.6, y, 0), (2.4, y + 0.5, 0), (2.6, 4, 0), (-2.6, 4, 0), (-2.4, y + 0.5, 0)
        )
        self._fill(shoulders, colour, blur=0.7, texture=self._noise((12, 12), 0.06))

    def _ears(self) -> None:
        h = self.head
        angle = np.linspace(0, 2 * math.pi, 12, endpoint=False)
        for side in (-1, 1):
            if side * h.yaw > 0.12:
                continue  # turned away
            x = side * (h.width + 0.0) + 0.11 * np.cos(angle)
            y = 0.25 + 0.27 * np.sin(angle)
            ear = h.project(np.stack((x, y, 0 * x), -1).astype(np.float32))
            self._fill(ear, self.skin * 0.75, blur=0.8)

    def _skin(self) -> None:
        rows, columns, mask = self._mask(self.outline, 0.7)
        centre = (self.outline.min(0) + self.outline.max(0)) / 2
        radius = (self.outline.max(0) - self.outline.min(0)) / 2 * 1.04
        # Lambert's law on an ellipsoid, coarse: shading is smooth.
        ys = np.linspace(rows.start, rows.stop - 1, 40, dtype=np.float32)
        xs = np.linspace(columns.start, columns.stop - 1, 40, dtype=np.float32)
        nx = (xs[None, :] - centre[0]) / radius[0]
        ny = (ys[:, None] - centre[1]) / radius[1]
        nz = np.sqrt(np.clip(1 - 0.8 * nx**2 - 0.6 * ny**2, 0.02, 1))
        facing = (nx * self.light[0] + ny * self.light[1] + nz * self.light[2]) / np.sqrt(
            nx**2 + ny**2 + nz**2
        )
        ambient = self.rng.uniform(0.2, 0.75)
        gloss = self.rng.uniform(0.0, 0.25) * np.clip(facing, 0, 1) ** 12
        shade = ambient + (1.08 - ambient) * np.clip(facing, 0, 1) + gloss
        size = (mask.shape[1], mask.shape[0])
        shade = cv2.resize(shade.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
        texture = self._noise((48, 48), 0.025) * self._noise((6, 6), 0.03)
        colour = self.skin * (shade * texture[rows, columns])[..., None]
        self.canvas[rows, columns] += mask[..., None] * (colour - self.canvas[rows, columns])
        # Under the jaw the neck lies in shadow; cheeks are redder and catch the light.
        blush = self.rng.uniform(0, 0.10)
        for side in (-1, 1):
            cheek = self._at((side * 0.55, 0.55, 1.05))[0]
            self._glow(cheek, (0.22, 0.2), self.rng.uniform(-0.02, 0.10))
            rx = 0.25 * self.unit
            angle = np.linspace(0, 2 * math.pi, 10, endpoint=False)
            ring = cheek + rx * np.stack((np.cos(angle), np.sin(angle)), -1)
            red = self.skin * np.array([1.0, 0.72, 0.70], np.float32)
            self._fill(ring.astype(np.float32), red, blush * 2, blur=0.1 * self.unit)
        self._glow(self._at((0, -0.55, 1.15))[0], (0.4, 0.22), self.rng.uniform(0, 0.12))

    def _beard(self, full: bool) -> None:
        p = self.points
        moustache = np.concatenate((p[48:55], p[[35, 33, 31]] * 0.75 + p[[53, 51, 49]] * 0.25))
        alpha = self.rng.uniform(0.35, 0.95)
        texture = self._noise((90, 90), 0.22)
        if full:
            inner = (p[2:15] * 0.45 + p[[48, 48, 48, 59, 58, 57, 57, 57, 56, 55, 54, 54, 54]] * 0.55)[::-1]
            jaw = np.concatenate((p[2:15], inner))
            self._fill(jaw, self.hair, alpha, blur=0.05 * self.unit, clip=self.outline, texture=texture)
            chin = np.concatenate((p[48:49], p[54:60], p[[10, 9, 8, 7, 6]]))
            self._fill(chin, self.hair, alpha * 0.9, blur=0.05 * self.unit, texture=texture)
        self._fill(moustache, self.hair, alpha, blur=0.025 * self.unit, texture=texture)

    def _sockets(self) -> None:
        depth = self.rng.uniform(0.08, 0.3)
        for eye, brow in ((self.points[36:42], self.points[17:22]), (self.points[42:48], self.points[22:27])):
            middle = eye.mean(0) * 0.65 + brow.mean(0) * 0.35
            self._glow(middle, (0.26, 0.13), -depth)
            below = eye.mean(0) * 1.25 - brow.mean(0) * 0.25
            self._glow(below, (0.2, 0.06), -self.rng.uniform(0, 0.14))

    def _nose(self) -> None:
        p, rng = self.points, self.rng
        side = -1.0 if self.light[0] > 0 else 1.0
        strength = rng.uniform(0.08, 0.26) * min(1.0, 0.4 + abs(self.light[0]) * 1.5)
        for t in (0.15, 0.45, 0.75):
            on_bridge = self._at((side * 0.16, t * self.head.nose_length, 1.25))[0]
            self._glow(on_bridge, (0.07, 0.15), -strength)
        for t in (0.1, 0.4):
            self._glow(self._at((0, t * self.head.nose_length, 1.45))[0], (0.05, 0.16), rng.uniform(0.02, 0.14))
        self._glow(p[30], (0.07, 0.06), rng.uniform(0.03, 0.25))
        self._glow(p[33] + [0, 0.04 * self.unit], (0.2, 0.05), -rng.uniform(0.1, 0.35))
        dark = self.skin * np.array([0.62, 0.5, 0.48], np.float32)
        for wing, lift in ((p[31], -0.02), (p[35], 0.02)):
            fold = np.array([wing + [lift * self.unit, -0.16 * self.unit], wing + [2.2 * lift * self.unit, -0.06 * self.unit], wing])
            self._stroke(fold, 0.025, dark, rng.uniform(0.25, 0.6))
        for a, b in ((p[31], p[32]), (p[34], p[35])):
            middle = (a + b) / 2
            angle = np.linspace(0, 2 * math.pi, 10, endpoint=False)
            ring = middle + np.stack((np.cos(angle) * 0.06, np.sin(angle) * 0.03), -1) * self.unit
            self._fill(ring.astype(np.float32), self.skin * 0.28, rng.uniform(0.5, 0.9), blur=0.012 * self.unit)

    def _mouth(self) -> None:
        p, rng = self.points, self.rng
        paint = rng.random() < 0.3
        tint = np.array([1.0, 0.42, 0.46] if paint else [0.95, 0.64, 0.62], np.float32)
        lips = np.clip(self.skin * tint * rng.normal(1, 0.06, 3), 0, 1).astype(np.float32)
        upper = np.concatenate((p[48:55], p[60:65][::-1]))
        lower = np.concatenate((p[54:60], p[48:49], p[60:61], p[64:68][::-1]))
        self._fill(_smooth(upper), lips * 0.82, 0.95, blur=0.4)
        self._fill(_smooth(lower), lips, 0.95, blur=0.4)
        self._glow(p[57] * 0.6 + p[66] * 0.4, (0.14, 0.03), rng.uniform(0, 0.25))
        self._glow(p[57] + [0, 0.07 * self.unit], (0.2, 0.04), -rng.uniform(0.05, 0.25))
        inner = p[60:68]
        if self.head.mouth_open > 0.03:
            self._fill(_smooth(inner), np.array([0.20, 0.06, 0.06], np.float32), blur=0.4)
            if rng.random() < 0.8:
                teeth = np.concatenate((inner[0:5], inner[[5, 6, 7]] * 0.45 + inner[[3, 2, 1]] * 0.55))
                self._fill(_smooth(teeth), np.array([0.90, 0.87, 0.82], np.float32) * rng.uniform(0.75, 1), 0.95, 0.6, clip=_smooth(inner))
        seam = (inner[:5] + inner[[0, 7, 6, 5, 4]]) / 2
        if self.head.mouth_open <= 0.03:
            self._stroke(np.concatenate((p[48:49], seam, p[54:55])), 0.02, lips * 0.35, 0.85)
        for corner in (p[48], p[54]):
            self._glow(corner, (0.05, 0.04), -rng.uniform(0.1, 0.35))

    def _eye(self, eye: Floats) -> None:
        rng = self.rng
        almond = _smooth(eye)
        white = np.array([0.93, 0.91, 0.89], np.float32) * rng.uniform(0.75, 1.0)
        self._fill(almond, white, blur=0.4)
        # Both irises look the same way: the gaze comes from the head's own seed.
        gaze = np.random.default_rng(int(self.head.asymmetry[0, 0] * 1e9) % 2**32).normal(0, 0.025, 2)
        centre = eye.mean(0) + gaze * self.unit
        radius = 0.088 * self.unit
        angle = np.linspace(0, 2 * math.pi, 20, endpoint=False)
        ring = np.stack((np.cos(angle), np.sin(angle)), -1)
        self._fill((centre + ring * radius).astype(np.float32), self.iris * 0.55, clip=almond)
        self._fill((centre + ring * radius * 0.8).astype(np.float32), self.iris, blur=0.5, clip=almond)
        self._fill((centre + ring * radius * 0.42).astype(np.float32), np.full(3, 0.02, np.float32), clip=almond)
        # The upper lid throws a shadow on the ball and carries the lashes.
        lid = eye[:4]
        self._stroke(lid + [0, 0.02 * self.unit], 0.03, self.skin * 0.3, 0.4, clip=almond)
        glint = centre + np.array([0.3 * np.sign(self.light[0]), -0.35]) * radius
        self._fill((glint + ring * radius * 0.24).astype(np.float32), np.ones(3, np.float32), 0.9, clip=almond)
        lash = rng.uniform(0.018, 0.042)
        self._stroke(lid, lash, self.hair * 0.25, rng.uniform(0.7, 1))
        self._stroke(eye[[3, 4, 5, 0]], 0.014, self.skin * 0.5, rng.uniform(0.3, 0.7))
        self._stroke(lid - [0, rng.uniform(0.045, 0.085) * self.unit], 0.016, self.skin * 0.5, rng.uniform(0.1, 0.55))

    def _brow(self, brow: Floats) -> None:
        rng = self.rng
        thick = rng.uniform(0.045, 0.105) * self.unit
        taper = np.array([0.5, 0.9, 1.0, 0.9, 0.45])
        side = np.stack((0 * taper, taper * thick / 2), -1)
        polygon = np.concatenate((brow - side, (brow + side)[::-1])).astype(np.float32)
        colour = self.hair * rng.uniform(0.5, 0.9)
        self._fill(_smooth(polygon), colour, rng.uniform(0.55, 0.95), blur=rng.uniform(0.6, 1.6), texture=self._noise((70, 70), 0.15))

    def _hair_front(self) -> None:
        h, rng = self.head, self.rng
        line = -h.forehead
        fringe = rng.random()
        part = rng.uniform(-0.6, 0.6)
        x = np.linspace(-1, 1, 13)
        y = line - 0.12 + 0.75 * np.abs(x) ** 3.5 + rng.normal(0, 0.03, 13)
        if fringe < 0.25:  # a fringe over the forehead
            y = np.maximum(y, line + rng.uniform(0.2, 0.5) - 0.1 * np.abs(x - part))
        elif fringe < 0.6:  # swept from a parting
            y = y + rng.uniform(0.1, 0.45) * np.clip(np.abs(x - part), 0, 1) ** 1.5
        hairline = np.stack((x * h.width * 1.06, y, 1.15 - 0.75 * x**2), -1)
        angle = np.linspace(0, math.pi, 15)
        away = np.sign(np.cos(angle)) * h.yaw
        top = np.stack(
            (
                1.1 * h.width * np.cos(angle),
                -0.15 - (h.skull * rng.uniform(1.03, 1.12) - 0.15) * np.sin(angle),
                np.where(away > 0, 0.65, 0.35),
            ),
            -1,
        )
        polygon = h.project(np.concatenate((hairline, top)).astype(np.float32))
        shadow = polygon + [0, 0.06 * self.unit]
        self._fill(shadow.astype(np.float32), self.skin * 0.45, rng.uniform(0.1, 0.4), blur=0.04 * self.unit, clip=self.outline)
        light = self._noise((5, 5), 0.2) * self._strands()
        self._fill(polygon, self.hair * rng.uniform(0.9, 1.25), 1.0, rng.uniform(0.5, 2.0), texture=light)

    def _glasses(self) -> None:
        rng = self.rng
        colour = (np.full(3, rng.uniform(0.02, 0.5)) * rng.normal(1, 0.1, 3)).astype(np.float32)
        angle = np.linspace(0, 2 * math.pi, 24)
        power = rng.uniform(0.55, 1.0)  # from box to ellipse
        c, s = np.cos(angle), np.sin(angle)
        ring = np.stack((np.sign(c) * np.abs(c) ** power * 0.34, np.sign(s) * np.abs(s) ** power * 0.24), -1)
        thick = rng.uniform(0.02, 0.06)
        tinted = rng.random() < 0.12
        for x in (-self.head.eye_distance, self.head.eye_distance):
            loop = np.stack((x + ring[:, 0], 0.05 + ring[:, 1], 1.3 - 0.25 * np.abs(x + ring[:, 0])), -1)
            lens = self.head.project(loop.astype(np.float32))
            self._fill(lens, np.full(3, 0.03, np.float32), 0.75 if tinted else 0.06)
            self._stroke(lens, thick, colour, 0.95)
        bridge = self._at((-0.12, 0.0, 1.42), (0, -0.03, 1.46), (0.12, 0.0, 1.42))
        self._stroke(bridge, thick, colour, 0.95)

    def _stroke(
        self, line: Floats, width: float, colour: Floats, alpha: float, clip: Floats | None = None
    ) -> None:
        """Paint a line; width in head units."""
        curve = _smooth(line.astype(np.float32), closed=False)
        step = np.gradient(curve, axis=0)
        across = np.stack((-step[:, 1], step[:, 0]), -1)
        across /= np.linalg.norm(across, axis=1, keepdims=True) + 1e-6
        half = across * max(width * self.unit, 0.8) / 2
        polygon = np.concatenate((curve - half, (curve + half)[::-1])).astype(np.float32)
        self._fill(polygon, colour.astype(np.float32), alpha, clip=clip)

    def _develop(self) -> Bytes:
        """The camera: exposure, white balance, contrast, blur, grain, and down to 128×128."""
        rng = self.rng
        image = cv2.resize(self.canvas, (SR_SIZE, SR_SIZE), interpolation=cv2.INTER_AREA)
        image = np.clip(image, 0, 1) ** rng.uniform(0.75, 1.3)
        contrast = rng.uniform(0.75, 1.15)
        image = 0.45 + (image - 0.45) * contrast + rng.normal(0, 0.04)
        image = image * rng.normal(1, 0.03, 3)
        if rng.random() < 0.06:
            image = np.repeat(image.mean(2, keepdims=True), 3, 2)
        if rng.random() < 0.5:
            image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 0.8))
        image = image + rng.normal(0, rng.uniform(0.0, 0.015), image.shape)
        return np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8)


def _smooth(polygon: Floats, closed: bool = True) -> Floats:
    """Catmull-Rom through the corners, four points a side: what is drawn passes the landmarks."""
    n = len(polygon)
    if closed:
        before, after, after2 = np.roll(polygon, 1, 0), np.roll(polygon, -1, 0), np.roll(polygon, -2, 0)
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
