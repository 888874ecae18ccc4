"""Squares around faces, cutting them out, and putting them back."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dic.landmarks import COMPONENT_GROUPS
from runtime.faces import crop as frame
from runtime.faces.blend import FLAGS, back_project, consistency, enlarged, face_mask, paste
from runtime.faces.crop import Crop, cut, distinct, from_points, refine, scaled
from runtime.faces.noise import grain
from runtime.faces.options import Interpolation
from runtime.pictures.picture import Picture
from runtime.pictures.resample import resize
from runtime.restorer import FaceRestorer
from train.data.crop import crop_box

SQUARE = face_mask(128, None, None)
CROP = st.builds(
    Crop,
    x=st.integers(-60, 120),
    y=st.integers(-60, 100),
    size=st.integers(1, 150),
    angle=st.sampled_from([0.0, 0.0, 20.0, -35.0, 90.0, 180.0]),
)


def picture(kind: str = "noise") -> np.ndarray:
    noise = np.random.default_rng(3).integers(0, 256, (80, 110, 3), dtype=np.uint8)
    return noise if kind == "noise" else cv2.GaussianBlur(noise, (0, 0), 6)


@settings(deadline=None, max_examples=150)
@given(crop=CROP, scale=st.integers(1, 3))
def test_pasting_touches_only_the_square(crop: Crop, scale: int) -> None:
    image = enlarged(Picture(picture()), scale)
    before = image.pixels.copy()
    paste(image, np.full((128, 128, 3), 200, np.uint8), crop, scale, SQUARE)
    changed = (image.pixels != before).any(2)
    place = scaled(crop, scale)
    yy, xx = np.mgrid[: before.shape[0], : before.shape[1]]
    points = np.stack((xx.ravel(), yy.ravel()), 1) - place.centre
    turned = points @ frame._rotation(place.angle)
    inside = (np.abs(turned).max(1) <= place.size / 2 + 1).reshape(changed.shape)
    assert not (changed & ~inside).any()


@settings(deadline=None, max_examples=100)
@given(crop=CROP)
def test_what_is_cut_out_fits_back_in(crop: Crop) -> None:
    """An upright crop comes back to the bit at its own size; a turned one nearly."""
    smooth = picture("smooth")
    image = Picture(smooth.copy())
    piece = cut(smooth, crop)
    paste(image, piece, crop, 1, face_mask(crop.size, None, None))
    off = np.abs(image.pixels.astype(int) - smooth)
    if crop.angle in (0.0, 90.0, 180.0):
        assert off.max() <= (0 if crop.angle == 0 else 3)
    else:
        assert off.mean() < 1.0


def test_cutting_beyond_the_edge_repeats_it() -> None:
    image = np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3)
    crop = cut(image, Crop(-2, -1, 4))
    assert crop.shape == (4, 4, 3)
    np.testing.assert_array_equal(crop[0, 0], image[0, 0])
    np.testing.assert_array_equal(crop[3, 3], image[2, 1])


def test_a_turned_crop_is_upright() -> None:
    """A picture turned with OpenCV, and cut out turned, is as it was."""
    smooth = picture("smooth")
    turned = cv2.warpAffine(
        smooth,
        cv2.getRotationMatrix2D((55, 40), -30, 1),
        (110, 80),
        borderMode=cv2.BORDER_REPLICATE,
    )
    size = 31
    back = cut(turned, Crop.around(np.array([55.0, 40.0]), size, angle=30))
    there = cut(smooth, Crop.around(np.array([55.0, 40.0]), size))
    assert np.abs(back.astype(int) - there).mean() < 1.5


@settings(deadline=None)
@given(crop=CROP, points=st.lists(st.tuples(st.floats(0, 127), st.floats(0, 127)), min_size=1))
def test_the_matrix_leads_to_the_picture_and_back(
    crop: Crop, points: list[tuple[float, float]]
) -> None:
    there = crop.to_picture(np.array(points), 128)
    matrix = np.vstack((crop.matrix(128), [0, 0, 1]))
    back = np.column_stack((there, np.ones(len(points)))) @ np.linalg.inv(matrix).T
    np.testing.assert_allclose(back[:, :2], points, atol=1e-6)


def test_eyes_are_those_of_the_components_and_crops_frame_drawn_faces(
    faces: tuple[np.ndarray, np.ndarray],
) -> None:
    for count, (left, right) in frame.EYES.items():
        groups = COMPONENT_GROUPS[count]
        known = [set(groups[0]), set(groups[1])]
        assert sorted(known, key=min) == sorted(
            [k for k in known if set(left) <= k or set(right) <= k], key=min
        ), f"{count}: the eyes are not the network's"
    for points in faces[1][:20]:
        found = from_points(points)
        if not found.angle:
            left, top, right, _ = crop_box(points)
            assert abs(found.x - left) <= 1
            assert abs(found.y - top) <= 1
            assert abs(found.size - (right - left)) <= 1


@pytest.mark.parametrize("angle", [-60.0, -20.0, 25.0, 90.0])
def test_a_leaning_face_is_framed_leaning(
    angle: float, faces: tuple[np.ndarray, np.ndarray]
) -> None:
    upright = next(points for points in faces[1] if abs(_lean(points)) < 1)
    centre = np.array([63.5, 63.5])
    leaning = (upright - centre) @ frame._rotation(angle).T + centre
    found, plain = from_points(leaning), from_points(upright)
    assert found.angle == pytest.approx(angle, abs=1)
    assert found.size == pytest.approx(plain.size, abs=3)
    moved = (plain.centre - centre) @ frame._rotation(angle).T + centre
    np.testing.assert_allclose(found.centre, moved, atol=3)


def _lean(points: np.ndarray) -> float:
    across, down = points[42:48].mean(0) - points[36:42].mean(0)
    return float(np.degrees(np.arctan2(down, across)))


def test_a_square_is_refined_by_sure_landmarks_only(
    faces: tuple[np.ndarray, np.ndarray],
) -> None:
    points = faces[1][0].astype(float)
    sure, unsure = np.full(68, 0.9), np.full(68, 0.1)
    right = from_points(points)
    wrong = Crop.around(right.centre + right.size * 0.18, right.size * 1.2)
    inside = (points - wrong.matrix(128)[:, 2]) / (wrong.size / 128)
    mended = refine(wrong, inside, sure, 128)
    assert abs(mended.centre - right.centre).max() <= 1
    assert abs(mended.size - right.size) <= 1
    assert refine(wrong, inside, unsure, 128) == wrong
    assert refine(mended, (points - mended.matrix(128)[:, 2]) / (mended.size / 128), sure, 128) == (
        mended
    ), "a square that fits is left alone"
    assert refine(wrong, inside * 3, sure, 128) == wrong, "landmarks far off are not believed"


def test_a_face_found_twice_is_one() -> None:
    crops = [Crop(0, 0, 50, 1.0), Crop(4, 4, 52, 2.0), Crop(100, 0, 20, 1.0)]
    assert distinct(crops) == [crops[1], crops[2]]


def test_the_photograph_shows_through() -> None:
    """Shrunk to the photograph's resolution, a restored face is the photograph."""
    rng = np.random.default_rng(5)
    crop = cv2.GaussianBlur(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8), (0, 0), 3)
    nonsense = rng.integers(60, 190, (128, 128, 3), dtype=np.uint8)
    shown = resize(back_project(nonsense, crop), (40, 40)).astype(int)
    assert np.abs(shown - crop).mean() < 1.5


def test_what_contradicts_the_photograph_is_not_believed(
    faces: tuple[np.ndarray, np.ndarray],
) -> None:
    """A face with a patch that the photograph does not show, at several sizes of the face."""
    for size in (16, 24, 40, 64):
        truth = faces[0][3]
        crop = resize(truth, (size, size))
        assert consistency(truth, crop).min() > 0.9, "what the photograph shows may be sharper"
        wrong = truth.copy()
        wrong[70:110, 70:110] = 255 - wrong[70:110, 70:110]
        weights = consistency(wrong, crop)
        assert weights[80:100, 80:100].max() < 0.1
        assert weights[:50, :50].min() > 0.9


def test_the_mask_is_the_face(faces: tuple[np.ndarray, np.ndarray]) -> None:
    sure = np.full(68, 0.9, np.float32)
    for points in faces[1][:10]:
        mask = face_mask(128, points, sure)
        x, y = np.clip(np.round(points[27:]), 0, 127).astype(int).T
        assert mask[y, x].min() > 0.9, "eyes, nose and mouth are pasted wholly"
        assert mask[0].max() == mask[:, 0].max() == mask[-1].max() == mask[:, -1].max() == 0
        assert (mask <= SQUARE + 1e-6).all()
        assert mask.sum() < 0.98 * SQUARE.sum(), "the corners are the photograph's"
    np.testing.assert_array_equal(face_mask(128, faces[1][0], sure * 0.1), SQUARE)


@pytest.mark.parametrize("way", Interpolation)
def test_backgrounds_are_enlarged_as_asked(way: Interpolation) -> None:
    photo = Picture(picture(), np.full(picture().shape[:2], 255, np.uint8))
    done = enlarged(photo, 3, way)
    wanted = cv2.resize(photo.pixels, None, fx=3, fy=3, interpolation=FLAGS[way])
    np.testing.assert_array_equal(done.pixels, wanted)
    assert done.alpha is not None
    assert done.alpha.shape == (240, 330)


@pytest.mark.parametrize("corner", [(0, 0), (5, 3), (12, 8), (-1, 2), (13, 8), (12, 9)])
def test_a_square_is_cut_alike_within_and_across_the_border(corner: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (16, 20, 3), dtype=np.uint8)
    padded = np.pad(image, ((8, 8), (8, 8), (0, 0)), "edge")
    x, y = corner
    np.testing.assert_array_equal(cut(image, Crop(x, y, 8)), padded[y + 8 : y + 16, x + 8 : x + 16])


def test_the_noise_of_a_jpeg_is_not_put_back() -> None:
    """A flat face, and a crop of it with noise: the coarser its compression, the less shows."""
    face = np.full((128, 128, 3), 128, np.uint8)
    noise = np.random.default_rng(0).normal(0, 12, (40, 40, 3))
    crop = np.clip(np.round(128 + noise), 0, 255).astype(np.uint8)
    shown = [back_project(face, crop, step).std() for step in (0.0, 12.0, 58.0)]
    assert shown[0] > 1.1 * shown[1] > 1.2 * shown[2]


def test_hidden_colours_do_not_bleed_into_a_cut_out() -> None:
    y, x = np.mgrid[:60, :60]
    alpha = np.where((x - 30) ** 2 + (y - 30) ** 2 < 20**2, 255, 0).astype(np.uint8)
    shown = np.full((60, 60, 3), 200, np.uint8)
    shown[alpha == 0] = 0
    done = enlarged(Picture(shown, alpha), 4)
    assert done.alpha is not None
    visible = done.alpha > 8
    assert np.abs(done.pixels[visible].astype(int) - 200).max() <= 2


@pytest.mark.parametrize("deviation", [0, 4, 8, 12])
def test_grain_is_the_noise_that_was_added(deviation: int) -> None:
    rng = np.random.default_rng(0)
    shade = np.linspace(60, 190, 200)[None, :, None] + np.zeros((200, 1, 3))
    noisy = np.clip(np.round(shade + rng.normal(0, deviation, shade.shape)), 0, 255)
    crops = [Crop(20, 20, 130), Crop(120, 120, 130)]  # one reaches beyond the picture
    assert grain(noisy.astype(np.uint8), crops) == pytest.approx(deviation, abs=0.5)


def test_grain_of_what_has_no_pixels_is_none() -> None:
    image = np.zeros((1, 7, 3), np.uint8)
    assert grain(image, []) == grain(image, [Crop(0, 0, 4), Crop(40, 40, 8)]) == 0


@pytest.mark.parametrize("side", [24, 48])
def test_grain_is_not_sharpened(side: int) -> None:
    """A noisy photograph is not worse than its bicubic enlargement; not knowing, it would be."""
    import skimage.data

    whole = Image.fromarray(skimage.data.astronaut()[:256, 96:352])  # a face of some 150 pixels
    size = round(256 * side / 150)
    small = np.asarray(whole.resize((size, size), Image.Resampling.BICUBIC)).astype(float)
    noise = np.random.default_rng(0).normal(0, 10, small.shape)
    noisy = np.clip(np.round(small + noise), 0, 255).astype(np.uint8)
    left, top = round(54 * size / 256), round(43 * size / 256)
    crop, region = (
        Crop(left, top, side),
        np.s_[4 * top : 4 * (top + side), 4 * left : 4 * (left + side)],
    )
    wanted = np.asarray(whole.resize((4 * size, 4 * size), Image.Resampling.BICUBIC))[region]

    def decibels(image: np.ndarray) -> float:
        return float(-10 * np.log10(np.mean((image[region] / 255 - wanted / 255) ** 2)))

    bicubic = np.asarray(
        Image.fromarray(noisy).resize((4 * size, 4 * size), Image.Resampling.BICUBIC)
    )
    with FaceRestorer(device="cpu") as restorer:
        known = decibels(restorer.restore_photo(noisy, [crop], enlarge=4).image)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("runtime.faces.restore.grain", lambda *_: 0.0)
            ignored = decibels(restorer.restore_photo(noisy, [crop], enlarge=4).image)
    assert known > decibels(bicubic) - 0.2
    assert known > ignored + 0.5
