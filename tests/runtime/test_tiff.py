from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image

from runtime.pictures.tiff import pages, renewed


def exif_with_thumbnail(order: str, kind: int) -> bytes:
    """As a camera writes it: turned, with its size as SHORT (3) or LONG (4), and a thumbnail."""

    def directory(tags: dict[int, tuple[int, int]], following: int) -> bytes:
        content = struct.pack(f"{order}H", len(tags))
        for tag, (type_, value) in tags.items():
            form = f"{order}HHIHxx" if type_ == 3 else f"{order}HHII"
            content += struct.pack(form, tag, type_, 1, value)
        return content + struct.pack(f"{order}I", following)

    own_at, thumbnail_at = 8 + 2 + 2 * 12 + 4, 8 + 2 + 2 * 12 + 4 + 2 + 2 * 12 + 4
    own = directory({0xA002: (kind, 640), 0xA003: (kind, 480)}, 0)
    main = directory({0x0112: (3, 6), 0x8769: (4, own_at)}, thumbnail_at)
    picture_at = thumbnail_at + 2 + 3 * 12 + 4
    thumbnail = directory({0x0112: (3, 6), 0x0201: (4, picture_at), 0x0202: (4, 9)}, 0)
    thumbnail += b"\xff\xd8picture"
    start = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8)
    return start + main + own + thumbnail


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [3, 4])
def test_exif_tells_about_the_result(order: str, kind: int) -> None:
    before = exif_with_thumbnail(order, kind)
    told = Image.Exif()
    told.load(before)
    assert told.get_ifd(ExifTags.IFD.IFD1), "the test has a thumbnail"
    for marked in (b"", b"Exif\0\0"):
        after = Image.Exif()
        after.load(renewed(marked + before, 1920, 2560))
        own = after.get_ifd(ExifTags.IFD.Exif)
        assert (after[0x0112], own[0xA002], own[0xA003]) == (1, 1920, 2560)
        assert not after.get_ifd(ExifTags.IFD.IFD1), "it showed the picture as it was"
        assert b"picture" in before
        assert b"picture" not in renewed(before, 1920, 2560)


def test_a_size_beyond_16_bits_is_told() -> None:
    after = Image.Exif()
    after.load(renewed(exif_with_thumbnail("<", 3), 70_000, 2560))
    own = after.get_ifd(ExifTags.IFD.Exif)
    assert (own[0xA002], own[0xA003]) == (70_000, 2560)


def test_an_orientation_of_another_type_is_one_too() -> None:
    for order in "<>":
        start = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8)
        # Without where the next directory is, as some writers leave it.
        long = start + struct.pack(f"{order}HHHII", 1, 0x0112, 4, 1, 6)
        after = Image.Exif()
        after.load(renewed(long, 10, 10) + bytes(4))
        assert after[0x0112] == 1


@given(st.binary(max_size=200), st.sampled_from([b"", b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08"]))
def test_damaged_directories_are_no_error(content: bytes, start: bytes) -> None:
    data = start + content
    assert pages(data) >= 1
    assert len(renewed(data, 100, 100)) in (0, len(data))


def test_damaged_exif_is_left_out() -> None:
    whole = exif_with_thumbnail("<", 4)
    assert renewed(whole[:20], 100, 100) == b""
    assert renewed(b"", 100, 100) == b""
    assert renewed(whole[:4] + bytes(4) + whole[8:], 100, 100) == b"", "a directory in the header"
    tags = struct.pack("<H", 501) + bytes(12 * 600)
    assert renewed(whole[:8] + tags, 100, 100) == b"", "more tags than there are"


def test_a_pointer_to_nowhere_changes_nothing_else() -> None:
    whole = exif_with_thumbnail("<", 4)
    at = whole.index(struct.pack("<H", 0x8769)) + 8
    for where in (0, 4, len(whole), 2**32 - 1):
        lost = whole[:at] + struct.pack("<I", where) + whole[at + 4 :]
        kept = renewed(lost, 100, 100)
        assert kept[at:] == lost[at : at + 4] + bytes(4) + lost[at + 8 : -9] + bytes(9)
