"""Writing a video with PyAV: frames are encoded, audio and subtitles are copied."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any, Self

import av
import numpy as np
from av.video.frame import PictureType
from av.video.reformatter import ColorRange

from dic.cores import cores
from runtime.video.reader import EXACT, Frame, Reader, VideoError, address, reason_of
from runtime.video.streams import WITHOUT_CHAPTERS, kept

# Bytes that encoders hold for each pixel (x264's 40 frames of lookahead and its reference frames),
# and for each pixel and core; as measured (`benchmarks.memory`), and rounded up.
OF_PIXEL, OF_PIXEL_AND_CORE = 240, 2
OF_PIXEL_IN_AVI = 40  # MPEG-4 without lookahead
# Encoder and options by container; the quality settings are close to visually lossless.
# MPEG-4's is a quantiser of 2, in FFmpeg's units of 1/118.
CODECS = {
    ".webm": ("libvpx-vp9", {"crf": "24", "b": "0"}),
    ".avi": ("mpeg4", {"flags": "+qscale", "global_quality": str(2 * 118)}),
}
# Codecs whose packets and times come out of AVI as they went in.
IN_AVI = ("pcm_", "mp3")
CODEC = ("libx264", {"crf": "17", "preset": "medium", "forced-idr": "1"})
MOST_TICKS = 2**16 - 1  # a second in MPEG-4
SQUARE = (".webm",)  # pixels, because neither VP9 nor PyAV's WebM states their shape
OF_VIDEO = ("language", "title", "timecode")  # metadata of the video stream that stays true


class Writer:
    """A video file to which frames are encoded and packets are copied.

    As a context manager, it completes the file at the end, and closes it as it is after an error.

    Args:
        path: the file; its suffix determines the container.
        source: the reader whose streams and metadata are copied.
        size: (width, height) of the frames in pixels; odd sides are padded by one pixel because
            the encoders require even ones.
        aspect: width of a pixel over its height; None or 0 if unspecified. For containers that do
            not state it, frames are widened, or made higher.
        name: of the file in errors; by default `path`.

    Attributes:
        left_out: what is not copied, such as "audio" and "chapters".

    Raises:
        VideoError: the file cannot be written; so do the methods.
        RuntimeError: the encoder does not know an option of ours.
    """

    def __init__(
        self,
        path: Path,
        source: Reader,
        size: tuple[int, int],
        aspect: Fraction | None,
        name: Path | None = None,
    ) -> None:
        self._name = name or path
        with self._writing():
            self._open(path, source, size, aspect)

    def _open(
        self, path: Path, source: Reader, size: tuple[int, int], aspect: Fraction | None
    ) -> None:
        self._space = source.space
        suffix = path.suffix.lower()
        name, options = CODECS.get(suffix, CODEC)
        self.container = av.open(address(path), "w")
        rate = source.rate
        if name == "mpeg4" and rate.numerator > MOST_TICKS:
            rate = 1 / (1 / rate).limit_denominator(MOST_TICKS)
        encoded: Any = self.container.add_stream(name, rate=rate, options=options)
        self.stream = encoded
        if aspect and suffix in SQUARE:
            wide, high = max(aspect, Fraction(1)), max(1 / aspect, Fraction(1))
            size, aspect = (round(size[0] * wide), round(size[1] * high)), None
        self.stream.width, self.stream.height = (side + side % 2 for side in size)
        self.stream.pix_fmt = "yuv420p"
        context, original = encoded.codec_context, source.stream.codec_context
        # AVI stores a frame rate instead of timestamps.
        self._time_base = 1 / rate if name == "mpeg4" else source.time_base
        context.time_base = self._time_base
        if aspect:
            context.sample_aspect_ratio = aspect
        context.colorspace, context.color_range = source.space, ColorRange.MPEG
        context.color_primaries, context.color_trc = original.color_primaries, original.color_trc
        self.left_out: list[str] = []
        self._copied = {}
        for stream, lost in kept(source, suffix):
            if lost:
                self.left_out.append(lost)
            elif stream.type != "data":  # FFmpeg makes a time code's from the metadata
                copied = self.container.add_stream_from_template(stream, opaque=True)
                copied.metadata.update(stream.metadata)
                copied.disposition = stream.disposition
                self._copied[stream.index] = copied
        self.container.metadata.update(source.container.metadata)
        encoded.metadata.update({k: v for k, v in source.stream.metadata.items() if k in OF_VIDEO})
        encoded.disposition = source.stream.disposition
        if chapters := source.container.chapters():
            if suffix in WITHOUT_CHAPTERS:
                self.left_out.append("chapters")
            else:
                self.container.set_chapters(chapters)
        self._last: int | None = None
        self._waiting: Any | None = None  # the last frame, until it is known to be the last
        self._durations: dict[int, int] = {}  # of frames that the encoder holds, by their time
        self.container.start_encoding()
        if context.options:  # what the encoder has not taken
            raise RuntimeError(f"{name} knows no option {', '.join(context.options)}")

    def copy(self, packet: Any) -> None:
        """Write a packet of a copied stream; ignored if its stream is in `left_out`."""
        stream = self._copied.get(packet.stream.index)
        if stream is not None:
            packet.dts = packet.pts if packet.dts is None else packet.dts
            packet.stream = stream
            with self._writing():
                self.container.mux(packet)

    def add(self, frame: Frame) -> None:
        """Encode and write a frame."""
        high, wide = (side % 2 for side in frame.pixels.shape[:2])
        pixels = np.pad(frame.pixels, ((0, high), (0, wide), (0, 0)), mode="edge")
        picture = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        picture = picture.reformat(
            self.stream.width,
            self.stream.height,
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
        self._durations[pts] = round(frame.duration * frame.time_base / self._time_base)
        waiting, self._waiting = self._waiting, picture
        if waiting is not None:
            self._mux(waiting)

    def close(self) -> None:
        """Write the frames that the encoder still holds, and complete the file."""
        try:
            if self._waiting is not None:
                # A key frame, so that no frame is stored after the last one shown, whose duration
                # would then be lost.
                self._waiting.pict_type = PictureType.I
                self._mux(self._waiting)
            self._mux(None)
        except BaseException:
            self._abandon()
            raise
        with self._writing():
            self.container.close()

    def _abandon(self) -> None:
        """Close the file as it is, without encoding what is left."""
        with suppress(av.FFmpegError, OSError, ValueError):
            self.container.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self._abandon()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Name the file in FFmpeg's errors."""
        try:
            yield
        except (av.FFmpegError, OSError, ValueError) as error:
            raise VideoError(f"{self._name}: cannot be written: {reason_of(error)}") from error

    def _mux(self, picture: Any | None) -> None:
        """Encode a frame, or None at the end, and write the packets that are ready."""
        with self._writing():
            for packet in self.stream.encode(picture):
                if duration := self._durations.pop(packet.pts, 0):
                    packet.duration = duration  # encoders know that of a constant rate only
                self.container.mux(packet)


def encoder_bytes(suffix: str, pixels: int) -> int:
    """An upper bound on the memory that an encoder takes.

    Args:
        suffix: of the file.
        pixels: of a frame.
    """
    each = OF_PIXEL_IN_AVI if suffix.lower() == ".avi" else OF_PIXEL + OF_PIXEL_AND_CORE * cores()
    return each * pixels


def check_container(source: Path, target: Path) -> None:
    """Check before any work that the target's container can hold the source.

    Raises:
        VideoError: names what it cannot hold: in AVI, sound other than PCM and MP3, and frames
            that do not follow at a constant rate from 0 on.
    """
    if target.suffix.lower() != ".avi":
        return
    advice = f"name the output {target.stem}.mkv"
    with closing(Reader(source)) as reader:
        for stream in reader.container.streams.audio:
            codec = stream.codec_context.name
            if not codec.startswith(IN_AVI):
                raise VideoError(f"{source}: AVI does not hold {codec} sound; {advice}")
        packets = reader.container.demux(reader.stream)
        times = sorted(p.pts for p in packets if p.size and p.pts is not None)
        step = 1 / reader.rate / reader.time_base
        if times and abs(times[0]) > step / 2:
            begin = f"{float(times[0] * reader.time_base):.3f} s"
            raise VideoError(
                f"{source}: its frames begin at {begin}, and in AVI they begin at 0; {advice}"
            )
        late = [abs(Fraction(t - times[0]) - n * step) for n, t in enumerate(times)]
        if max(late, default=Fraction(0)) > max(step / 4, Fraction(1)):
            raise VideoError(
                f"{source}: its frames do not follow at a constant rate, which AVI needs; {advice}"
            )
