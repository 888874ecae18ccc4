"""Pictures within a budget of memory: by their headers, before they are decoded."""

from __future__ import annotations

import io
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from benchmarks.memory import CLEAR, Case, measure
from dic.memory import Memory
from runtime import FaceRestorer, load_engine
from runtime.faces.options import PhotoOptions
from runtime.jobs.needs import photo_need
from runtime.jobs.paths import Job
from runtime.jobs.pictures import PictureWork
from runtime.pictures.files import decode_picture
from runtime.pictures.header import Header, ImageError, read_header

G = 2**30


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "GIF", "AVIF", "BMP", "PPM"])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_headers_are_as_pillow_has_them(kind: str, mode: str) -> None:
    """Channels are an upper bound: decoders may add alpha, or repeat grey."""
    image = Image.new(mode, (31, 17))
    if mode == "RGBA" and kind in ("JPEG", "PPM"):
        image = image.convert("RGB")
    file = io.BytesIO()
    image.save(file, kind)
    header = read_header("a", file.getvalue())
    assert (header.width, header.height, header.depth) == (31, 17, 1)
    assert len(image.getbands()) <= header.channels <= 4


@pytest.mark.parametrize("suffix", [".png", ".tif", ".ppm", ".jp2"])
def test_headers_tell_sixteen_bits(suffix: str) -> None:
    data = cv2.imencode(suffix, np.zeros((64, 96, 3), np.uint16))[1].tobytes()
    assert read_header("a", data) == Header(96, 64, 3, 2)


def test_a_picture_over_the_budget_is_refused_before_it_is_decoded(
    tiny_engine: Path, tmp_path: Path
) -> None:
    """The files have a header and no pixels: decoding them would fail by another message."""
    large = tmp_path / "large.png"
    small = io.BytesIO()
    Image.new("RGB", (16, 16)).save(small, "PNG")
    with load_engine(tiny_engine, "cpu") as engine, FaceRestorer(engine) as restorer:
        for width, allowed in ((16_000, False), (16, True)):
            data = bytearray(small.getvalue())
            data[16:24] = width.to_bytes(4, "big") * 2
            data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
            large.write_bytes(data)
            for options in (None, PhotoOptions()):
                work = PictureWork(restorer, options, None, Memory(2 * G))
                done = work(Job(large, tmp_path / "out.png", {}, named=False))
                assert ("2 GB are allowed" in done.message) is not allowed, done.message
                assert (done.status == "failed") is not allowed


def test_a_result_is_enlarged_less_where_memory_lacks() -> None:
    header = Header(2000, 2000, 3, 1)
    whole = photo_need(header, 0, ".png", PhotoOptions())
    assert whole.most == 64_000_000
    less = whole.within(whole.fixed + whole.each * 20_000_000)
    assert less.most == 20_000_000
    assert whole.within(1).most == header.pixels  # not shrunk: refused
    asked = photo_need(header, 0, ".png", PhotoOptions(enlarge=4))
    assert asked.within(1) == asked


@pytest.mark.skipif(not CLEAR.exists(), reason="needs Linux's /proc")
def test_what_a_picture_takes_is_within_its_bound() -> None:
    """The other cases are measured by `python -m benchmarks.memory`."""
    for row in measure((Case(2000, "RGB", 16, ".png", 0), Case(1000, "RGBA", 8, ".png", 2))):
        assert row["took"] <= row["need"], row


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_pictures_beyond_pillows_own_guard_are_read(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow warns from 89 megapixels on and refuses from 179; only our own limit counts."""
    encoded = io.BytesIO()
    pages = {"save_all": True, "append_images": [Image.new("RGB", (30, 20))]}
    options = {"quality": 30} if kind == "JPEG" else {"tiffinfo": {254: 0}, **pages}
    Image.new("RGB", (60, 40)).save(encoded, kind, **options)
    with Image.open(io.BytesIO(encoded.getvalue())) as image:
        tables = getattr(image, "quantization", {})
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    if kind == "TIFF":
        with pytest.raises(ImageError, match="has 2 pages"):
            decode_picture("a.tif", encoded.getvalue())
    else:
        picture = decode_picture("a.jpg", encoded.getvalue())
        assert picture.quantisation == np.mean(tables[0])
