"""Writing a video with PyAV: frames are encoded, audio and subtitles are copied."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange

from runtime.video.reader import COPIED, EXACT, Frame, Reader, VideoError, reason_of

# Encoder and options by container; the quality settings are close to visually lossless.
CODECS = {".webm": ("libvpx-vp9", {"crf": "24", "b": "0"}), ".avi": ("mpeg4", {"q": "2"})}
CODEC = ("libx264", {"crf": "17", "preset": "medium"})


class Writer:
    """A video file to which frames are encoded and packets are copied.

    Args:
        path: the file; its suffix determines the container.
        source: the reader whose streams and metadata are copied.
        size: (width, height) of the frames in pixels; odd sides are padded by one pixel because
            the encoders require even ones.
        aspect: width of a pixel over its height; None or 0 if unspecified.

    Attributes:
        left_out: types of the streams that the container does not support.

    Raises:
        VideoError: the file cannot be opened for writing.
    """

    def __init__(
        self, path: Path, source: Reader, size: tuple[int, int], aspect: Fraction | None
    ) -> None:
        self._space = source.space
        suffix = path.suffix.lower()
        name, options = CODECS.get(suffix, CODEC)
        try:
            self.container = av.open(str(path), "w")
        except (av.FFmpegError, OSError, ValueError) as error:
            raise VideoError(
                f"{path}: cannot be written ({reason_of(error)}); choose another output"
            ) from error
        encoded: Any = self.container.add_stream(name, rate=source.rate, options=options)
        self.stream = encoded
        self.stream.width, self.stream.height = (side + side % 2 for side in size)
        self.stream.pix_fmt = "yuv420p"
        context, original = encoded.codec_context, source.stream.codec_context
        # AVI stores a frame rate instead of timestamps, and MPEG-4 limits time bases to 16 bits.
        self._time_base = 1 / source.rate if name == "mpeg4" else source.time_base
        context.time_base = self._time_base
        if aspect:
            context.sample_aspect_ratio = aspect
        context.colorspace, context.color_range = source.space, ColorRange.MPEG
        context.color_primaries, context.color_trc = original.color_primaries, original.color_trc
        self.left_out: list[str] = []
        self._copied = {}
        for stream in source.container.streams:
            if stream.type in COPIED:
                try:
                    copied = self.container.add_stream_from_template(stream)
                    copied.metadata.update(stream.metadata)
                    self._copied[stream.index] = copied
                except (av.FFmpegError, ValueError):  # the container does not support its codec
                    self.left_out.append(stream.type)
        self.container.metadata.update(source.container.metadata)
        encoded.metadata.update(
            {k: v for k, v in source.stream.metadata.items() if k == "language"}
        )
        self._last: int | None = None

    def copy(self, packet: Any) -> None:
        """Write a packet of a copied stream; ignored if its stream is in `left_out`."""
        stream = self._copied.get(packet.stream.index)
        if stream is not None:
            packet.dts = packet.pts if packet.dts is None else packet.dts
            packet.stream = stream
            self.container.mux(packet)

    def add(self, frame: Frame) -> None:
        """Encode and write a frame."""
        high, wide = (side % 2 for side in frame.pixels.shape[:2])
        pixels = np.pad(frame.pixels, ((0, high), (0, wide), (0, 0)), mode="edge")
        picture = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        picture = picture.reformat(
            format="yuv420p",
            interpolation=EXACT,
            src_colorspace=self._space,
            dst_colorspace=self._space,
            dst_color_range=ColorRange.MPEG,
        )
        # Containers reject timestamps that do not increase, which damaged files have.
        pts = round(frame.pts * frame.time_base / self._time_base)
        pts = pts if self._last is None else max(pts, self._last + 1)
        picture.pts, picture.time_base, self._last = pts, self._time_base, pts
        picture.colorspace = self._space
        self.container.mux(self.stream.encode(picture))

    def close(self) -> None:
        """Write the frames that the encoder still holds, and close the file."""
        try:
            self.container.mux(self.stream.encode(None))
        finally:
            self.container.close()
