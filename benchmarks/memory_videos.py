"""The memory that videos take, beside what their sizes promise; see `benchmarks.memory`.

Sources are encoded with B-frames and 16 reference frames where the codec has them, so that decoders
hold as many frames as they may. They are longer than x264's lookahead.
"""

from __future__ import annotations

import ctypes
import gc
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.report.markdown import table
from dic.memory import resident
from runtime.faces.crop import Crop
from runtime.faces.options import PhotoOptions
from runtime.faces.restore import Restorer
from runtime.video.restore import most_workers, restore_video, video_bytes

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
FRAMES = 64
ENCODERS = {
    "libx264": {"preset": "ultrafast", "bf": "3", "refs": "16"},
    "libx265": {"preset": "ultrafast", "x265-params": "log-level=none:ref=6:bframes=4"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "b": "0", "crf": "30"},
    "libsvtav1": {"preset": "12"},
}


class Square:
    """Finds one square in each frame, and takes no memory: pictures measure the detector's."""

    def find(self, image: NDArray[np.uint8]) -> list[Crop]:
        return [Crop(20, 30, 40)]

    def memory(self, pixels: int) -> int:
        return 0


@dataclass(frozen=True)
class VideoCase:
    """One video.

    Attributes:
        width, height: pixels.
        codec: FFmpeg's encoder of the source.
        suffix: of the result.
        enlarge: times.
    """

    width: int
    height: int
    codec: str
    suffix: str
    enlarge: int = field(default=1)


CASES = (
    VideoCase(640, 480, "libx264", ".mp4"),
    VideoCase(640, 480, "libx264", ".mp4", 3),
    VideoCase(640, 480, "libvpx-vp9", ".webm"),
    VideoCase(640, 480, "libx265", ".avi"),
    VideoCase(1920, 1080, "libx264", ".mkv"),
    VideoCase(1920, 1080, "libx265", ".mp4"),
    VideoCase(1920, 1080, "libsvtav1", ".mp4"),
    VideoCase(3840, 2160, "libx264", ".mp4"),
)


def measured_videos(
    restorer: Restorer, folder: Path, cases: tuple[VideoCase, ...] = CASES
) -> list[dict[str, Any]]:
    """What each case needs by its size, and took at most, in bytes."""
    rows = []
    _measured(VideoCase(160, 120, "libx264", ".mp4"), restorer, folder)  # makes arenas
    for case in cases:
        row = _measured(case, restorer, folder)
        rows.append({**asdict(case), **row})
        need, took = row["need"] / 1e6, row["took"] / 1e6
        print(f"{case}: needs up to {need:.0f} MB, took {took:.0f} MB", flush=True)
    return rows


def _measured(case: VideoCase, restorer: Restorer, folder: Path) -> dict[str, int]:
    source, target = folder / "in.mkv", folder / f"out{case.suffix}"
    _make(case, source)
    fixed, each = video_bytes((case.width, case.height), case.enlarge, case.suffix)
    with _peak() as took:
        restore_video(source, target, restorer, PhotoOptions(enlarge=case.enlarge))
    return {"need": fixed + most_workers() * each, "took": took[0]}


@contextmanager
def _peak() -> Iterator[list[int]]:
    """Receives the bytes by which the process grew at most."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before, grown = resident(), list[int]()
    CLEAR.write_text("5")  # proc(5): the peak begins anew
    yield grown
    found = re.search(r"VmHWM:\s*(\d+) kB", STATUS.read_text())
    grown.append(int(found[1]) * 1024 - before if found else 0)


def _make(case: VideoCase, path: Path) -> None:
    """Write a video of a texture that moves."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (case.height, case.width, 3), np.uint8)
    soft = cv2.GaussianBlur(noise, (0, 0), 2)
    texture = np.asarray(cv2.normalize(soft, soft.copy(), 0, 255, cv2.NORM_MINMAX), np.uint8)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(case.codec, rate=25, options=ENCODERS[case.codec])
        stream.width, stream.height, stream.pix_fmt = case.width, case.height, "yuv420p"
        for number in range(FRAMES):
            moved = np.ascontiguousarray(np.roll(texture, 3 * number, 1))
            frame = av.VideoFrame.from_ndarray(moved, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def summary(rows: list[dict[str, Any]]) -> str:
    """The results as a table."""
    shown = [
        [
            f"{row['width']}×{row['height']}, {row['codec']}",
            row["suffix"][1:],
            f"{row['enlarge']}×",
            f"{row['need'] / 1e6:.0f}",
            f"{row['took'] / 1e6:.0f}",
            f"{row['need'] / row['took']:.2f}",
        ]
        for row in rows
    ]
    head = ["video", "result", "enlarged", "bound, MB", "peak, MB", "bound/peak"]
    return table(head, shown)
