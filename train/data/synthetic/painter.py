"""Painting of a head onto a canvas, from back to front, with its features at their landmarks.

Colours are RGB, 0..1. Stroke widths and glow radii are in head units, blurs in canvas pixels;
`unit` is the number of canvas pixels per head unit.

The file exceeds 400 lines, and is not split, because its methods share one random generator: a
face is reproducible only while they draw from it in the same order. They are listed in the order
of painting, one per facial feature.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from dic.sizes import SR_SIZE
from train.data.synthetic.canvas import CANVAS, Bytes, Canvas, Floats, smooth
from train.data.synthetic.head import Head

# Skin tones from light to dark; a face's tone is interpolated between two neighbours.
_SKIN = np.array(
    [
        [0.94, 0.80, 0.72],
        [0.88, 0.70, 0.59],
        [0.78, 0.58, 0.45],
        [0.58, 0.40, 0.29],
        [0.36, 0.23, 0.17],
    ],
    np.float32,
)
_HAIR = np.array(
    [
        [0.06, 0.05, 0.05],
        [0.16, 0.10, 0.07],
        [0.30, 0.19, 0.11],
        [0.55, 0.40, 0.22],
        [0.45, 0.20, 0.10],
        [0.62, 0.61, 0.60],
    ],
    np.float32,
)
_IRIS = np.array(
    [
        [0.22, 0.13, 0.08],
        [0.33, 0.22, 0.12],
        [0.35, 0.42, 0.30],
        [0.35, 0.48, 0.60],
        [0.40, 0.42, 0.45],
    ],
    np.float32,
)


class Painter:
    """Paints one head onto a supersampled canvas.

    Args:
        head: shape, expression and pose.
        points: (68, 2) landmarks in canvas coordinates.
        rng: source of the colours, the light and all details.
    """

    def __init__(self, head: Head, points: Floats, rng: np.random.Generator) -> None:
        self.head, self.points, self.rng = head, points, rng
        self.unit = head.scale
        self.canvas = Canvas(self.unit, rng)
        tone = rng.uniform(0, len(_SKIN) - 1.001)
        low = int(tone)
        skin = _SKIN[low] + (tone - low) * (_SKIN[low + 1] - _SKIN[low])
        self.skin = np.clip(skin * rng.normal(1, 0.025, 3), 0.05, 1)
        dark = tone > 2.6
        hair = _HAIR[rng.integers(0, 2 if dark else len(_HAIR))]
        self.hair = np.clip(hair * rng.normal(1, 0.15) * rng.normal(1, 0.04, 3), 0.02, 0.9).astype(
            np.float32
        )
        self.iris = _IRIS[0 if dark else rng.integers(0, len(_IRIS))]
        light = rng.normal([0, -0.45, 0], [0.6, 0.35, 0])
        light[2] = rng.uniform(0.7, 1.3)
        self.light = light / np.linalg.norm(light)
        self.gaze = rng.normal(0, 0.025, 2) * self.unit  # shared by both eyes
        self.outline = self._outline()

    def paint(self) -> Bytes:
        """Paint the face and return it as (128, 128, 3) uint8 RGB."""
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

    def _at(self, *points: tuple[float, float, float]) -> Floats:
        """Project points in head coordinates to the canvas, (n, 2)."""
        return self.head.project(np.array(points, np.float32))

    def _strands(self) -> Floats:
        """Return a hair texture (256, 256) of strands that radiate from the crown."""
        crown = self._at((float(self.rng.normal(0, 0.35)), -self.head.skull, 0.5))[0]
        return self.canvas.strands(crown)

    def _outline(self) -> Floats:
        """Return the outline of the skin on the canvas, (n, 2): the jaw, then over the skull."""
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
        return np.concatenate((self.points[:17], h.project(skull)))

    def _background(self) -> None:
        rng = self.rng
        base = rng.uniform(0.05, 0.95, 3)
        grey = base.mean()
        base = grey + (base - grey) * rng.uniform(0.0, 0.5)
        cells = int(rng.choice([2, 3, 5, 9, 16]))
        field = rng.normal(0, rng.uniform(0.02, 0.22), (cells, cells, 3))
        field = field * 0.25 + field.mean(2, keepdims=True) * 0.9
        field = cv2.resize(field, (CANVAS, CANVAS), interpolation=cv2.INTER_CUBIC)
        self.canvas.pixels[:] = base + field
        for _ in range(int(rng.integers(0, 5))):
            corner = rng.uniform(0, CANVAS, (1, 2))
            shape = corner + rng.normal(0, CANVAS / 4, (4, 2))
            colour = rng.uniform(0, 1) + rng.normal(0, 0.12, 3)
            self.canvas.fill(shape, colour, rng.uniform(0.2, 0.9), rng.uniform(0, 8))

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
        polygon = h.project(np.concatenate((top, ends)))
        self.canvas.fill(
            polygon, self.hair * 0.8, blur=rng.uniform(0.5, 3), texture=self._strands()
        )

    def _body(self) -> None:
        h, rng = self.head, self.rng
        colour = rng.uniform(0.02, 0.95, 3)
        colour = colour.mean() + (colour - colour.mean()) * rng.uniform(0.1, 0.8)
        wide = rng.uniform(0.55, 0.72)
        neck = self._at(
            (-wide, h.chin * 0.55, 0.2),
            (wide, h.chin * 0.55, 0.2),
            (wide + 0.08, 3, 0),
            (-wide - 0.08, 3, 0),
        )
        self.canvas.fill(
            neck,
            self.skin * rng.uniform(0.45, 0.85),
            blur=1.0,
            texture=self.canvas.noise((4, 4), 0.12),
        )
        y = h.chin + rng.uniform(0.35, 0.65)
        shoulders = self._at(
            (-0.6, y, 0),
            (0, y + rng.uniform(0, 0.4), 0.4),
            (0.6, y, 0),
            (2.4, y + 0.5, 0),
            (2.6, 4, 0),
            (-2.6, 4, 0),
            (-2.4, y + 0.5, 0),
        )
        self.canvas.fill(shoulders, colour, blur=0.7, texture=self.canvas.noise((12, 12), 0.06))

    def _ears(self) -> None:
        h = self.head
        angle = np.linspace(0, 2 * math.pi, 12, endpoint=False)
        for side in (-1, 1):
            if side * h.yaw > 0.12:
                continue  # turned away
            x = side * h.width + 0.11 * np.cos(angle)
            y = 0.25 + 0.27 * np.sin(angle)
            ear = h.project(np.stack((x, y, 0 * x), -1))
            self.canvas.fill(ear, self.skin * 0.75, blur=0.8)

    def _skin(self) -> None:
        rows, columns, mask = self.canvas.mask(self.outline, 0.7)
        centre = (self.outline.min(0) + self.outline.max(0)) / 2
        radius = (self.outline.max(0) - self.outline.min(0)) / 2 * 1.04
        # Lambertian shading of an ellipsoid, on a coarse grid because it is smooth.
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
        shade = cv2.resize(shade, size, interpolation=cv2.INTER_LINEAR)
        texture = self.canvas.noise((48, 48), 0.025) * self.canvas.noise((6, 6), 0.03)
        colour = self.skin * (shade * texture[rows, columns])[..., None]
        self.canvas.pixels[rows, columns] += mask[..., None] * (
            colour - self.canvas.pixels[rows, columns]
        )
        # Cheeks are redder and brighter.
        blush = self.rng.uniform(0, 0.10)
        for side in (-1, 1):
            cheek = self._at((side * 0.55, 0.55, 1.05))[0]
            self.canvas.glow(cheek, (0.22, 0.2), self.rng.uniform(-0.02, 0.10))
            rx = 0.25 * self.unit
            angle = np.linspace(0, 2 * math.pi, 10, endpoint=False)
            ring = cheek + rx * np.stack((np.cos(angle), np.sin(angle)), -1)
            red = self.skin * np.array([1.0, 0.72, 0.70], np.float32)
            self.canvas.fill(ring, red, blush * 2, blur=0.1 * self.unit)
        self.canvas.glow(self._at((0, -0.55, 1.15))[0], (0.4, 0.22), self.rng.uniform(0, 0.12))

    def _beard(self, full: bool) -> None:
        p = self.points
        moustache = np.concatenate((p[48:55], p[[35, 33, 31]] * 0.75 + p[[53, 51, 49]] * 0.25))
        alpha = self.rng.uniform(0.35, 0.95)
        texture = self.canvas.noise((90, 90), 0.22)
        if full:
            inner = (
                p[2:15] * 0.45 + p[[48, 48, 48, 59, 58, 57, 57, 57, 56, 55, 54, 54, 54]] * 0.55
            )[::-1]
            jaw = np.concatenate((p[2:15], inner))
            self.canvas.fill(
                jaw, self.hair, alpha, blur=0.05 * self.unit, clip=self.outline, texture=texture
            )
            chin = np.concatenate((p[48:49], p[54:60], p[[10, 9, 8, 7, 6]]))
            self.canvas.fill(chin, self.hair, alpha * 0.9, blur=0.05 * self.unit, texture=texture)
        self.canvas.fill(moustache, self.hair, alpha, blur=0.025 * self.unit, texture=texture)

    def _sockets(self) -> None:
        depth = self.rng.uniform(0.08, 0.3)
        for eye, brow in (
            (self.points[36:42], self.points[17:22]),
            (self.points[42:48], self.points[22:27]),
        ):
            middle = eye.mean(0) * 0.65 + brow.mean(0) * 0.35
            self.canvas.glow(middle, (0.26, 0.13), -depth)
            below = eye.mean(0) * 1.25 - brow.mean(0) * 0.25
            self.canvas.glow(below, (0.2, 0.06), -self.rng.uniform(0, 0.14))

    def _nose(self) -> None:
        p, rng = self.points, self.rng
        side = -1.0 if self.light[0] > 0 else 1.0
        strength = rng.uniform(0.03, 0.2) * min(1.0, 0.4 + abs(self.light[0]) * 1.5)
        for t in (0.15, 0.45, 0.75):
            on_bridge = self._at((side * 0.16, t * self.head.nose_length, 1.25))[0]
            self.canvas.glow(on_bridge, (0.07, 0.15), -strength)
        for t in (0.1, 0.4):
            self.canvas.glow(
                self._at((0, t * self.head.nose_length, 1.45))[0],
                (0.05, 0.16),
                rng.uniform(0.02, 0.14),
            )
        self.canvas.glow(p[30], (0.07, 0.06), rng.uniform(0.03, 0.25))
        self.canvas.glow(p[33] + [0, 0.04 * self.unit], (0.2, 0.05), -rng.uniform(0.05, 0.25))
        dark = self.skin * np.array([0.62, 0.5, 0.48], np.float32)
        for wing, lift in ((p[31], -0.02), (p[35], 0.02)):
            fold = np.array(
                [
                    wing + [lift * self.unit, -0.16 * self.unit],
                    wing + [2.2 * lift * self.unit, -0.06 * self.unit],
                    wing,
                ]
            )
            self.canvas.stroke(fold, 0.025, dark, rng.uniform(0.25, 0.6))
        for a, b in ((p[31], p[32]), (p[34], p[35])):
            middle = (a + b) / 2
            angle = np.linspace(0, 2 * math.pi, 10, endpoint=False)
            ring = middle + np.stack((np.cos(angle) * 0.06, np.sin(angle) * 0.03), -1) * self.unit
            self.canvas.fill(
                ring,
                self.skin * 0.28,
                rng.uniform(0.3, 0.8),
                blur=0.012 * self.unit,
            )

    def _mouth(self) -> None:
        p, rng = self.points, self.rng
        paint = rng.random() < 0.15
        tint = np.array([1.0, 0.5, 0.53] if paint else [0.93, 0.72, 0.70], np.float32)
        lips = np.clip(self.skin * tint * rng.normal(1, 0.06, 3), 0, 1)
        if self.head.smile > 0.08:
            self._smile_lines()
        upper = np.concatenate((p[48:55], p[60:65][::-1]))
        lower = np.concatenate((p[54:60], p[48:49], p[60:61], p[64:68][::-1]))
        self.canvas.fill(smooth(upper), lips * 0.82, 0.95, blur=0.4)
        self.canvas.fill(smooth(lower), lips, 0.95, blur=0.4)
        self.canvas.glow(p[57] * 0.6 + p[66] * 0.4, (0.14, 0.03), rng.uniform(0, 0.25))
        self.canvas.glow(p[57] + [0, 0.07 * self.unit], (0.2, 0.04), -rng.uniform(0.05, 0.25))
        inner = p[60:68]
        if self.head.mouth_open > 0.03:
            self.canvas.fill(smooth(inner), np.array([0.20, 0.06, 0.06], np.float32), blur=0.4)
            if self.head.toothy or rng.random() < 0.6:
                shown = rng.uniform(0.8, 1.0) if self.head.toothy else 0.45  # fraction of the gap
                below = inner[[5, 6, 7]] * shown + inner[[3, 2, 1]] * (1 - shown)
                teeth = np.concatenate((inner[0:5], below))
                self.canvas.fill(
                    smooth(teeth),
                    np.array([0.90, 0.87, 0.82], np.float32) * rng.uniform(0.75, 1),
                    0.95,
                    0.6,
                    clip=smooth(inner),
                )
        seam = (inner[:5] + inner[[0, 7, 6, 5, 4]]) / 2
        if self.head.mouth_open <= 0.03:
            self.canvas.stroke(np.concatenate((p[48:49], seam, p[54:55])), 0.02, lips * 0.35, 0.85)
        for corner in (p[48], p[54]):
            self.canvas.glow(corner, (0.05, 0.04), -rng.uniform(0.1, 0.35))

    def _smile_lines(self) -> None:
        """Paint the folds from the nose to the corners of the mouth, and the cheeks beside them."""
        p, rng = self.points, self.rng
        depth = rng.uniform(0.15, 0.5)
        for wing, corner, out in ((p[31], p[48], -1.0), (p[35], p[54], 1.0)):
            aside = np.array([out * 0.09, 0.0]) * self.unit
            fold = np.array([wing + aside, (wing + corner) / 2 + 1.4 * aside, corner + 1.3 * aside])
            soft = 0.02 * self.unit
            self.canvas.stroke(fold, 0.05, self.skin * 0.6, depth, blur=soft)
            cheek = (wing + corner) / 2 + 3.2 * aside - [0, 0.12 * self.unit]
            self.canvas.glow(cheek, (0.16, 0.13), rng.uniform(0, 0.15))

    def _eye(self, eye: Floats) -> None:
        rng = self.rng
        almond = smooth(eye)
        white = np.array([0.93, 0.91, 0.89], np.float32) * rng.uniform(0.75, 1.0)
        self.canvas.fill(almond, white, blur=0.4)
        centre = eye.mean(0) + self.gaze
        radius = 0.088 * self.unit
        angle = np.linspace(0, 2 * math.pi, 20, endpoint=False)
        ring = np.stack((np.cos(angle), np.sin(angle)), -1)
        self.canvas.fill((centre + ring * radius), self.iris * 0.55, clip=almond)
        self.canvas.fill((centre + ring * radius * 0.8), self.iris, blur=0.5, clip=almond)
        self.canvas.fill(
            (centre + ring * radius * 0.42),
            np.full(3, 0.02, np.float32),
            clip=almond,
        )
        # The shadow of the upper lid on the eyeball; the lashes follow below.
        lid = eye[:4]
        self.canvas.stroke(lid + [0, 0.02 * self.unit], 0.03, self.skin * 0.3, 0.4, clip=almond)
        glint = centre + np.array([0.3 * np.sign(self.light[0]), -0.35]) * radius
        self.canvas.fill(
            (glint + ring * radius * 0.24),
            np.ones(3, np.float32),
            0.9,
            clip=almond,
        )
        lash = rng.uniform(0.018, 0.042)
        self.canvas.stroke(lid, lash, self.hair * 0.25, rng.uniform(0.7, 1))
        self.canvas.stroke(eye[[3, 4, 5, 0]], 0.014, self.skin * 0.5, rng.uniform(0.3, 0.7))
        self.canvas.stroke(
            lid - [0, rng.uniform(0.045, 0.085) * self.unit],
            0.016,
            self.skin * 0.5,
            rng.uniform(0.1, 0.55),
        )

    def _brow(self, brow: Floats) -> None:
        rng = self.rng
        thick = rng.uniform(0.045, 0.105) * self.unit
        taper = np.array([0.5, 0.9, 1.0, 0.9, 0.45])
        side = np.stack((0 * taper, taper * thick / 2), -1)
        polygon = np.concatenate((brow - side, (brow + side)[::-1]))
        colour = self.hair * rng.uniform(0.5, 0.9)
        self.canvas.fill(
            smooth(polygon),
            colour,
            rng.uniform(0.55, 0.95),
            blur=rng.uniform(0.6, 1.6),
            texture=self.canvas.noise((70, 70), 0.15),
        )

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
        polygon = h.project(np.concatenate((hairline, top)))
        shadow = polygon + [0, 0.06 * self.unit]
        self.canvas.fill(
            shadow,
            self.skin * 0.45,
            rng.uniform(0.1, 0.4),
            blur=0.04 * self.unit,
            clip=self.outline,
        )
        light = self.canvas.noise((5, 5), 0.2) * self._strands()
        self.canvas.fill(
            polygon, self.hair * rng.uniform(0.9, 1.25), 1.0, rng.uniform(0.5, 2.0), texture=light
        )

    def _glasses(self) -> None:
        rng = self.rng
        colour = np.full(3, rng.uniform(0.02, 0.5)) * rng.normal(1, 0.1, 3)
        angle = np.linspace(0, 2 * math.pi, 24)
        power = rng.uniform(0.55, 1.0)  # exponent; 1 is an ellipse, less is closer to a rectangle
        c, s = np.cos(angle), np.sin(angle)
        ring = np.stack(
            (np.sign(c) * np.abs(c) ** power * 0.34, np.sign(s) * np.abs(s) ** power * 0.24), -1
        )
        thick = rng.uniform(0.02, 0.06)
        tinted = rng.random() < 0.12
        for x in (-self.head.eye_distance, self.head.eye_distance):
            loop = np.stack(
                (x + ring[:, 0], 0.05 + ring[:, 1], 1.3 - 0.25 * np.abs(x + ring[:, 0])), -1
            )
            lens = self.head.project(loop)
            self.canvas.fill(lens, np.full(3, 0.03, np.float32), 0.75 if tinted else 0.06)
            self.canvas.stroke(lens, thick, colour, 0.95)
        bridge = self._at((-0.12, 0.0, 1.42), (0, -0.03, 1.46), (0.12, 0.0, 1.42))
        self.canvas.stroke(bridge, thick, colour, 0.95)

    def _develop(self) -> Bytes:
        """Reduce the canvas to 128×128 and apply exposure, contrast, white balance, blur, noise."""
        rng = self.rng
        image = cv2.resize(self.canvas.pixels, (SR_SIZE, SR_SIZE), interpolation=cv2.INTER_AREA)
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
