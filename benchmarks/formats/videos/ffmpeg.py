"""The FFmpeg program, another build than the libraries in PyAV: makes videos, and judges them."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dic.console import UserError

# Without these flags FFmpeg rounds down.
EXACT = "flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"


@cache
def program() -> str:
    """The program of the wheel imageio-ffmpeg, whose version the results state.

    Raises:
        UserError: it is not installed.
    """
    try:
        from imageio_ffmpeg import get_ffmpeg_exe
    except ModuleNotFoundError as error:
        raise UserError(
            "the matrix of videos needs the program ffmpeg; pip install imageio-ffmpeg"
        ) from error
    return str(get_ffmpeg_exe())


def ffmpeg(*arguments: object, data: bytes = b"", folder: Path | None = None) -> tuple[bytes, str]:
    """Run the program; returns its standard output and standard error.

    Args:
        data: for its standard input.
        folder: in which it runs.

    Raises:
        RuntimeError: it failed, with the end of its messages.
    """
    line = [program(), "-hide_banner", "-y", *map(str, arguments)]
    done = subprocess.run(line, input=data, capture_output=True, timeout=120, cwd=folder)
    errors = done.stderr.decode(errors="replace")
    if done.returncode:
        raise RuntimeError(f"ffmpeg {' '.join(map(str, arguments))}: {errors[-800:]}")
    return done.stdout, errors


@dataclass(frozen=True)
class Shown:
    """What the program shows of a video.

    Attributes:
        frames: (H, W, 3) uint8 RGB, upright.
        times: of the frames, in seconds.
        held: duration of the last frame in seconds; 0 if unknown.
        tags: what the file says of its frames' colours, such as {"color_space": "bt709"}.
        streams: the program's lines about the streams, such as "Audio: aac (LC), …".
        languages: of the streams.
        chapters: (start, end) in seconds.
        aspect: width of the shown picture over its height.
    """

    frames: list[NDArray[np.uint8]]
    times: list[float]
    held: float
    tags: dict[str, str]
    streams: list[str]
    languages: list[str]
    chapters: list[tuple[float, float]]
    aspect: float


def show(path: Path) -> Shown:
    """Decode a video's frames and read its header."""
    view = f"showinfo=checksum=0,scale={EXACT}:out_range=full,format=rgb24,showinfo=checksum=0"
    data, told = ffmpeg(
        *("-copyts", "-i", path, "-map", "0:V:0", "-fps_mode", "passthrough"),
        *("-vf", view, "-f", "rawvideo", "-"),
    )
    found = re.findall(
        r"n: *\d+ pts: *\S+ pts_time:(\S+) +duration: *\S+ duration_time:(\S+) +"
        r"fmt:rgb24 .*?sar:(\d+)/(\d+) s:(\d+)x(\d+)",
        told,
    )
    times = [float(time) for time, *_ in found]
    frames, at = [], 0
    for *_, wide, high in found:
        size = 3 * int(wide) * int(high)
        shape = (int(high), int(wide), 3)
        frames.append(np.frombuffer(data[at : at + size], np.uint8).reshape(shape))
        at += size
    _, _, across, down, wide, high = found[0] if found else ("", "", "1", "1", "1", "1")
    header = told.split("Stream mapping:")[0]
    streams = re.findall(r"Stream #0:\d+(?:\[\w+\])?(?:\((\w+)\))?: (.*)", header)
    tags = re.search(
        r"color_range:(\S+) color_space:(\S+) color_primaries:(\S+) color_trc:(\S+)", told
    )
    names = ("range", "matrix", "primaries", "curve")
    return Shown(
        frames,
        times,
        float(found[-1][1]) if found and found[-1][1] != "N/A" else 0.0,
        dict(zip(names, tags.groups() if tags else (), strict=False)),
        [line for _, line in streams],
        [language for language, _ in streams],
        [
            (float(start), float(end))
            for start, end in re.findall(r"Chapter #0:\d+: start (\S+), end (\S+)", header)
        ],
        (int(across) or 1) / (int(down) or 1) * int(wide) / int(high),
    )


def packets(path: Path, stream: str) -> list[tuple[float, int, str]]:
    """(time in seconds, bytes, MD5) of a stream's packets; `stream` is such as "0:a:0"."""
    data, _ = ffmpeg(
        "-copyts", "-i", path, "-map", stream, "-c", "copy", "-f", "framemd5", "-"
    )  # fmt: skip
    text = data.decode()
    found = re.search(r"#tb 0: (\d+)/(\d+)", text)
    tick = int(found[1]) / int(found[2]) if found else 1.0
    rows = [line.split(",") for line in text.splitlines() if line and not line.startswith("#")]
    return [(int(row[2]) * tick, int(row[4]), row[5].strip()) for row in rows]
