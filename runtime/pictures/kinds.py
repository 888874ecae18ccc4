"""The kinds of files, told by their first bytes."""

from __future__ import annotations

from runtime.pictures.header import DAMAGED, ImageError

# How the files of each format begin that can be read.
SIGNATURES = {
    b"\x89PNG\r\n\x1a\n": "png",
    b"\xff\xd8\xff": "jpeg",
    b"GIF8": "gif",
    **dict.fromkeys((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), "tiff"),  # + is BigTIFF
    **dict.fromkeys((b"P1", b"P2", b"P3", b"P4", b"P5", b"P6", b"P7"), "pnm"),
    b"BM": "bmp",
    **dict.fromkeys((b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51"), "jpeg2000"),
}
# How others begin, and what they are.
UNREAD = {
    **dict.fromkeys((b"\xff\x0a", b"\0\0\0\x0cJXL "), "JPEG XL"),
    b"8BPS": "Photoshop (PSD)",
    b"gimp xcf": "GIMP (XCF)",
    b"%PDF": "PDF",
    b"%!PS": "PostScript",
    b"v/1\x01": "OpenEXR",
    **dict.fromkeys((b"#?RADIANCE", b"#?RGBE"), "Radiance HDR"),
    b"DDS ": "DDS",
    b"\0\0\1\0": "icon (ICO)",
    **dict.fromkeys((b"\0\0\2\0\0", b"\0\0\x0a\0\0"), "TGA"),
    b"icns": "icon (ICNS)",
    b"qoif": "QOI",
    **dict.fromkeys((b"\x8aMNG\r\n\x1a\n", b"\x8bJNG\r\n\x1a\n"), "MNG and JNG"),
    b"II\xbc": "JPEG XR",
    **dict.fromkeys((b"PF\n", b"Pf\n", b"PF ", b"Pf "), "floating-point (PFM)"),
    b"SIMPLE  =": "FITS",
    **dict.fromkeys((b"FUJIFILMCCD-RAW", b"IIRO", b"IIRS", b"MMOR", b"IIU\0"), "raw camera"),
}
# Marks elsewhere in a file: where, what, and what it is.
MARKS = (
    (8, b"CR\2\0", "raw camera"),  # Canon's TIFF
    (128, b"DICM", "DICOM"),
    (-18, b"TRUEVISION-XFILE.\0", "TGA"),
)
VIDEOS = {b"\x1a\x45\xdf\xa3": 0, b"AVI ": 8, b"OggS": 0, b"\0\0\1\xba": 0, b"FLV\1": 0}
# Brands of the ISO container: of still AVIF and of animated; of HEIC (ISO/IEC 23008-12, B.4).
AVIF = (b"avif", b"avis")
HEIC = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
TEXT = 512  # bytes in which a text file shows what it is


def format_of(name: str, data: bytes) -> str:
    """The format of a file by its first bytes: png, jpeg, gif, tiff, webp, avif, heic, and others.

    Raises:
        ImageError: it is empty, not a picture, or of a kind that cannot be read.
    """
    if not data:
        raise ImageError(f"{name}: the file is empty")
    for starts, unread in ((UNREAD, True), (SIGNATURES, False)):
        for start, kind in starts.items():
            if data.startswith(start):
                return _unread(name, kind) if unread else _not_marked(name, data, kind)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data[4:8] == b"ftyp":
        brands = data[8 : max(16, min(int.from_bytes(data[:4], "big"), 256))]
        listed = {brands[at : at + 4] for at in range(0, len(brands), 4)}
        if listed & set(AVIF):
            return "avif"
        if listed & set(HEIC):
            return "heic"
        if b"crx " in listed:
            return _unread(name, "raw camera")
        raise _video(name)
    if any(data[at : at + len(start)] == start for start, at in VIDEOS.items()):
        raise _video(name)
    _not_marked(name, data, "")
    raise _text(name, data[:TEXT].lstrip(b"\xef\xbb\xbf \t\r\n"))


def _not_marked(name: str, data: bytes, kind: str) -> str:
    for at, mark, what in MARKS:
        if data[at : at + len(mark) or None] == mark:
            return _unread(name, what)
    return kind


def _unread(name: str, kind: str) -> str:
    raise ImageError(f"{name}: {kind} pictures cannot be read; convert it to JPEG or PNG first")


def _video(name: str) -> ImageError:
    return ImageError(f"{name}: is a video, not a picture; from Python use restore_video")


def _text(name: str, start: bytes) -> ImageError:
    """The error for a file that none of the signatures fits."""
    lower = start.lower()
    if b"<svg" in lower:
        return ImageError(f"{name}: SVG pictures cannot be read; convert it to JPEG or PNG first")
    if lower.startswith((b"<!doctype html", b"<html")):
        return ImageError(f"{name}: is a web page, not a picture; download the picture itself")
    if lower.startswith(b"version https://git-lfs"):
        return ImageError(f"{name}: is a pointer of Git LFS, not the picture; run git lfs pull")
    return ImageError(f"{name}: {DAMAGED}")
