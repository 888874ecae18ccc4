"""Changes of video files that no encoder makes: by the specification, or by the FFmpeg program."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

from benchmarks.formats.videos.ffmpeg import ffmpeg
from benchmarks.formats.videos.scene import LONG, SHORT

Patch = Callable[[Path], None]

ONE = 1 << 16
# (a, b, c, d) of ISO 14496-12, 8.3.2: a stored pixel (x, y) is shown at (a x + c y, b x + d y).
MATRICES = {
    "a quarter right": (0, ONE, -ONE, 0),
    "half a turn": (-ONE, 0, 0, -ONE),
    "a quarter left": (0, -ONE, ONE, 0),
    "mirrored": (-ONE, 0, 0, ONE),
    "upside down, mirrored": (ONE, 0, 0, -ONE),
    "transposed": (0, ONE, ONE, 0),
    "transposed, half a turn": (0, -ONE, -ONE, 0),
}
SUBTITLES, CHAPTERS = "subtitles.srt", "chapters.txt"  # inputs, in the program's folder


def write_inputs(folder: Path) -> None:
    """Write SUBTITLES and CHAPTERS."""
    lines = ("1", "00:00:00,050 --> 00:00:00,200", "One", "")
    more = ("2", "00:00:00,250 --> 00:00:00,400", "Two", "")
    (folder / SUBTITLES).write_text("\n".join((*lines, *more)))
    parts = [";FFMETADATA1"]
    for start, end in ((0, 200), (200, 480)):
        parts += ["[CHAPTER]", "TIMEBASE=1/1000", f"START={start}", f"END={end}", f"title={start}"]
    (folder / CHAPTERS).write_text("\n".join(parts))


def display_matrix(turn: str) -> Patch:
    """Write a matrix into the first track's header, with an offset into the shown picture."""
    a, b, c, d = MATRICES[turn]
    right = LONG * (a < 0) + SHORT * (c < 0)
    below = LONG * (b < 0) + SHORT * (d < 0)

    def patch(path: Path) -> None:
        data = bytearray(path.read_bytes())
        at = data.index(b"tkhd") + 4 + 40
        struct.pack_into(">9i", data, at, a, b, 0, c, d, 0, right << 16, below << 16, 1 << 30)
        path.write_bytes(data)

    return patch


def edit_list(*entries: tuple[int, int]) -> Patch:
    """Replace the first track's edit list (ISO 14496-12, 8.6.6); `moov` must follow `mdat`.

    Args:
        entries: duration in the movie's ticks, and where in the track it begins, in its ticks.
    """
    body = b"".join(struct.pack(">Iii", *entry, ONE) for entry in entries)
    box = struct.pack(">I4sII", 16 + len(body), b"elst", 0, len(entries)) + body
    new = struct.pack(">I4s", 8 + len(box), b"edts") + box

    def patch(path: Path) -> None:
        data = bytearray(path.read_bytes())
        moov = data.rindex(b"moov") - 4
        trak = data.index(b"trak", moov) - 4
        edts = data.index(b"edts", trak) - 4
        old = struct.unpack_from(">I", data, edts)[0]
        data[edts : edts + old] = new
        for at in (moov, trak):
            size = struct.unpack_from(">I", data, at)[0]
            struct.pack_into(">I", data, at, size + len(new) - old)
        path.write_bytes(data)

    return patch


def remuxed(*options: object) -> Patch:
    """Copy all streams with options of the program's for its input."""

    def patch(path: Path) -> None:
        before = path.with_name(f"before{path.suffix}")
        path.rename(before)
        ffmpeg(*options, "-i", before, "-map", "0", "-c", "copy", path)
        before.unlink()

    return patch
