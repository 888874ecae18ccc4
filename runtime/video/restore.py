"""A video restored: found, followed, restored frame by frame.

Twice through the file: once to find the faces (`tracks`), once to restore them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from dic.files import partial_file
from dic.progress import Progress
from runtime.engines.batching import overlapped
from runtime.faces.blend import Interpolation, enlarged
from runtime.faces.crop import Crop
from runtime.faces.restore import Face, PhotoOptions, Restorer, enlargement
from runtime.pictures.files import Picture
from runtime.video.reader import Frame, Packet, Reader, VideoError
from runtime.video.tracks import Sighting, Track, join, sightings
from runtime.video.writer import Writer

LARGEST_FRAME = 3840 * 2160  # pixels to which a video is enlarged unasked
WHOLE = 0.9  # of the frames that a header counts; many count or round on their own
WORKERS = 4  # frames under way at once, at most


class NoFaceError(VideoError):
    """A video has no face to restore. `size` is its width and height."""

    def __init__(self, reason: str, size: tuple[int, int]) -> None:
        super().__init__(reason)
        self.size = size


@dataclass(frozen=True)
class RestoredVideo:
    """What was written.

    Attributes:
        people: faces that were followed through the video.
        faces: restored, over all frames.
        frames: of the video.
        size: width and height of the source, upright.
        scale: by how much the result is larger.
        remarks: what was not kept or could not be read, each for people to read.
    """

    people: int
    faces: int
    frames: int
    size: tuple[int, int]
    scale: int
    remarks: tuple[str, ...]


def restore_video(
    source: Path,
    target: Path,
    restorer: Restorer,
    options: PhotoOptions | None = None,
    seen: Callable[[float, list[Face]], object] | None = None,
) -> RestoredVideo:
    """Find and restore the faces of a video. The result appears whole or not at all.

    Args:
        target: its suffix tells the container.
        options: as for photographs.
        seen: called with each frame's time in seconds and its faces, in order.

    Raises:
        NoFaceError: it has no face to restore; nothing is written.
        VideoError: it cannot be read or written.
    """
    options = options or PhotoOptions()
    searched = _search(source, restorer)
    found, size = searched.crops, searched.size
    with closing(Reader(source)) as reader:
        rate = float(reader.rate)
        tracks = join(found, rate)
        small = [track for track in tracks if track.size <= options.max_face]
        if not small:
            why = "no face found"
            if tracks:
                why = f"its {len(tracks)} faces are larger than --max-face {options.max_face}"
            raise NoFaceError(why, size)
        plan = Plan(small, len(found), rate)
        sizes = [track.size for track in small]
        scale = options.enlarge or enlargement(restorer.face_size, sizes, size, LARGEST_FRAME)
        restored = 0
        with partial_file(target) as partial:
            larger = (size[0] * scale, size[1] * scale)
            writer = Writer(partial, reader, larger, searched.aspect)

            def work(item: Frame | Packet) -> tuple[Frame | Packet, list[Face]]:
                if not isinstance(item, Frame):
                    return item, []
                return _restored(restorer, item, plan.seen(item.number), scale, options.background)

            bar = Progress(total=len(found), desc=f"{source.name}: restoring", unit="frame")
            with bar, closing(writer):
                for item, faces in overlapped(work, reader.packets(), _workers()):
                    if not isinstance(item, Frame):
                        writer.copy(item)
                        continue
                    writer.add(item)
                    restored += len(faces)
                    if seen is not None:
                        seen(item.seconds, faces)
                    bar.update()
    return RestoredVideo(
        len(small), restored, len(found), size, scale, _remarks(reader, writer, len(found))
    )


def _remarks(reader: Reader, writer: Writer, frames: int) -> tuple[str, ...]:
    remarks = []
    if writer.left_out:
        remarks.append(f"{' and '.join(writer.left_out)} left out")
    if frames < WHOLE * reader.count:
        remarks.append(f"its header counts {reader.count} frames: it may be cut off")
    if reader.damaged:
        remarks.append(f"what is damaged in it is left out ({reader.damaged})")
    return tuple(remarks)


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


def _search(source: Path, restorer: Restorer) -> Searched:
    size = (0, 0)

    def find(item: Frame) -> tuple[list[Crop], tuple[int, ...]]:
        return restorer.detector.find(item.pixels), item.pixels.shape

    found = []
    with closing(Reader(source)) as reader:
        frames = (item for item in reader.packets() if isinstance(item, Frame))
        results = overlapped(find, frames, _workers())
        what = f"{source.name}: finding faces"
        for crops, (height, width, _) in Progress(
            results, total=reader.count, desc=what, unit="frame"
        ):
            found.append(crops)
            size = (width, height)
        if not found:
            why = f" ({reader.damaged})" if reader.damaged else ""
            raise VideoError(f"{source}: has no pictures that can be read{why}")
        return Searched(found, size, reader.aspect)


def _restored(
    restorer: Restorer, frame: Frame, seen: list[Sighting], scale: int, way: Interpolation
) -> tuple[Frame, list[Face]]:
    photo = Picture(frame.pixels)
    faces = restorer.restore_in(frame.pixels, [s.crop for s in seen], exact=True)
    weights = [s.weight for s in seen]
    picture = enlarged(photo, scale, way)
    restorer.blend(picture, frame.pixels, faces, scale, weights)
    return replace(frame, pixels=picture.pixels), faces


def _workers() -> int:
    return min(WORKERS, os.cpu_count() or 1) + 1
