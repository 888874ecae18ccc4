"""A random three-dimensional head, and the projection of its 68 landmarks to the image.

Head coordinates: x to the right of the image, y down, z towards the viewer. The head unit is half
the distance between the ears (about 70 mm), and the origin is between the eyes. Proportions follow
common anthropometric means (Farkas, "Anthropometry of the Head and Face", 1994).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from train.data.synthetic.canvas import CANVAS, SUPERSAMPLING, Floats

ROTATION_CENTRE_Z = 0.6  # z of the centre of rotation, head units


@dataclass(frozen=True)
class Head:
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
    toothy: bool
    skull: float
    forehead: float
    yaw: float
    pitch: float
    roll: float
    scale: float  # canvas pixels per head unit
    centre: tuple[float, float]  # (x, y) of the head's origin on the canvas
    asymmetry: Floats  # (68, 3), small offsets that make the face asymmetric

    @staticmethod
    def random(rng: np.random.Generator) -> Head:
        """Draw a head; all random numbers come from `rng`, in a fixed order."""

        def around(mean: float, spread: float) -> float:
            return float(
                np.clip(rng.normal(mean, spread), mean - 2.2 * spread, mean + 2.2 * spread)
            )

        # The mouth is closed, smiling with visible teeth, or open as in speech.
        mood = rng.random()
        toothy = mood < 0.4
        gap = around(0.13, 0.035) if toothy else around(0.17, 0.07) if mood < 0.55 else 0.0
        middle = CANVAS / 2
        return Head(
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
            mouth_width=around(0.45, 0.04) if toothy else around(0.37, 0.045),
            lip_upper=around(0.085, 0.022),
            lip_lower=around(0.115, 0.028),
            mouth_open=gap,
            smile=around(0.15, 0.05) if toothy else around(0.04, 0.05),
            toothy=toothy,
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
        """Project head coordinates (n, 3) to the canvas (n, 2): yaw, pitch, roll, perspective."""
        x, y, z = points.T
        z = z - ROTATION_CENTRE_Z
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
        """Return the 68 landmarks in canvas coordinates, (68, 2) float32."""
        return self.project(self._landmarks_3d() + self.asymmetry)

    def _landmarks_3d(self) -> Floats:
        parts = [self._jaw(), *self._brows(), self._nose(), *self._eyes(), self._mouth()]
        return np.concatenate(parts).astype(np.float32)

    def _jaw(self) -> Floats:
        t = np.linspace(-1, 1, 17)
        angle = t * math.pi / 2
        x = np.sign(t) * np.abs(np.sin(angle)) ** self.jaw_roundness * self.width
        y = 0.05 + (self.chin - 0.05) * np.cos(angle) ** self.cheek_fall
        # The landmarks follow the visible outline: on the side turned away from the viewer that is
        # the edge of the cheek, which is further forward than the ear.
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
        # Corner, two points of the upper lid, corner, two points of the lower lid.
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
