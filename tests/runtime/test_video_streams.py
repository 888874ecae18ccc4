"""Which streams, shapes, colours and frames of unusual videos reach the result."""

from __future__ import annotations

import os
import struct
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
from conftest import Command, one_line_error
from test_video import packets, read_video, write_video
from test_video_containers import EVEN, SIDES, make, passed, picture, times_of

from runtime.faces.crop import Crop
from runtime.faces.restore import Restorer
from runtime.video.reader import Reader, VideoError
from runtime.video.restore import restore_video


class Found:
    """A detector that finds one face in each frame, after it has done something."""

    def __init__(self, *, then: Any = None) -> None:
        self.count, self._then = 0, then

    def find(self, image: np.ndarray) -> list[Crop]:
        self.count += 1
        if self._then is not None:
            self._then(self.count)
        return [Crop(20, 20, 24)]


def elst(path: Path, *entries: tuple[int, int]) -> None:
    """Replace the edit list of an MP4 (ISO 14496-12, 8.6.6) whose `moov` box is its last.

    Args:
        entries: duration in ms, and the time in the track at which it begins, in its ticks.
    """
    data = bytearray(path.read_bytes())
    moov = data.index(b"moov") - 4
    assert moov > data.index(b"mdat"), "offsets of samples would change"
    trak, edts = data.index(b"trak", moov) - 4, data.index(b"edts", moov) - 4
    old = struct.unpack_from(">I", data, edts)[0]
    body = b"".join(struct.pack(">Iii", *entry, 1 << 16) for entry in entries)
    box = struct.pack(">I4sII", 16 + len(body), b"elst", 0, len(entries)) + body
    data[edts : edts + old] = struct.pack(">I4s", 8 + len(box), b"edts") + box
    for at in (moov, trak):
        size = struct.unpack_from(">I", data, at)[0]
        struct.pack_into(">I", data, at, size + 8 + len(box) - old)
    path.write_bytes(data)


STEP = 800  # ticks of a frame: FFmpeg makes a time scale of 600 one of 19,200, and 24 a second
EDITS = {
    "the start is cut off": ([(333, 4 * STEP)], range(4, 12), 0.0),
    "the end is cut off": ([(250, 0)], range(6), 0.0),
    "the middle is cut out": ([(125, 0), (167, 8 * STEP)], [0, 1, 2, 8, 9, 10, 11], 0.0),
    "it begins later": ([(400, -1), (500, 0)], range(12), 0.4),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_list_shows_what_it_says(edit: str, tmp_path: Path) -> None:
    """As phones trim videos: all frames are in the file, with a list of those that are shown."""
    entries, shown, start = EDITS[edit]

    def grey(number: int) -> np.ndarray:
        return np.full((*SIDES, 3), 20 * number, np.uint8)

    source = make(tmp_path / "in.mp4", EVEN, {"bf": "0", "g": "4"}, paint=grey)
    elst(source, *entries)
    remarks, _ = passed(source, tmp_path / "out.mp4")
    assert remarks == []
    done, times = read_video(tmp_path / "out.mp4")
    np.testing.assert_allclose(times, start + np.arange(len(shown)) / 24, atol=2e-3)
    assert [round(frame.mean() / 20) for frame in done] == list(shown)


def shape(path: Path) -> float:
    """Width of the shown picture over its height."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        return float((stream.sample_aspect_ratio or 1) * Fraction(context.width, context.height))


@pytest.mark.parametrize("kind", ["mkv", "mp4", "webm"])
def test_the_shape_of_pixels_is_the_containers(kind: str, tmp_path: Path) -> None:
    """MPEG-2 states the shape of the whole picture in four steps; the container's is exact."""

    def wide(container: Any, stream: Any) -> None:
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
        stream.codec_context.time_base = Fraction(1, 24)

    source = tmp_path / "in.mp4"
    make(source, EVEN[:3], {"crf": "8"}, wide)
    wanted = 96 / 64 * 4 / 3
    assert shape(source) == pytest.approx(wanted)
    passed(source, tmp_path / f"out.{kind}")
    assert shape(tmp_path / f"out.{kind}") == pytest.approx(wanted)
    data = bytearray(source.read_bytes())
    at = data.index(b"pasp") + 4
    struct.pack_into(">II", data, at, 3, 2)  # other than in the codec's header
    source.write_bytes(data)
    passed(source, tmp_path / f"again.{kind}")
    assert shape(tmp_path / f"again.{kind}") == pytest.approx(96 / 64 * 3 / 2)


def test_a_cover_picture_is_no_video_and_is_kept(tmp_path: Path) -> None:
    source, frames = tmp_path / "in.mp4", [picture(n) for n in range(4)]
    with av.open(str(source), "w") as container:
        cover: Any = container.add_stream("mjpeg", rate=1, options={"qmin": "1", "qmax": "2"})
        cover.width = cover.height = 32
        cover.pix_fmt, cover.disposition = "yuvj420p", av.stream.Disposition.attached_pic
        video: Any = container.add_stream("libx264", rate=24)
        (video.height, video.width), video.pix_fmt = frames[0].shape[:2], "yuv420p"
        red = np.full((32, 32, 3), (200, 30, 30), np.uint8)
        container.mux(cover.encode(av.VideoFrame.from_ndarray(red, format="rgb24")))
        for pixels in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(video.encode(None))
    with av.open(str(source)) as container:
        assert len(container.streams.video) == 2
    for kind, lost in (("mp4", []), ("mkv", ["cover picture"])):
        target = tmp_path / f"out.{kind}"
        _, writer = passed(source, target)
        assert writer.left_out == lost
        with Reading(target) as reader:
            assert (reader.stream.width, reader.stream.height) == (96, 64)
        with av.open(str(target)) as container:
            covers = [
                stream
                for stream in container.streams.video
                if stream.disposition & av.stream.Disposition.attached_pic
            ]
            assert len(covers) == (kind == "mp4")


class Reading(Reader):
    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def test_streams_that_are_not_copied_are_named(tmp_path: Path) -> None:
    source = tmp_path / "in.mkv"
    with av.open(str(source), "w") as container:
        streams: list[Any] = [container.add_stream("libx264", rate=24) for _ in range(2)]
        for stream in streams:
            (stream.height, stream.width), stream.pix_fmt = (64, 96), "yuv420p"
        sound = container.add_stream("flac", rate=48000)
        for n in range(3):
            for stream in streams:
                frame = av.VideoFrame.from_ndarray(picture(n), format="rgb24")
                container.mux(stream.encode(frame))
        part = av.AudioFrame.from_ndarray(np.zeros((1, 4608), np.int16), "s16", "mono")
        part.sample_rate = 48000
        container.mux(sound.encode(part))
        for stream in (*streams, sound):
            container.mux(stream.encode(None))
    # FFmpeg writes FLAC into MP4 and not into MOV, which it says once the header is written.
    for kind, lost in (("mkv", ["further video"]), ("mov", ["further video", "audio"])):
        _, writer = passed(source, tmp_path / f"out.{kind}")
        assert writer.left_out == lost
    assert packets(tmp_path / "out.mkv") == packets(source)


def test_a_time_code_is_kept(tmp_path: Path) -> None:
    def coded(container: Any, stream: Any) -> None:
        stream.metadata["timecode"] = "01:02:03:04"

    source = make(tmp_path / "in.mov", EVEN[:4], None, coded)
    _, writer = passed(source, tmp_path / "out.mov")
    assert writer.left_out == []
    with av.open(str(tmp_path / "out.mov")) as container:
        assert container.streams.video[0].metadata["timecode"] == "01:02:03:04"
    _, writer = passed(source, tmp_path / "out.mkv")
    assert writer.left_out == ["data"]


@pytest.mark.parametrize("bits", [8, 10])
def test_grey_of_limited_range_is_expanded(bits: int, tmp_path: Path) -> None:
    """By H.273, equation 38: black is at 16 and white at 235, times a power of two."""
    levels = np.array([0, 30, 60, 128, 200, 255])
    step = 2 ** (bits - 8)
    luma = np.rint((219 * levels / 255 + 16) * step)
    plane = np.repeat(luma, 16)[None].repeat(64, 0)
    name, dtype = ("gray", np.uint8) if bits == 8 else ("gray10le", np.uint16)
    source = tmp_path / "in.mkv"
    with av.open(str(source), "w") as container:
        stream: Any = container.add_stream("ffv1", rate=24)
        (stream.height, stream.width), stream.pix_fmt = plane.shape, name
        stream.codec_context.color_range = 1  # limited
        frame = av.VideoFrame.from_ndarray(plane.astype(dtype), format=name)
        frame.color_range = 1
        container.mux([*stream.encode(frame), *stream.encode(None)])
    with Reading(source) as reader:
        shown = next(iter(reader.packets()))
        assert list(reader.remarks) == (["reduced to 8 bits a channel"] if bits == 10 else [])
    found = shown.pixels[32, 8::16].astype(int)
    np.testing.assert_allclose(found, np.repeat(levels[:, None], 3, 1), atol=1)


def test_transparency_that_is_lost_is_reported(tmp_path: Path) -> None:
    source = make(tmp_path / "in.mkv", EVEN[:2], codec="ffv1", pixels="yuva420p")
    assert passed(source, tmp_path / "out.mkv")[0] == ["its transparency is not kept"]


def test_a_colour_matrix_that_is_not_converted_is_refused(tmp_path: Path) -> None:
    def tag(container: Any, stream: Any) -> None:
        stream.codec_context.colorspace = 8

    source = make(tmp_path / "in.mp4", EVEN[:2], None, tag)
    with pytest.raises(VideoError, match="has the colour matrix YCgCo, which is not supported"):
        Reader(source)


def restored(source: Path, target: Path, engine: Path, then: Any = None) -> tuple[str, ...]:
    """Restore a video in which the detector finds a face; returns the remarks."""
    with Restorer(engine, device="cpu", detector=Found(then=then)) as restorer:
        return restore_video(source, target, restorer).remarks


@pytest.mark.parametrize("last", [40, 6000])
def test_frames_at_uneven_times_are_not_taken_for_truncated(
    last: int, tmp_path: Path, tiny_engine: Path
) -> None:
    """In Matroska, whose header has a length and no number of frames."""
    source = make(tmp_path / "in.mkv", [300, 310, 320, 900], last=last)
    assert restored(source, tmp_path / "out.mkv", tiny_engine) == ()
    assert len(times_of(tmp_path / "out.mkv")) == 4


def test_frames_that_begin_later_do_not_go_into_avi(tmp_path: Path) -> None:
    source = make(tmp_path / "in.mkv", [600 + n for n in EVEN])
    with pytest.raises(VideoError, match=r"begin at 1\.000 s, and in AVI they begin at 0; name"):
        passed(source, tmp_path / "out.avi")


def test_a_pipe_is_refused_at_once(infer: Command, tiny_engine: Path, tmp_path: Path) -> None:
    """A video is read twice, and a pipe gives its content once, if ever."""
    os.mkfifo(tmp_path / "clip.mp4")
    out = tmp_path / "out.mp4"
    done = infer("--faces", tmp_path / "clip.mp4", "-o", out, "--engine", tiny_engine)
    assert "clip.mp4: is a pipe or a device; give a file" in one_line_error(done, 2)
    assert not out.exists()


@pytest.mark.parametrize("fate", ["truncated", "replaced", "removed"])
def test_a_video_that_changes_while_it_is_read_is_not_restored(
    fate: str, tmp_path: Path, tiny_engine: Path
) -> None:
    source, target = tmp_path / "in.mkv", tmp_path / "out" / "out.mkv"
    write_video(source, [picture(n) for n in range(12)])

    def change(count: int) -> None:
        if count == 12:  # the first reading ends
            if fate == "truncated":
                os.truncate(source, source.stat().st_size // 2)
            elif fate == "replaced":
                (tmp_path / "new").write_bytes(source.read_bytes())
                os.replace(tmp_path / "new", source)
            else:
                source.unlink()

    with pytest.raises(VideoError, match=r"was changed while it was read|No such file") as error:
        restored(source, target, tiny_engine, change)
    assert str(source) in str(error.value)
    assert not target.exists()
    assert not target.parent.exists() or not list(target.parent.iterdir())


def test_a_folder_that_goes_away_is_named(tmp_path: Path, tiny_engine: Path) -> None:
    from dic.console import UserError

    source, folder = tmp_path / "in.mkv", tmp_path / "out"
    write_video(source, [picture(n) for n in range(6)], sound=None)
    folder.mkdir()

    def gone(*_: object) -> None:
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()

    with Restorer(tiny_engine, device="cpu", detector=Found()) as restorer:
        calls = SimpleNamespace(first=True)

        def on_frame(*_: object) -> None:
            if calls.first:
                calls.first = False
                gone()

        with pytest.raises(UserError, match=r"out.mp4: cannot be written: No such file"):
            restore_video(source, folder / "out.mp4", restorer, on_frame=on_frame)
    assert not folder.exists()
