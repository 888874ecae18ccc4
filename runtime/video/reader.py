"""Reading a video: its frames upright and in RGB, and the packets of what is copied.

By PyAV (FFmpeg's libraries in a wheel).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dic.console import UserError

try:
    import av
    from av.video.reformatter import ColorRange, Interpolation
except ModuleNotFoundError as error:
    raise UserError("videos need PyAV; pip install 'dic-toolkit[video]'") from error

Bytes = NDArray[np.uint8]

# Copied beside the pictures. Attachments and data streams of cameras are left out.
COPIED = ("audio", "subtitle")
# With less FFmpeg rounds down, and pictures darken by a grey level at each conversion.
EXACT = (
    Interpolation.BICUBIC
    | Interpolation.ACCURATE_RND
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
)
UNSPECIFIED = 2  # of FFmpeg's colour spaces
BT709, BT601 = 1, 5


Packet = Any  # PyAV's, of a stream that is copied


class VideoError(Exception):
    """A video cannot be read or written; the message is one line."""


@dataclass(frozen=True)
class Frame:
    """One picture of a video, upright.

    Attributes:
        number: from 0 on.
        pixels: (H, W, 3) uint8 RGB.
        pts: when it is shown, in units of `time_base`.
    """

    number: int
    pixels: Bytes
    pts: int
    time_base: Fraction

    @property
    def seconds(self) -> float:
        return float(self.pts * self.time_base)


class Reader:
    """A video file, read once.

    Raises:
        VideoError: no video, or a damaged one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damaged = ""  # what could not be read, if anything
        try:
            self.container = av.open(str(path))
        except (av.FFmpegError, OSError, ValueError) as error:
            raise VideoError(
                f"{path}: not a video, or a damaged one ({reason_of(error)})"
            ) from error
        if not self.container.streams.video:
            self.container.close()
            raise VideoError(f"{path}: has no pictures")
        self.stream = self.container.streams.video[0]
        self.stream.thread_type = "AUTO"
        self.rate = self.stream.average_rate or self.stream.guessed_rate or Fraction(25)
        self.time_base = self.stream.time_base or 1 / self.rate
        self.count = self.stream.frames or round(
            float(self.rate) * (self.container.duration or 0) / av.time_base
        )
        context = self.stream.codec_context
        self.aspect = context.sample_aspect_ratio  # of a pixel
        # Frames that do not say their colour space are taken as players take them.
        self.space = int(context.colorspace or 0)
        if self.space in (0, UNSPECIFIED):
            self.space = BT709 if context.height >= 720 else BT601

    def packets(self) -> Iterator[Frame | Packet]:
        """Frames, and packets of the streams that are copied, as they come in the file."""
        copied = [s for s in self.container.streams if s.type in COPIED]
        number = 0
        try:
            for packet in self.container.demux(self.stream, *copied):
                if packet.stream is not self.stream:
                    if packet.size:  # the last of each stream is empty
                        yield packet
                    continue
                try:
                    frames = packet.decode()
                except av.FFmpegError as error:  # players skip what they cannot read, too
                    self.damaged = reason_of(error)
                    continue
                for frame in frames:
                    yield self._frame(frame, number)
                    number += 1
        except av.FFmpegError as error:
            self.damaged = reason_of(error)

    def _frame(self, frame: Any, number: int) -> Frame:
        full = frame.color_range == ColorRange.JPEG or frame.format.name.startswith("yuvj")
        rgb = frame.reformat(
            format="rgb24",
            interpolation=EXACT,
            src_colorspace=self.space,
            dst_colorspace=self.space,
            src_color_range=ColorRange.JPEG if full else ColorRange.MPEG,
        )
        pixels = np.rot90(rgb.to_ndarray(), frame.rotation // 90)
        if number == 0 and frame.rotation % 180 and self.aspect:
            self.aspect = 1 / self.aspect
        guessed = round(number / self.rate / self.time_base)
        pts = guessed if frame.pts is None else frame.pts
        time_base = frame.time_base or self.time_base
        return Frame(number, np.ascontiguousarray(pixels), pts, time_base)

    def close(self) -> None:
        self.container.close()


def reason_of(error: Exception) -> str:
    """FFmpeg's reason without its number and file."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
