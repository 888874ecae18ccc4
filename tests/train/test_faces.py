"""Drawn faces and their landmarks."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from dic.landmarks import FLIP_68
from runtime.faces.detect import YuNetDetector
from train.data.pairs import mirror, shrink
from train.data.synthetic import draw_face, draw_faces, to_pixels
from train.data.synthetic.canvas import Canvas
from train.data.synthetic.head import Head

Faces = tuple[NDArray[np.uint8], NDArray[np.float32]]


def test_seed_and_index_determine_a_face(faces: Faces) -> None:
    again = draw_face(99, 5)
    np.testing.assert_array_equal(again.image, faces[0][5])
    np.testing.assert_array_equal(again.landmarks, faces[1][5])
    assert (draw_face(100, 5).image != again.image).any()


def test_faces_do_not_depend_on_the_number_of_workers(faces: Faces) -> None:
    images, landmarks = draw_faces(99, 6, start=3, workers=2)
    np.testing.assert_array_equal(images, faces[0][3:9])
    np.testing.assert_array_equal(landmarks, faces[1][3:9])


def test_painted_shapes_are_at_their_landmarks() -> None:
    """The centre of mass of a filled mouth outline is that of the landmarks' polygon."""
    rng = np.random.default_rng(4)
    for _ in range(20):
        head = Head.random(rng)
        outline = head.landmarks()[48:60]
        canvas = Canvas(head.scale, rng)
        canvas.fill(outline, np.ones(3, np.float32))
        small = cv2.resize(canvas.pixels, (128, 128), interpolation=cv2.INTER_AREA)[:, :, 0]
        y, x = np.mgrid[:128, :128]
        painted = np.array([(x * small).sum(), (y * small).sum()]) / small.sum()
        moments = cv2.moments(to_pixels(outline)[:, None])
        expected = np.array([moments["m10"], moments["m01"]]) / moments["m00"]
        assert np.abs(painted - expected).max() < 0.15, painted - expected


def test_eyes_are_dark_and_lips_red_at_their_landmarks(faces: Faces) -> None:
    images, landmarks = faces
    pupils, cheeks, lips, chins = [], [], [], []
    for image, p in zip(images, landmarks, strict=True):

        def at(point: NDArray[np.float32], image: NDArray[np.uint8] = image) -> NDArray[np.float64]:
            x, y = np.clip(np.round(point), 0, 127).astype(int)
            return image[y, x].astype(float)

        pupils += [at(p[36:42].mean(0)).mean(), at(p[42:48].mean(0)).mean()]
        cheeks.append(at((p[2] + p[31]) / 2).mean())
        lower, chin = at((p[57] + p[66]) / 2), at(p[8] * 0.5 + p[57] * 0.5)
        lips.append(lower[0] / (lower[1] + 1))
        chins.append(chin[0] / (chin[1] + 1))
    assert np.median(pupils) < 0.75 * np.median(cheeks)
    assert np.median(lips) > 1.15 * np.median(chins)


def test_painted_features_are_not_shifted(faces: Faces) -> None:
    """No shift of the landmarks fits the images better than no shift.

    Measured by the darkness along the upper lids, where lashes are drawn.
    """
    images, landmarks = faces

    def darkness(dx: int, dy: int) -> float:
        found = []
        for image, p in zip(images, landmarks, strict=True):
            grey = image.mean(2).astype(np.float32)
            lids = np.concatenate((p[37:39], p[43:45])) + [dx, dy]
            x, y = lids.astype(np.float32).T
            found.append(cv2.remap(grey, x, y, cv2.INTER_LINEAR).mean())
        return float(np.mean(found))

    shifts = {(dx, dy): darkness(dx, dy) for dx in (-2, 0, 2) for dy in (-2, 0, 2)}
    rows = {dy: np.mean([shifts[dx, dy] for dx in (-2, 0, 2)]) for dy in (-2, 0, 2)}
    assert rows[0] < rows[-2] - 5
    contour = []
    for dx in (-3, 0, 3):  # the horizontal gradient is largest at the landmarks of the jaw
        steps = []
        for image, p in zip(images, landmarks, strict=True):
            grey = cv2.GaussianBlur(image.mean(2).astype(np.float32), (0, 0), 1)
            slope = np.abs(cv2.Sobel(grey, cv2.CV_32F, 1, 0))
            x, y = (p[[3, 4, 5, 11, 12, 13]] + [dx, 0]).astype(np.float32).T
            steps.append(cv2.remap(slope, x, y, cv2.INTER_LINEAR).mean())
        contour.append(np.mean(steps))
    assert contour[1] > 1.2 * max(contour[0], contour[2]), contour


def test_faces_look_like_faces_to_a_detector(faces: Faces) -> None:
    """The detector's crops match the training crop, 128 pixels at (32, 32)."""
    detector = YuNetDetector()
    offsets = []
    for image in faces[0]:
        framed = np.pad(image, ((32, 32), (32, 32), (0, 0)), mode="edge")
        for crop in [crop for crop in detector.find(framed) if crop.size > 80][:1]:
            offsets.append((crop.x - 32, crop.y - 32, crop.size - 128))
    assert len(offsets) >= 0.9 * len(faces[0]), f"only {len(offsets)} of {len(faces[0])} detected"
    x, y, size = np.median(offsets, axis=0)
    assert abs(x) <= 5
    assert abs(y) <= 8
    assert abs(size) <= 12, size


def test_faces_vary(faces: Faces) -> None:
    """Pose, position, colour and expression vary; the mean face explains little variance."""
    images, landmarks = faces
    spread = landmarks.std(axis=0)  # (68, 2)
    assert spread[:, 0].min() > 3
    assert spread[:, 1].min() > 3
    mouth = np.linalg.norm(landmarks[:, 62] - landmarks[:, 66], axis=-1)
    assert (mouth < 1.5).mean() > 0.3
    assert (mouth > 3).mean() > 0.15
    skin = np.array([i[int(p[29, 1]), int(p[29, 0])] for i, p in zip(*faces, strict=True)], float)
    assert skin.mean(1).std() > 25
    centred = images.astype(float) - images.mean(0)
    assert (centred**2).mean() > 0.6 * images.astype(float).var()


def test_landmarks_stay_inside(faces: Faces) -> None:
    inside = (faces[1] >= 0) & (faces[1] <= 127)
    assert inside.mean() > 0.98


def test_mirroring_moves_the_landmarks_with_the_image(faces: Faces) -> None:
    image, points = faces[0][0], faces[1][0]
    flipped, moved = mirror(image, points)
    np.testing.assert_array_equal(flipped, image[:, ::-1])
    for k in (0, 8, 36, 48, 60):
        x, y = moved[FLIP_68[k]]
        assert x == pytest.approx(127 - points[k, 0], abs=1e-4)
        assert y == pytest.approx(points[k, 1])


def test_shrinking_a_uniform_image_keeps_its_colour() -> None:
    assert (shrink(np.full((128, 128, 3), 77, np.uint8)) == 77).all()
