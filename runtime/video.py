"""Videos: found, restored and written frame by frame; sound and subtitles are copied.

Read and written by PyAV (FFmpeg's libraries in a wheel). Twice through the file: once to find the
faces (`runtime.tracks`), once to restore them.
"""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime import blend
from runtime.batching import overlapped
from runtime.blend import enlarged
from runtime.console import UserError, beside, write_whole
from runtime.frame import Crop
from runtime.images import Picture
from runtime.jobs import Job, Outcome
from runtime.outputs import face_entry, video_json
from runtime.progress import Progress
from runtime.restore import Face, FaceRestorer, enlargement
from runtime.tracks import Sighting, Track, join, sightings

try:
    import av
    from av.video.reformatter import ColorRange, Interpolation
except ModuleNotFoundError as error:
    raise UserError("videos need PyAV; pip install 'dic-toolkit[video]'") from error

Bytes = NDArray[np.uint8]

LARGEST_FRAME = 3840 * 2160  # pixels to which a video is enlarged unasked
WHOLE = 0.9  # of the frames that a header tells of; many count or round on their own
WORKERS = 4  # frames under way at once, at most
# Encoders by container, and how finely they encode: near to invisible losses.
CODECS = {".webm": ("libvpx-vp9", {"crf": "24", "b": "0"}), ".avi": ("mpeg4", {"q": "2"})}
CODEC = ("libx264", {"crf": "17", "preset": "medium"})
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
            raise VideoError(f"{path}: not a video, or a damaged one ({_said(error)})") from error
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

    def packets(self) -> Iterator[Frame | Any]:
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
                    self.damaged = _said(error)
                    continue
                for frame in frames:
                    yield self._frame(frame, number)
                    number += 1
        except av.FFmpegError as error:
            self.damaged = _said(error)

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


class Writer:
    """The restored video: pictures encoded anew, everything else copied.

    Args:
        path: with the suffix of the container.
        size: width and height of the frames; odd ones are padded by a pixel, which encoders need.
        aspect: width of a pixel over its height; None where the source does not say.
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
            raise VideoError(f"{path}: cannot be written: {_said(error)}") from error
        encoded: Any = self.container.add_stream(name, rate=source.rate, options=options)
        self.stream = encoded
        self.stream.width, self.stream.height = (side + side % 2 for side in size)
        self.stream.pix_fmt = "yuv420p"
        context, given = encoded.codec_context, source.stream.codec_context
        # AVI has no times, only a rate; MPEG-4 counts in 16 bits.
        self._time_base = 1 / source.rate if name == "mpeg4" else source.time_base
        context.time_base = self._time_base
        if aspect:
            context.sample_aspect_ratio = aspect
        context.colorspace, context.color_range = source.space, ColorRange.MPEG
        context.color_primaries, context.color_trc = given.color_primaries, given.color_trc
        self.left_out: list[str] = []
        self._copied = {}
        for stream in source.container.streams:
            if stream.type in COPIED:
                try:
                    copied = self.container.add_stream_from_template(stream)
                    copied.metadata.update(stream.metadata)
                    self._copied[stream.index] = copied
                except (av.FFmpegError, ValueError):  # the container does not take its codec
                    self.left_out.append(stream.type)
        self.container.metadata.update(source.container.metadata)
        encoded.metadata.update(
            {k: v for k, v in source.stream.metadata.items() if k == "language"}
        )
        self._last: int | None = None

    def copy(self, packet: Any) -> None:
        stream = self._copied.get(packet.stream.index)
        if stream is not None:
            packet.dts = packet.pts if packet.dts is None else packet.dts
            packet.stream = stream
            self.container.mux(packet)

    def add(self, frame: Frame) -> None:
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
        # Times that do not grow, as damaged files have them, are refused by containers.
        pts = round(frame.pts * frame.time_base / self._time_base)
        pts = pts if self._last is None else max(pts, self._last + 1)
        picture.pts, picture.time_base, self._last = pts, self._time_base, pts
        picture.colorspace = self._space
        self.container.mux(self.stream.encode(picture))

    def close(self) -> None:
        try:
            self.container.mux(self.stream.encode(None))
        finally:
            self.container.close()


def restore_video(job: Job, restorer: FaceRestorer, options: argparse.Namespace) -> Outcome:
    """Find and restore the faces of a video.

    Raises:
        VideoError: it cannot be read or written.
        UserError: it has no face to restore.
    """
    searched = _search(job, restorer)
    found, shape = searched.crops, searched.size
    with closing(Reader(job.source)) as reader:
        rate = float(reader.rate)
        tracks = join(found, rate)
        small = [track for track in tracks if track.size <= options.max_face]
        if not small:
            return _nothing(job, shape, len(tracks), options.max_face)
        plan = Plan(small, len(found), rate)
        sizes = [track.size for track in small]
        scale = options.enlarge or enlargement(restorer.face_size, sizes, shape, LARGEST_FRAME)
        way = blend.Interpolation(options.upscale_background)
        restored, documents = 0, list[tuple[float, list[dict[str, Any]]]]()
        with beside(job.target) as partial:
            size = (shape[0] * scale, shape[1] * scale)
            writer = Writer(partial, reader, size, searched.aspect)

            def work(item: Frame | Any) -> tuple[Frame | Any, list[Face]]:
                if not isinstance(item, Frame):
                    return item, []
                return _restored(restorer, item, plan.seen(item.number), scale, way)

            bar = Progress(total=len(found), desc=f"{job.source.name}: restoring", unit="frame")
            with bar, closing(writer):
                for item, faces in overlapped(work, reader.packets(), _workers()):
                    if not isinstance(item, Frame):
                        writer.copy(item)
                        continue
                    writer.add(item)
                    restored += len(faces)
                    if "landmarks" in job.extras:
                        documents.append((item.seconds, [face_entry(face) for face in faces]))
                    bar.update()
            if "landmarks" in job.extras:
                text = video_json(str(job.source), shape, scale, documents)
                write_whole(job.extras["landmarks"], text)
    count = f"{len(small)} face{'' if len(small) == 1 else 's'}"
    message = f"{job.target}: {count} over {len(found)} frames"
    message += f"; enlarged {scale}×" if scale > 1 else ""
    message += f"; {' and '.join(writer.left_out)} left out" if writer.left_out else ""
    if len(found) < WHOLE * reader.count:
        message += f"; its header tells of {reader.count} frames: it may be cut off"
    message += f"; what is damaged in it is left out ({reader.damaged})" if reader.damaged else ""
    return Outcome(job.name, str(job.target), "restored", restored, message)


@dataclass(frozen=True)
class Plan:
    """What will be restored where.

    Attributes:
        tracks: the faces.
        count: of the frames.
        rate: frames a second.
    """

    tracks: list[Track]
    count: int
    rate: float

    def seen(self, number: int) -> list[Sighting]:
        return sightings(self.tracks, number, self.count, self.rate)


@dataclass(frozen=True)
class Searched:
    """A video after the first time through.

    Attributes:
        crops: what the detector finds in each frame.
        size: width and height, upright.
        aspect: of a pixel, upright.
    """

    crops: list[list[Crop]]
    size: tuple[int, int]
    aspect: Fraction | None


def _search(job: Job, restorer: FaceRestorer) -> Searched:
    shape = (0, 0)

    def find(item: Frame) -> tuple[list[Crop], tuple[int, ...]]:
        return restorer.detector.find(item.pixels), item.pixels.shape

    found = []
    with closing(Reader(job.source)) as reader:
        frames = (item for item in reader.packets() if isinstance(item, Frame))
        results = overlapped(find, frames, _workers())
        what = f"{job.source.name}: finding faces"
        for crops, (height, width, _) in Progress(
            results, total=reader.count, desc=what, unit="frame"
        ):
            found.append(crops)
            shape = (width, height)
        if not found:
            why = f" ({reader.damaged})" if reader.damaged else ""
            raise VideoError(f"{job.source}: has no pictures that can be read{why}")
        return Searched(found, shape, reader.aspect)


def _restored(
    restorer: FaceRestorer, frame: Frame, seen: list[Sighting], scale: int, way: blend.Interpolation
) -> tuple[Frame, list[Face]]:
    photo = Picture(frame.pixels)
    faces = restorer.restore_in(frame.pixels, [s.crop for s in seen], exact=True)
    weights = [s.weight for s in seen]
    picture = enlarged(photo, scale, way)
    restorer.blend(picture, frame.pixels, faces, scale, weights)
    return replace(frame, pixels=picture.pixels), faces


def _nothing(job: Job, shape: tuple[int, int], larger: int, max_face: int) -> Outcome:
    """A video without a face to restore: in a folder it is copied, else an error."""
    why = f"its {larger} faces are larger than --max-face {max_face}" if larger else "no face found"
    if job.named:
        raise UserError(f"{job.name}: {why}; nothing to restore")
    with beside(job.target) as partial:
        shutil.copyfile(job.source, partial)
    if "landmarks" in job.extras:
        write_whole(job.extras["landmarks"], video_json(str(job.source), shape, 1, []))
    return Outcome(job.name, str(job.target), "copied", 0, f"{job.target}: copied, {why}")


def _workers() -> int:
    return min(WORKERS, os.cpu_count() or 1) + 1


def _said(error: Exception) -> str:
    """FFmpeg's reason without its number and file."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
