"""Landmarks of a video stand still on a face that does, and follow one that moves."""

from __future__ import annotations

import numpy as np

from runtime.faces.crop import Crop
from runtime.faces.face import Face
from runtime.video.steady import Steady

RATE, COUNT = 25.0, 50


def face(points: np.ndarray, crop: Crop) -> Face:
    pixels = np.zeros((128, 128, 3), np.uint8)
    inverse = np.linalg.inv(crop.matrix(128)[:, :2])
    shown = (points - crop.matrix(128)[:, 2]) @ inverse.T
    return Face(pixels, shown.astype(np.float32), np.ones(len(points), np.float32), crop)


def told(frames: list[dict[int, Face]]) -> list[list[Face]]:
    """What is told of frames with faces by track; their times must come in order."""
    found: list[tuple[float, list[Face]]] = []
    steady = Steady(RATE, lambda seconds, faces: found.append((seconds, faces)))
    for number, faces in enumerate(frames):
        steady.add(number / RATE, faces.keys(), faces.values())
    steady.close()
    assert [seconds for seconds, _ in found] == [n / RATE for n in range(len(frames))]
    assert [len(faces) for _, faces in found] == [len(faces) for faces in frames]
    return [faces for _, faces in found]


def positions(faces: list[list[Face]]) -> np.ndarray:
    return np.array([one[0].points for one in faces])


def test_landmarks_that_jump_between_cells_stand_still() -> None:
    """A heatmap's cell is 4 of 128 pixels, and the square moves by a pixel."""
    rng = np.random.default_rng(0)
    still = np.array([[40.0, 50.0], [60.0, 55.0]])
    cell = 48 * 4 / 128
    frames = [
        {
            0: face(
                still + cell * rng.integers(0, 2, still.shape), Crop(20 + n % 2, 30, 48, 1.0, 7.0)
            )
        }
        for n in range(COUNT)
    ]
    raw = np.array([one[0].points for one in frames])
    shown = positions(told(frames))
    assert np.abs(np.diff(raw, axis=0)).max() > 1.4, "the frames that are given do not jump"
    assert np.abs(np.diff(shown, axis=0)).max() < 0.4
    assert np.abs(shown - still - cell / 2).max() < cell / 2


def test_landmarks_of_a_face_that_moves_are_not_late() -> None:
    start, step = np.array([[40.0, 50.0], [60.0, 55.0]]), np.array([2.0, -1.0])
    frames = [
        {0: face(start + n * step, Crop(round(20 + 2 * n), 30 - n, 48))} for n in range(COUNT)
    ]
    shown = positions(told(frames))
    wanted = np.array([start + n * step for n in range(COUNT)])
    inner = slice(10, -10)  # of the ends, one side is known only
    np.testing.assert_allclose(shown[inner], wanted[inner], atol=1e-3)
    assert np.linalg.norm(shown - wanted, axis=2).max() < 5


def test_faces_are_not_mixed_and_gaps_do_no_harm() -> None:
    crops = (Crop(0, 0, 32), Crop(100, 0, 32))
    at = [np.array([[crop.x + 10.0, 12.0]]) for crop in crops]
    frames: list[dict[int, Face]] = [
        {k: face(at[k], crops[k]) for k in (0, 1) if k == 0 or n % 7 > 1} for n in range(COUNT)
    ]
    bare = Face(np.zeros((128, 128, 3), np.uint8), None, None, crops[0])
    frames.append({2: bare})
    for given, faces in zip(frames, told(frames), strict=True):
        for track, shown in zip(given, faces, strict=True):
            if track == 2:
                assert shown is bare
            else:
                np.testing.assert_allclose(shown.points, at[track], atol=1e-3)
