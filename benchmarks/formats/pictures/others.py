"""Files that are no pictures which we read: each must be refused as what it is."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator

import numpy as np

from benchmarks.formats.pictures.jpeg import pixels
from benchmarks.formats.pictures.sample import Sample

FTYP = struct.pack(">I4s", 24, b"ftyp")


def samples() -> Iterator[Sample]:
    yield from _by_libraries()
    for name, data, reason in (
        ("PSD", b"8BPS\0\1" + bytes(200), "Photoshop"),
        ("XCF", b"gimp xcf v011\0" + bytes(200), "GIMP"),
        ("SVG", b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>', "SVG"),
        ("SVG", b'\xef\xbb\xbf<?xml version="1.0"?>\n<!-- a -->\n<svg width="9"/>', "SVG"),
        ("PDF", b"%PDF-1.7\n" + bytes(200), "PDF"),
        ("PostScript", b"%!PS-Adobe-3.0 EPSF-3.0\n" + bytes(200), "PostScript"),
        ("DICOM", bytes(128) + b"DICM" + bytes(200), "DICOM"),
        ("OpenEXR", b"v/1\x01\2\0\0\0" + bytes(200), "OpenEXR"),
        ("FITS", b"SIMPLE  =                    T" + bytes(2850), "FITS"),
        ("raw camera", b"II*\0\x10\0\0\0CR\2\0" + bytes(200), "raw camera"),
        ("raw camera", b"FUJIFILMCCD-RAW 0201" + bytes(200), "raw camera"),
        ("raw camera", FTYP + b"crx \0\0\0\1crx isom" + bytes(99), "raw camera"),
        ("video", FTYP + b"isom\0\0\2\0isommp42" + bytes(99), "is a video"),
        ("video", b"\x1a\x45\xdf\xa3" + bytes(99), "is a video"),
        ("video", b"RIFF\x64\0\0\0AVI LIST" + bytes(99), "is a video"),
        ("web page", b"<!DOCTYPE html>\n<html><body>404</body></html>", "is a web page"),
        ("Git LFS pointer", b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        ("empty file", b"", "is empty"),
        ("text", b"Hello\n", "not a picture"),
        ("one byte", b"\x89", "not a picture"),
    ):  # fmt: skip
        yield Sample(name, "", data, reason)


def _by_libraries() -> Iterator[Sample]:
    import imagecodecs
    from PIL import Image

    image = Image.fromarray(pixels(3))
    for name, kind, reason in (
        ("ICO", "ICO", "icon"),
        ("DDS", "DDS", "DDS"),
        ("QOI", "QOI", "QOI"),
        ("TGA", "TGA", "TGA"),
        ("ICNS", "ICNS", "icon"),
    ):
        file = io.BytesIO()
        image.resize((32, 32)).save(file, kind)
        yield Sample(name, "", file.getvalue(), reason)
    for layout, container in (("codestream", False), ("container", True)):
        data = imagecodecs.jpegxl_encode(pixels(3), usecontainer=container)
        yield Sample("JPEG XL", layout, bytes(data), "JPEG XL")
    yield Sample("JPEG XR", "", bytes(imagecodecs.jpegxr_encode(pixels(3))), "JPEG XR")
    light = np.ascontiguousarray(pixels(3).astype(np.float32) / 255)
    yield Sample("Radiance HDR", "", bytes(imagecodecs.rgbe_encode(light, header=True)), "Radiance")
