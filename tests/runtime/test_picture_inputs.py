"""What the library takes as a picture: arrays, and Pillow's in every mode."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageOps
from test_picture_formats import ALPHA, COLOUR, _with_exif, levels, off, pillow, srgb

from runtime.pictures.inputs import as_picture

PILLOWS = Image.fromarray(np.dstack((COLOUR, ALPHA)))
DEEP = Image.fromarray(COLOUR[:, :, 0].astype(np.uint16) * 257)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"])
def test_pillows_modes_without_alpha(mode: str) -> None:
    image = PILLOWS.convert("RGB").convert(mode)
    picture = as_picture(image)
    assert picture.alpha is None
    wanted = np.asarray(image.convert("L" if mode in ("1", "L") else "RGB")) / 255
    assert off(picture, wanted) == 0


@pytest.mark.parametrize("mode", ["LA", "La", "PA", "RGBA", "RGBa"])
def test_pillows_modes_with_alpha(mode: str) -> None:
    """Grey stays grey; La and RGBa are premultiplied, and give straight alpha."""
    straight = PILLOWS.convert({"La": "LA", "RGBa": "RGBA"}.get(mode, mode))
    picture = as_picture(straight.convert(mode))
    assert picture.alpha is not None
    np.testing.assert_array_equal(picture.alpha, np.asarray(straight.convert("RGBA"))[:, :, 3])
    wanted = np.asarray(straight.convert("LA" if mode in ("LA", "La") else "RGBA")) / 255
    seen = wanted[:, :, -1:]
    assert np.abs((levels(picture) - wanted) * seen).max() * 255 <= (1 if mode[-1] == "a" else 0)


@pytest.mark.parametrize("mode", ["I", "I;16", "I;16B", "I;16L"])
def test_pillows_deep_modes(mode: str) -> None:
    deep = np.asarray(DEEP)
    image = DEEP.convert(mode) if mode in ("I", "I;16") else None
    if image is None:
        stored = deep.astype(">u2" if mode == "I;16B" else "<u2").tobytes()
        image = Image.frombytes(mode, DEEP.size, stored)
    picture = as_picture(image)
    assert picture.pixels.dtype == np.uint16
    assert off(picture, deep / 65535) == 0


def test_pillows_other_pictures() -> None:
    for image in (DEEP.convert("F"), Image.fromarray(np.full((9, 9), -1, np.int32))):
        with pytest.raises(ValueError, match="mode"):
            as_picture(image)
    grey = PILLOWS.convert("L")
    grey.info |= {"transparency": grey.getpixel((3, 4)), "icc_profile": srgb()}
    picture = as_picture(grey)
    assert picture.pixels.shape[2] == 1
    assert picture.alpha is not None
    assert picture.alpha[4, 3] == 0
    assert picture.profile == b"", "a profile of RGB does not describe grey"
    colour = PILLOWS.convert("RGB")
    colour.info["icc_profile"] = srgb()
    assert as_picture(colour).profile == srgb()


def test_arrays_of_every_layout() -> None:
    deep = COLOUR.astype(np.uint16) * 257
    still = COLOUR.copy()
    still.flags.writeable = False
    for array in (still, COLOUR[::-1, ::-1][::-1, ::-1], np.asfortranarray(COLOUR), deep,
                  deep.astype(">u2"), np.dstack((COLOUR, ALPHA))):  # fmt: skip
        picture = as_picture(array)
        assert picture.pixels.dtype.isnative
        np.testing.assert_array_equal(picture.rgb(), COLOUR)
    veiled = as_picture(np.dstack((COLOUR, ALPHA))).alpha
    assert veiled is not None
    np.testing.assert_array_equal(veiled, ALPHA)
    for wrong in (COLOUR[:, :, :2], COLOUR / 255, COLOUR.astype(int), COLOUR > 9, COLOUR[None]):
        with pytest.raises(ValueError, match="a picture must be uint8 or uint16"):
            as_picture(wrong)


@pytest.mark.parametrize("turn", [1, 3, 6])
def test_pillows_tiffs_are_turned_once(turn: int) -> None:
    data = pillow(Image.fromarray(COLOUR), "TIFF", tiffinfo={274: turn})
    wanted = np.asarray(ImageOps.exif_transpose(_with_exif(Image.fromarray(COLOUR), turn)))
    opened, loaded = (Image.open(io.BytesIO(data)) for _ in range(2))
    loaded.load()
    for image in (opened, loaded):
        np.testing.assert_array_equal(as_picture(image).rgb(), wanted)
