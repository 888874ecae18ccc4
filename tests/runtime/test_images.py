"""Reading and writing picture files."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from runtime.jobs.paths import WRITABLE
from runtime.pictures.encode import encode_picture
from runtime.pictures.files import read_picture
from runtime.pictures.header import ImageError
from runtime.pictures.picture import Picture


@pytest.fixture
def image() -> np.ndarray:
    y, x = np.mgrid[:20, :30]
    return np.stack((x * 8, y * 12, x + y), -1).astype(np.uint8)


def test_every_format_reads_as_pillow_reads_it(image: np.ndarray, tmp_path: Path) -> None:
    for suffix in ("png", "bmp", "tiff", "ppm", "jpg", "webp"):
        path = tmp_path / f"picture.{suffix}"
        Image.fromarray(image).save(path, **({"lossless": True} if suffix == "webp" else {}))
        wanted = np.asarray(Image.open(path).convert("RGB")).astype(int)
        off = np.abs(read_picture(path).rgb() - wanted).max()
        assert off <= (3 if suffix == "jpg" else 0), suffix


def test_grey_stays_grey(image: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(image[:, :, 0]).save(tmp_path / "grey.png")
    picture = read_picture(tmp_path / "grey.png")
    assert picture.pixels.shape == (20, 30, 1)
    np.testing.assert_array_equal(picture.rgb(), np.repeat(image[:, :, :1], 3, 2))


def test_alpha_is_carried_along(image: np.ndarray, tmp_path: Path) -> None:
    alpha = (image[:, :, 0] // 2).astype(np.uint8)
    Image.fromarray(np.dstack((image, alpha))).save(tmp_path / "alpha.png")
    picture = read_picture(tmp_path / "alpha.png")
    np.testing.assert_array_equal(picture.rgb(), image)
    assert picture.alpha is not None
    np.testing.assert_array_equal(picture.alpha, alpha)
    (tmp_path / "out.png").write_bytes(encode_picture(picture, ".png"))
    again = np.asarray(Image.open(tmp_path / "out.png"))
    np.testing.assert_array_equal(again, np.dstack((image, alpha)))


def test_sixteen_bits_are_kept_and_seen_as_eight(tmp_path: Path) -> None:
    deep = np.linspace(0, 65535, 20 * 30).reshape(20, 30).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    picture = read_picture(tmp_path / "deep.png")
    assert picture.peak == 65535
    np.testing.assert_array_equal(picture.pixels[:, :, 0], deep)
    assert np.abs(picture.rgb()[:, :, 0] - deep / 257).max() <= 0.5
    (tmp_path / "out.png").write_bytes(encode_picture(picture, ".png"))
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out.png")), deep)
    assert encode_picture(picture, ".jpg")[:2] == b"\xff\xd8"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_pictures_upright(orientation: int, image: np.ndarray, tmp_path: Path) -> None:
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.jpg"
    Image.fromarray(image).save(path, exif=exif, quality=100, subsampling=0)
    wanted = np.asarray(ImageOps.exif_transpose(Image.open(path))).astype(int)
    given = read_picture(path).rgb()
    assert given.shape == wanted.shape
    assert np.abs(given - wanted).max() <= 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["png", "webp"])
def test_exif_turns_alpha_with_its_picture(
    orientation: int, kind: str, image: np.ndarray, tmp_path: Path
) -> None:
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    alpha = 255 - image[:, :, 0] // 3
    options = {"lossless": True, "exact": True} if kind == "webp" else {}
    path = tmp_path / f"turned.{kind}"
    Image.fromarray(np.dstack((image, alpha))).save(path, exif=exif, **options)
    wanted = np.asarray(ImageOps.exif_transpose(Image.open(path)))
    picture = read_picture(path)
    np.testing.assert_array_equal(picture.pixels, wanted[:, :, :3])
    assert picture.alpha is not None
    np.testing.assert_array_equal(picture.alpha, wanted[:, :, 3])


def test_transparent_tiffs_keep_their_colours(image: np.ndarray, tmp_path: Path) -> None:
    alpha = 255 - image[:, :, 0] // 2
    Image.fromarray(np.dstack((image, alpha))).save(tmp_path / "alpha.tiff")
    picture = read_picture(tmp_path / "alpha.tiff")
    assert np.abs(picture.rgb().astype(int) - image).max() <= 2


def test_a_grey_picture_fits_every_format(image: np.ndarray) -> None:
    for suffix in WRITABLE:
        assert encode_picture(Picture(image[:, :, :1]), suffix)


def test_encoding_round_trips(image: np.ndarray, tmp_path: Path) -> None:
    for suffix in (".png", ".bmp", ".tiff", ".ppm"):
        path = tmp_path / f"out{suffix}"
        path.write_bytes(encode_picture(Picture(image), suffix))
        np.testing.assert_array_equal(np.asarray(Image.open(path).convert("RGB")), image)


def test_what_is_no_picture_says_why(image: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(image).resize((300, 200)).save(tmp_path / "whole.jpg")
    Image.fromarray(image).resize((300, 200)).save(tmp_path / "whole.png")
    whole, png = ((tmp_path / f"whole.{kind}").read_bytes() for kind in ("jpg", "png"))
    contents = {
        "text.png": (b"not a picture", "not a picture"),
        "empty.png": (b"", "empty"),
        "cut.jpg": (whole[: len(whole) // 2], "damaged"),
        "barely.jpg": (whole[:-200], "damaged"),
        "cut.png": (png[: len(png) // 2], "damaged"),
    }
    for name, (content, why) in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ImageError, match=why) as caught:
            read_picture(tmp_path / name)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(ImageError, match="No such file"):
        read_picture(tmp_path / "absent.png")
    with pytest.raises(ImageError, match="directory"):
        read_picture(tmp_path)


def test_inks_have_no_alpha(image: np.ndarray, tmp_path: Path) -> None:
    inks = Image.fromarray(image).convert("CMYK")
    inks.save(tmp_path / "inks.tif")
    picture = read_picture(tmp_path / "inks.tif")
    assert picture.alpha is None
    wanted = np.asarray(Image.open(tmp_path / "inks.tif").convert("RGB")).astype(int)
    assert np.abs(picture.pixels - wanted).max() <= 2


def test_grey_with_alpha_keeps_both(image: np.ndarray, tmp_path: Path) -> None:
    grey, alpha = image[:, :, 0], image[:, :, 1]
    Image.fromarray(np.dstack((grey, alpha)), "LA").save(tmp_path / "veiled.png")
    (tmp_path / "out.png").write_bytes(
        encode_picture(read_picture(tmp_path / "veiled.png"), ".png")
    )
    again = np.asarray(Image.open(tmp_path / "out.png").convert("LA"))
    np.testing.assert_array_equal(again, np.dstack((grey, alpha)))


@pytest.mark.parametrize("suffix", ["avif", "jp2"])
def test_newer_formats_are_read(suffix: str, image: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / f"picture.{suffix}"
    # How colours of half the resolution are enlarged is up to a decoder.
    full = {"subsampling": "4:4:4"} if suffix == "avif" else {}
    Image.fromarray(image).save(path, **full)
    wanted = np.asarray(Image.open(path).convert("RGB")).astype(int)
    assert np.abs(read_picture(path).rgb() - wanted).max() <= 3


def test_pages_beyond_the_first_are_not_lost_in_silence(image: np.ndarray, tmp_path: Path) -> None:
    first, thumbnail = Image.fromarray(image), Image.fromarray(image[::4, ::4])
    path = tmp_path / "pages.tif"
    first.save(path, save_all=True, append_images=[first, first])
    with pytest.raises(ImageError, match="has 3 pages"):
        read_picture(path)
    thumbnail.encoderinfo = {"tiffinfo": {254: 1}}  # NewSubfileType: a reduced version
    first.save(path, save_all=True, append_images=[thumbnail])
    np.testing.assert_array_equal(read_picture(path).pixels, image)


def test_jpegs_keep_their_colours_fine() -> None:
    """With colours at half the resolution, red and blue columns would become purple."""
    stripes = np.zeros((32, 32, 3), np.uint8)
    stripes[:, ::2, 0] = stripes[:, 1::2, 2] = 255
    with Image.open(io.BytesIO(encode_picture(Picture(stripes), ".jpg"))) as written:
        again = np.asarray(written).astype(int)
    assert np.abs(again - stripes).mean() < 8


def test_a_grey_profile_does_not_go_into_a_colour_file(image: np.ndarray) -> None:
    grey = Picture(image[:, :, :1], profile=bytes(16) + b"GRAY" + bytes(120))
    with Image.open(io.BytesIO(encode_picture(grey, ".webp"))) as written:
        assert "icc_profile" not in written.info
