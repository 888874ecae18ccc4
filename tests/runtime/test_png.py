from __future__ import annotations

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from runtime.pictures.files import ImageError, decode_picture
from runtime.pictures.png import Png, examine


def saved(mode: str, **options: object) -> bytes:
    file = io.BytesIO()
    Image.linear_gradient("L").convert(mode).save(file, "PNG", **options)
    return file.getvalue()


def found(data: bytes) -> Png:
    return examine(memoryview(data))


def with_header(*fields: int) -> bytes:
    """A PNG whose header says something else, with the right check sum."""
    header = b"IHDR" + struct.pack(">II5B", *fields)
    whole = saved("RGB")
    return whole[:12] + header + struct.pack(">I", zlib.crc32(header)) + whole[33:]


WHOLE = saved("RGB")
DAMAGED = {
    "no width": with_header(0, 256, 8, 2, 0, 0, 0),
    "no height": with_header(256, 0, 8, 2, 0, 0, 0),
    "no such size": with_header(2**31 + 5, 256, 8, 2, 0, 0, 0),
    "no such depth": with_header(256, 256, 3, 2, 0, 0, 0),
    "no such colours": with_header(256, 256, 8, 5, 0, 0, 0),
    "no such packing": with_header(256, 256, 8, 2, 1, 0, 0),
    "no such filter": with_header(256, 256, 8, 2, 0, 9, 0),
    "no such interlace": with_header(256, 256, 8, 2, 0, 0, 7),
    "a changed byte": WHOLE[:100] + bytes([WHOLE[100] ^ 1]) + WHOLE[101:],
    "a changed header": WHOLE[:20] + bytes([WHOLE[20] ^ 1]) + WHOLE[21:],
    "cut off": WHOLE[: len(WHOLE) // 2],
    "its first bytes": WHOLE[:8],
}


@pytest.mark.parametrize("what", DAMAGED)
def test_damage_is_told_by_us_alone(what: str, capfd: pytest.CaptureFixture[str]) -> None:
    # OpenCV's own lines are silenced by the command; libpng's cannot be.
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        with pytest.raises(ImageError, match=r"^a\.png: not a picture, or a damaged one$"):
            decode_picture("a.png", np.frombuffer(DAMAGED[what], np.uint8))
    finally:
        cv2.utils.logging.setLogLevel(level)
    assert capfd.readouterr().err == "", "libpng prints lines of its own"


def test_what_is_found_in_whole_files() -> None:
    for mode in ("RGB", "L", "1"):
        assert found(saved(mode)) == Png()
    for mode in ("RGBA", "LA", "P"):
        assert found(saved(mode)) == Png(alpha=True)
    assert found(saved("RGB", transparency=(1, 2, 3))) == Png(alpha=True)
    more = {"save_all": True, "append_images": [Image.radial_gradient("L").convert("RGB")]}
    assert found(saved("RGB", **more)) == Png(animated=True)


def test_a_profile_that_does_not_fit_is_left_out(capfd: pytest.CaptureFixture[str]) -> None:
    rgb, grey = (bytes(16) + space + bytes(200) for space in (b"RGB ", b"GRAY"))
    for mode, fits, misfits in (("RGB", rgb, grey), ("L", grey, rgb), ("LA", grey, rgb)):
        assert found(saved(mode, icc_profile=fits)).misfit is None
        lying = saved(mode, icc_profile=misfits)
        without = np.delete(np.frombuffer(lying, np.uint8), found(lying).misfit)
        assert without.tobytes() == saved(mode)
        capfd.readouterr()
        assert decode_picture("a.png", np.frombuffer(lying, np.uint8)).profile == b""
        assert capfd.readouterr().err == "", "libpng prints lines of its own"


def test_what_comes_too_late_does_not_count() -> None:
    animation = struct.pack(">I4sIII", 8, b"acTL", 2, 0, 0)
    for late in (bytes(512), b"\0\0\0\x04HTML<br>....", animation):
        assert found(WHOLE + late) == Png()
    assert found(WHOLE[:-12] + animation + WHOLE[-12:]) == Png(), "after the pixels"
    assert found(WHOLE[:-1] + b"!") == Png(), "the check sum of the end"


@given(st.integers(8, len(WHOLE) - 1), st.integers(1, 255))
@settings(max_examples=300)
def test_what_can_be_decoded_is_not_called_damaged(at: int, change: int) -> None:
    changed = WHOLE[:at] + bytes([WHOLE[at] ^ change]) + WHOLE[at + 1 :]
    if found(changed).damaged:
        assert cv2.imdecode(np.frombuffer(changed, np.uint8), cv2.IMREAD_COLOR) is None


@given(st.binary(max_size=100))
def test_any_bytes_have_an_answer(content: bytes) -> None:
    assert isinstance(found(WHOLE[:8] + content), Png)
