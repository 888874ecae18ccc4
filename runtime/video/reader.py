"""Reading a video with PyAV: upright, progressive RGB frames, and the packets of streams to copy.

PyAV is a wheel of FFmpeg's libraries.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dic.console import UserError
from dic.files import open_regular
from runtime.video.colours import colour_fault, expanded, reductions
from runtime.video.upright import Deinterlacer, orientation

try:
    import av
    from av.stream import Disposition
    from av.video.reformatter import ColorRange, Interpolation
except ModuleNotFoundError as error:
    raise UserError("videos need PyAV; pip install 'dic-toolkit[video]'") from error

Bytes = NDArray[np.uint8]

# Types of streams whose packets are copied.
COPIED = ("audio", "subtitle")
# Without these flags FFmpeg rounds down, and each conversion darkens frames by one grey level.
EXACT = (
    Interpolation.BICUBIC
    | Interpolation.ACCURATE_RND
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
)
UNSPECIFIED = 2  # FFmpeg's AVCOL_SPC_UNSPECIFIED
BT709, BT601 = 1, 5  # AVCOL_SPC_BT709, AVCOL_SPC_BT470BG
# FFmpeg's names of containers. Left out are lists of other files, such as concat's and playlists,
# which would read what their author names.
FORMATS = "mov,matroska,avi,mpegts,mpeg,asf,flv,ogg"
UNTIMED = ("avi",)  # containers without presentation times, which FFmpeg guesses wrongly


Packet = Any  # av.Packet of a stream that is copied


class VideoError(Exception):
    """A video cannot be read, restored or written; the message is one line."""


@dataclass(frozen=True)
class Frame:
    """One frame of a video, rotated upright.

    Attributes:
        number: index from 0.
        pixels: (H, W, 3) uint8 RGB.
        pts: presentation time in units of `time_base`.
        time_base: seconds.
        duration: in units of `time_base`; 0 if unknown.
    """

    number: int
    pixels: Bytes
    pts: int
    time_base: Fraction
    duration: int = 0

    @property
    def seconds(self) -> float:
        """Presentation time in seconds."""
        return float(self.pts * self.time_base)


class Reader:
    """A video file, decoded once from start to end.

    Attributes:
        stream: the video that is shown: the first one flagged as default, else the first; never a
            cover picture.
        damaged: FFmpeg's last decoding error; empty if there was none.
        rate: frames per second.
        time_base: of the video stream, in seconds.
        count: number of frames according to the header or estimated from it; 0 if unknown.
        length: seconds according to the header; 0 if unknown.
        reached: seconds at which the last packet read so far ends, of any stream.
        aspect: width of a pixel over its height; None or 0 if the file does not specify it.
        space: FFmpeg's colour space (AVColorSpace).
        remarks: human-readable notes on what was changed while reading.

    Raises:
        VideoError: the file is damaged, not a video, has no video stream, or its colours are
            coded in a way that is not supported.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damaged = ""
        self._size: tuple[int, int] | None = None
        try:
            open_regular(path).close()  # a pipe cannot be read twice
            self.container = av.open(address(path), options={"format_whitelist": FORMATS})
        except UserError as error:
            raise VideoError(str(error)) from error
        except (av.FFmpegError, OSError, ValueError) as error:
            raise VideoError(
                f"{path}: not a video, or a damaged one ({reason_of(error)})"
            ) from error
        videos = [s for s in self.container.streams.video if not is_cover(s)]
        if not videos:
            self.container.close()
            raise VideoError(f"{path}: has no video stream")
        self.stream = next((s for s in videos if s.disposition & Disposition.default), videos[0])
        self.stream.thread_type = "AUTO"
        self.rate = self.stream.average_rate or self.stream.guessed_rate or Fraction(25)
        self.time_base = self.stream.time_base or 1 / self.rate
        # An edit list may show less than the track has; then the duration is the lesser.
        shown = round(float(self.rate) * (self.container.duration or 0) / av.time_base)
        self.count = min(self.stream.frames or shown, shown or self.stream.frames)
        self.length = (self.container.duration or 0) / av.time_base
        self.reached = 0.0
        context = self.stream.codec_context
        if fault := colour_fault(context):
            self.container.close()
            raise VideoError(
                f"{path}: {fault}, which is not supported; convert it, as docs/videos.md shows"
            )
        self.remarks = dict.fromkeys(reductions(self.stream))  # in order
        self.aspect = self.stream.sample_aspect_ratio  # the container's, before the codec's
        # For an unspecified colour space, assume what players assume for this height.
        self.space = int(context.colorspace or 0)
        if self.space in (0, UNSPECIFIED):
            self.space = BT709 if context.height >= 720 else BT601

    def packets(self) -> Iterator[Frame | Packet]:
        """Decoded frames, and packets of the streams to copy, in file order.

        Frames that cannot be decoded are skipped and recorded in `damaged`.
        """
        copied = [s for s in self.container.streams if s.type in COPIED or is_cover(s)]
        number = 0
        progressive = Deinterlacer()
        untimed = self.container.format.name in UNTIMED
        times: deque[int] = deque()  # when packets are decoded
        try:
            for packet in self.container.demux(self.stream, *copied):
                at = packet.dts if packet.pts is None else packet.pts
                if at is not None:
                    end = float((at + (packet.duration or 0)) * packet.time_base)
                    self.reached = max(self.reached, end)
                if packet.stream is not self.stream:
                    if packet.size:  # each stream ends with an empty flush packet
                        yield packet
                    continue
                if untimed and packet.size and packet.dts is not None:
                    times.append(packet.dts)
                try:
                    frames: list[Any] = packet.decode()
                except av.FFmpegError as error:  # skip damaged packets, as players do
                    self.damaged = reason_of(error)
                    if times:  # that of the frame that is lost
                        times.popleft()
                    continue
                for frame in frames:
                    if times:  # frames are shown in the order of decoding times, one at each
                        frame.pts = times.popleft()
                    for shown in progressive(frame):
                        yield self._frame(shown, number)
                        number += 1
            for shown in progressive(None):
                yield self._frame(shown, number)
                number += 1
            if progressive.used:
                self.remarks["interlaced; deinterlaced"] = None
        except av.FFmpegError as error:
            self.damaged = reason_of(error)

    def _frame(self, frame: Any, number: int) -> Frame:
        full = frame.color_range == ColorRange.JPEG or frame.format.name.startswith("yuvj")
        size = self._size = self._size or (frame.width, frame.height)
        if (frame.width, frame.height) != size:
            self.remarks["its size changes; all frames have the first one's"] = None
        turned = orientation(frame)
        rgb = frame.reformat(
            *size,
            format="rgb24",
            interpolation=EXACT,
            src_colorspace=self.space,
            dst_colorspace=self.space,
            src_color_range=ColorRange.JPEG if full else ColorRange.MPEG,
        )
        levels = rgb.to_ndarray() if full else expanded(rgb.to_ndarray(), frame)
        pixels = turned(levels)
        if number == 0 and turned.transposed and self.aspect:
            self.aspect = 1 / self.aspect
        estimate = round(number / self.rate / self.time_base)
        pts = estimate if frame.pts is None else frame.pts
        time_base = frame.time_base or self.time_base
        duration = frame.duration or 0
        return Frame(number, np.ascontiguousarray(pixels), pts, time_base, duration)

    def close(self) -> None:
        self.container.close()


def address(path: Path) -> str:
    """A file as FFmpeg takes it; else what precedes a colon in its name would be a protocol."""
    return f"file:{path}"


def is_cover(stream: Any) -> bool:
    """Whether a stream is one picture that stands for the file."""
    return stream.type == "video" and bool(stream.disposition & Disposition.attached_pic)


def reason_of(error: Exception) -> str:
    """FFmpeg's error message without the error number and file name."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
