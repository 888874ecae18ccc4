"""Restoring the faces of a video.

The file is decoded twice: first to detect and track the faces (`tracks`), then to restore them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from dic.cores import cores
from dic.files import partial_file
from dic.memory import shown
from dic.outputs import refuse_inputs
from dic.progress import Progress
from runtime.engines.batching import overlapped
from runtime.faces.crop import Crop
from runtime.faces.detect import search_bytes
from runtime.faces.face import Face
from runtime.faces.frames import PhotoFrame
from runtime.faces.options import Interpolation, PhotoOptions
from runtime.faces.restore import Restorer, enlargement
from runtime.pictures.picture import LOSSY, Picture
from runtime.video.reader import Frame, Packet, Reader, VideoError
from runtime.video.search import FrameSearch
from runtime.video.steady import Steady
from runtime.video.tracks import Sighting, Track, join, sightings
from runtime.video.writer import Writer, check_container, encoder_bytes

LARGEST_FRAME = 3840 * 2160  # pixels; the automatic enlargement does not exceed it
# A video that ends before this share of its header's length is reported as truncated. The tolerance
# is needed because headers often round the length, or estimate it.
COMPLETE = 0.9
WORKERS = 4  # most frames processed at once
# Bytes a pixel that a decoder holds: reference frames, those that AV1's decodes ahead, and more for
# each thread; as measured (`benchmarks.memory`), and rounded up.
DECODER_BYTES, OF_DECODER_THREAD, DECODER_THREADS = 110, 2.5, 16
IN_ANY_CASE = 100_000_000  # bytes of the libraries' buffers, whatever the size


class NoFaceError(VideoError):
    """A video has no face to restore.

    Attributes:
        size: (width, height) of the video in pixels.
    """

    def __init__(self, reason: str, size: tuple[int, int]) -> None:
        super().__init__(reason)
        self.size = size


@dataclass(frozen=True)
class RestoredVideo:
    """A restored video.

    Attributes:
        people: number of tracks, each of one face followed from frame to frame.
        faces: number of restored faces, summed over all frames.
        frames: number of frames.
        size: (width, height) of the upright source in pixels.
        scale: enlargement factor of the result.
        remarks: human-readable notes on what was not kept or could not be read.
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
    on_frame: Callable[[float, list[Face]], object] | None = None,
    memory: int | None = None,
) -> RestoredVideo:
    """Detect, track and restore the faces of a video.

    The target appears complete or not at all.

    Args:
        source: a video that FFmpeg can read.
        target: the file to write; its suffix determines the container.
        restorer: with the detector and the engine to use.
        options: the same as for photographs.
        on_frame: called for each frame, in order, with its time in seconds and its restored faces,
            whose landmarks are averaged over the frames around: a little after they are restored.
        memory: bytes that frames in progress and the encoder may take; with less, fewer frames are
            processed at once, and they are enlarged less. None for no limit.

    Raises:
        NoFaceError: there is no face to restore; nothing is written.
        VideoError: the source cannot be read, or the target cannot be written.
        EngineError: the engine failed.
        UserError: the target is the source.
    """
    options = options or PhotoOptions()
    refuse_inputs([target], [source])
    before = _version(source)
    check_container(source, target)
    detected = _detect(source, restorer, memory)
    frames, size = len(detected.crops), detected.size
    with closing(Reader(source)) as reader:
        rate = float(reader.rate)
        joined = join(detected.crops, rate)
        small = _small_tracks(joined, options.max_face, size)
        tracking = Tracking(small, frames, rate)
        scale = options.enlarge or _enlargement(restorer, small, size, memory, target.suffix)
        workers = _needed(source, _workers(size, scale, memory, suffix=target.suffix), memory)
        restored, steady = 0, Steady(rate, on_frame) if on_frame is not None else None
        with partial_file(target) as partial:
            larger = (size[0] * scale, size[1] * scale)

            def work(item: Frame | Packet) -> tuple[Frame | Packet, list[Sighting], list[Face]]:
                if not isinstance(item, Frame):
                    return item, [], []
                visible = tracking.in_frame(item.number)
                frame, faces = _restored(restorer, item, visible, scale, options.background)
                return frame, visible, faces

            bar = Progress(total=frames, desc=f"{source.name}: restoring", unit="frame")
            with bar, Writer(partial, reader, larger, detected.aspect, target) as writer:
                for item, visible, faces in overlapped(work, reader.packets(), workers):
                    if not isinstance(item, Frame):
                        writer.copy(item)
                        continue
                    writer.add(item)
                    restored += len(faces)
                    if steady is not None:
                        steady.add(item.seconds, [s.track for s in visible], faces)
                    bar.update()
            if steady is not None:
                steady.close()
            _check_unchanged(source, before)
    remarks = _remarks(reader, writer)
    if left := len(joined) - len(small):
        remarks = (f"{left} larger than --max-face left as they are", *remarks)
    return RestoredVideo(len(small), restored, frames, size, scale, remarks)


def _enlargement(
    restorer: Restorer, tracks: list[Track], size: tuple[int, int], memory: int | None, suffix: str
) -> int:
    """The enlargement that the tracks' faces need, as far as memory allows it."""
    sizes = [track.size for track in tracks]
    scale = enlargement(restorer.face_size, sizes, size, LARGEST_FRAME)
    while scale > 1 and not _workers(size, scale, memory, suffix=suffix):
        scale -= 1
    return scale


def _version(path: Path) -> tuple[int, ...] | None:
    """What changes if a file is written or replaced; None if it is not there."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _check_unchanged(source: Path, before: tuple[int, ...] | None) -> None:
    """Raise VideoError if a video that was read twice was not the same; it may be gone by now."""
    if _version(source) not in (before, None):
        raise VideoError(f"{source}: was changed while it was read; restore it again")


def _small_tracks(tracks: list[Track], max_face: int, size: tuple[int, int]) -> list[Track]:
    """The tracks of faces up to `max_face` pixels; raises NoFaceError if there are none."""
    small = [track for track in tracks if track.size <= max_face]
    if not small:
        why = "no face detected"
        if tracks:
            why = f"{len(tracks)} larger than --max-face {max_face}"
        raise NoFaceError(why, size)
    return small


def _remarks(reader: Reader, writer: Writer) -> tuple[str, ...]:
    remarks: list[str] = []
    if writer.left_out:
        remarks.append(f"not copied: {', '.join(dict.fromkeys(writer.left_out))}")
    remarks += reader.remarks
    if reader.reached < COMPLETE * reader.length:
        remarks.append(f"may be truncated: ends at {reader.reached:.2f} s of {reader.length:.2f} s")
    if reader.damaged:
        remarks.append(f"damaged parts skipped ({reader.damaged})")
    return tuple(remarks)


@dataclass(frozen=True)
class Tracking:
    """The tracks of a video that will be restored.

    Attributes:
        tracks: one per face.
        count: number of frames in the video.
        rate: frames per second.
    """

    tracks: list[Track]
    count: int
    rate: float

    def in_frame(self, number: int) -> list[Sighting]:
        """The tracks visible in a frame, by its index."""
        return sightings(self.tracks, number, self.count, self.rate)


@dataclass(frozen=True)
class Detected:
    """The result of the first pass over a video.

    Attributes:
        crops: the detected faces of each frame.
        size: (width, height) in pixels, upright.
        aspect: width of a pixel over its height, upright; None or 0 if unspecified.
    """

    crops: list[list[Crop]]
    size: tuple[int, int]
    aspect: Fraction | None


def _detect(source: Path, restorer: Restorer, memory: int | None) -> Detected:
    """Detect the faces in every frame.

    Raises:
        VideoError: the file cannot be read, or none of its frames can be decoded.
    """
    size = (0, 0)

    frames_crops = []
    with closing(Reader(source)) as reader:
        faces = FrameSearch(restorer.detector, float(reader.rate))

        def find(item: Frame) -> tuple[list[Crop], tuple[int, ...]]:
            return faces.find(item), item.pixels.shape

        frames = (item for item in reader.packets() if isinstance(item, Frame))
        context = reader.stream.codec_context
        size = (context.width, context.height)
        search = search_bytes(restorer.detector, size[0] * size[1])
        workers = _workers(size, 0, memory, search)
        results = overlapped(find, frames, _needed(source, workers, memory))
        what = f"{source.name}: detecting faces"
        for crops, (height, width, _) in Progress(
            results, total=reader.count, desc=what, unit="frame"
        ):
            frames_crops.append(crops)
            size = (width, height)
        if not frames_crops:
            why = f" ({reader.damaged})" if reader.damaged else ""
            raise VideoError(f"{source}: has no frames that can be decoded{why}")
        return Detected(frames_crops, size, reader.aspect)


def _restored(
    restorer: Restorer, frame: Frame, visible: list[Sighting], scale: int, way: Interpolation
) -> tuple[Frame, list[Face]]:
    """The frame enlarged by `scale` with its faces blended in, and those faces."""
    crops, weights = [s.crop for s in visible], [s.weight for s in visible]

    def work(photo: PhotoFrame) -> tuple[Frame, list[Face]]:
        faces = restorer.restore_framed(photo, crops, exact=True)
        picture = photo.blended(faces, scale, way, weights)
        return replace(frame, pixels=picture.pixels), faces

    return restorer.in_frame(Picture(frame.pixels, quantisation=LOSSY), crops, way, work)


def video_bytes(size: tuple[int, int], scale: int, suffix: str, search: int = 0) -> tuple[int, int]:
    """Upper bounds on the memory that a video takes: in any case, and for each worker.

    Args:
        size: (width, height) of its frames.
        scale: by which they are enlarged; 0 while faces are detected, and nothing is encoded.
        suffix: of the result.
        search: bytes that the detector takes.
    """
    pixels = size[0] * size[1]
    result = pixels * scale**2
    threads = min(cores(), DECODER_THREADS)
    fixed = IN_ANY_CASE + int((DECODER_BYTES + OF_DECODER_THREAD * threads) * pixels)
    fixed += encoder_bytes(suffix, result) if scale else 0
    # `overlapped` holds two frames a worker; each is decoded, restored and converted.
    return fixed, 2 * 3 * (2 * pixels + 2 * result) + search


def most_workers() -> int:
    """How many frames are processed at once where memory is no limit."""
    return min(WORKERS, cores()) + 1


def _workers(
    size: tuple[int, int], scale: int, memory: int | None, search: int = 0, suffix: str = ""
) -> int:
    """How many frames are processed at once within so much memory; 0 if not even one."""
    if memory is None:
        return most_workers()
    fixed, each = video_bytes(size, scale, suffix, search)
    return int(max(0, min(most_workers(), (memory - fixed) // max(1, each))))


def _needed(source: Path, workers: int, memory: int | None) -> int:
    """The workers; raises VideoError if there are none."""
    if workers < 1 and memory is not None:
        raise VideoError(
            f"{source}: its frames need more memory than the {shown(memory)} that are allowed; "
            "shrink it, lower --enlarge, or raise --memory"
        )
    return workers
