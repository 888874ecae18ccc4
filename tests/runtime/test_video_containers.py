"""What a video keeps on its way through our reader and writer: times, quality, sound, turns."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
from test_video import packets, read_video, write_video

from dic.console import UserError
from runtime.faces.detect import YuNetDetector
from runtime.video.reader import Frame, Reader, VideoError
from runtime.video.restore import restore_video
from runtime.video.writer import Writer, check_container

TICK = Fraction(1, 600)
SIDES = (64, 96)  # height and width
Setup = Callable[[Any, Any], None]


def picture(n: int) -> np.ndarray:
    """Coloured ramps that move, and differ at each side."""
    y, x = np.mgrid[: SIDES[0], : SIDES[1]]
    return np.stack((x * 2 + n, y * 3, 255 - x * 2 - y), 2).clip(0, 255).astype(np.uint8)


def make(
    path: Path,
    times: list[int],
    options: dict[str, str] | None = None,
    setup: Setup | None = None,
    last: int = 0,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    paint: Callable[[int], np.ndarray] = picture,
) -> Path:
    """A video with frames at the given times, in 1/600 s; the last one held for `last`."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=24, options={"crf": "8", **(options or {})})
        (stream.height, stream.width), stream.pix_fmt = SIDES, pixels
        stream.codec_context.time_base = TICK
        if setup:
            setup(container, stream)
        for n, at in enumerate([*times, None]):
            frame = None
            if at is not None:
                frame = av.VideoFrame.from_ndarray(paint(n), format="rgb24")
                frame.pts, frame.time_base = at, TICK
            for packet in stream.encode(frame):
                if last and packet.pts == times[-1]:
                    packet.duration = last
                container.mux(packet)
    return path


def passed(source: Path, target: Path) -> tuple[list[str], Writer]:
    """Read and write a video without restoring; returns the reader's remarks."""
    check_container(source, target)
    with closing(Reader(source)) as reader:
        items = list(reader.packets())
        shown = next(item for item in items if isinstance(item, Frame))
        height, width = shown.pixels.shape[:2]
        writer = Writer(target, reader, (width, height), reader.aspect)
        with closing(writer):
            for item in items:
                if isinstance(item, Frame):
                    writer.add(item)
                else:
                    writer.copy(item)
        return list(reader.remarks), writer


def times_of(path: Path) -> list[float]:
    return read_video(path)[1]


EVEN = [25 * n for n in range(12)]


@pytest.mark.parametrize("kind", ["mp4", "avi", "mkv"])
def test_frames_are_as_good_at_the_end_as_at_the_start(kind: str, tmp_path: Path) -> None:
    source = make(tmp_path / "in.mkv", [25 * n for n in range(36)])
    passed(source, tmp_path / f"out.{kind}")
    given, done = read_video(source)[0], read_video(tmp_path / f"out.{kind}")[0]
    errors = [np.mean((a.astype(float) - b) ** 2) for a, b in zip(given, done, strict=True)]
    quality = [10 * np.log10(255**2 / max(e, 1e-9)) for e in errors]
    assert min(quality) > 36, quality
    assert np.mean(quality[-6:]) > np.mean(quality[:6]) - 1.5, quality


@pytest.mark.parametrize("kind", ["mp4", "avi", "mkv", "mov"])
def test_frames_that_are_stored_out_of_order_keep_their_times(kind: str, tmp_path: Path) -> None:
    source = make(tmp_path / "in.mp4", EVEN, {"bf": "3"})
    passed(source, tmp_path / f"out.{kind}")
    np.testing.assert_allclose(times_of(tmp_path / f"out.{kind}"), times_of(source), atol=1.5e-3)


def test_an_avi_with_frames_out_of_order_is_read_in_order(tmp_path: Path) -> None:
    """AVI stores no presentation times."""
    source = make(tmp_path / "in.avi", EVEN, {"bf": "3"})
    passed(source, tmp_path / "out.mp4")
    steps = np.diff(times_of(tmp_path / "out.mp4"))
    np.testing.assert_allclose(steps, 1 / 24, atol=1e-3)


UNEVEN = [*(25 * n for n in range(12)), *(300 + 10 * n for n in range(12))]


@pytest.mark.parametrize("kind", ["mp4", "mkv", "mov"])
def test_uneven_times_and_a_held_last_frame_are_kept(kind: str, tmp_path: Path) -> None:
    source = make(tmp_path / "in.mp4", UNEVEN, {"bf": "0"}, last=1800)
    passed(source, tmp_path / f"out.{kind}")
    np.testing.assert_allclose(times_of(tmp_path / f"out.{kind}"), times_of(source), atol=1.5e-3)
    with av.open(str(source)) as given, av.open(str(tmp_path / f"out.{kind}")) as done:
        assert done.duration == pytest.approx(given.duration, abs=3000)  # microseconds


def test_frames_after_a_lost_one_keep_their_times_in_avi(tmp_path: Path) -> None:
    """As FFmpeg gives them, one frame's data being zeros."""
    source, damaged = tmp_path / "in.avi", tmp_path / "damaged.avi"
    with av.open(str(source), "w") as container:
        stream: Any = container.add_stream("mjpeg", rate=10, options={"qmin": "1", "qmax": "2"})
        (stream.height, stream.width), stream.pix_fmt = SIDES, "yuvj420p"
        for n in range(20):
            grey = np.full((*SIDES, 3), 10 * n, np.uint8)
            frame = av.VideoFrame.from_ndarray(grey, format="rgb24")
            frame.pts, frame.time_base = n, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    data = bytearray(source.read_bytes())
    with av.open(str(source)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][5]
        data[packet.pos + 8 : packet.pos + 8 + packet.size] = bytes(packet.size)
    damaged.write_bytes(data)
    expected, errors = [], 0
    with av.open(str(damaged)) as container:
        for packet in container.demux(video=0):
            try:
                expected += [frame.dts for frame in packet.decode()]
            except av.FFmpegError:
                errors += 1
    assert errors == 1
    with closing(Reader(damaged)) as reader:
        assert [item.pts for item in reader.packets() if isinstance(item, Frame)] == expected


def test_what_avi_cannot_hold_is_refused_before_any_work(tmp_path: Path) -> None:
    uneven = make(tmp_path / "uneven.mp4", UNEVEN, {"bf": "0"})
    with pytest.raises(VideoError, match="do not follow at a constant rate, which AVI needs"):
        check_container(uneven, tmp_path / "out.avi")
    for codec in ("aac", "ac3"):
        sound = tmp_path / f"{codec}.mkv"
        write_video(sound, [picture(n) for n in range(6)], sound=codec)
        with pytest.raises(VideoError, match=f"AVI does not hold {codec} sound; name .*mkv"):
            check_container(sound, tmp_path / "out.avi")
    check_container(uneven, tmp_path / "out.mp4")


def test_a_video_is_not_replaced_by_its_result(tmp_path: Path) -> None:
    source = make(tmp_path / "in.mp4", EVEN[:2])
    (tmp_path / "link.mp4").symlink_to(source)
    with pytest.raises(UserError, match="would be overwritten"):
        restore_video(source, tmp_path / "link.mp4", None)  # type: ignore[arg-type]


def test_frames_that_do_not_fit_memory_are_refused(tmp_path: Path) -> None:
    source = make(tmp_path / "in.mp4", EVEN[:2])
    restorer = SimpleNamespace(detector=YuNetDetector())
    with pytest.raises(VideoError, match="need more memory than the 1 MB that are allowed"):
        restore_video(source, tmp_path / "out.mp4", restorer, memory=2**20)  # type: ignore[arg-type]


def test_mp3_sound_goes_into_avi_as_it_is(tmp_path: Path) -> None:
    source, target = tmp_path / "in.mkv", tmp_path / "out.avi"
    write_video(source, [picture(n) for n in range(24)], sound="mp3")
    passed(source, target)
    assert packets(target) == packets(source)
    with av.open(str(source)) as given, av.open(str(target)) as done:
        ends = [
            [float(p.pts * p.time_base) for p in c.demux(audio=0) if p.size] for c in (given, done)
        ]
    np.testing.assert_allclose(np.diff(ends[1]), np.diff(ends[0]), atol=2e-3)


def matrix(path: Path, numbers: tuple[int, ...]) -> None:
    """Write a display matrix into an MP4's track header."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    data[at : at + 36] = b"".join(n.to_bytes(4, "big", signed=True) for n in numbers)
    path.write_bytes(data)


ONE = 65536
MATRICES: dict[str, tuple[tuple[int, int, int, int], Callable[[np.ndarray], np.ndarray]]] = {
    "mirrored": ((-ONE, 0, 0, ONE), lambda p: p[:, ::-1]),
    "upside down, mirrored": ((ONE, 0, 0, -ONE), lambda p: p[::-1]),
    "half a turn": ((-ONE, 0, 0, -ONE), lambda p: p[::-1, ::-1]),
    "a quarter to the right": ((0, ONE, -ONE, 0), lambda p: np.rot90(p, -1)),
    "a quarter to the left": ((0, -ONE, ONE, 0), lambda p: np.rot90(p)),
    "transposed": ((0, ONE, ONE, 0), lambda p: p.swapaxes(0, 1)),
}


@pytest.mark.parametrize("turn", MATRICES)
def test_a_display_matrix_turns_and_mirrors(turn: str, tmp_path: Path) -> None:
    """By ISO 14496-12: (a, b, c, d) takes a stored pixel to (a x + c y, b x + d y)."""
    (a, b, c, d), upright = MATRICES[turn]
    source = make(tmp_path / "in.mp4", EVEN[:2])
    plain = read_video(source)[0][0]
    matrix(source, (a, b, 0, c, d, 0, 0, 0, 1 << 30))
    with closing(Reader(source)) as reader:
        shown = next(item for item in reader.packets() if isinstance(item, Frame))
    wanted = upright(plain)
    assert shown.pixels.shape == wanted.shape
    assert np.abs(shown.pixels.astype(int) - wanted).mean() < 2


def test_interlaced_frames_are_deinterlaced(tmp_path: Path) -> None:
    def interlace(container: Any, stream: Any) -> None:
        stream.codec_context.options = {**stream.codec_context.options, "flags": "+ildct+ilme"}

    source = make(tmp_path / "in.mp4", EVEN, {"x264-params": "tff=1"}, interlace)
    with av.open(str(source)) as container:
        assert next(container.decode(video=0)).interlaced_frame
    remarks, _ = passed(source, tmp_path / "out.mp4")
    assert remarks == ["interlaced; deinterlaced"]
    np.testing.assert_allclose(times_of(tmp_path / "out.mp4"), times_of(source), atol=1.5e-3)
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert not next(container.decode(video=0)).interlaced_frame


@pytest.mark.parametrize("kind", ["mkv", "mp4", "avi"])
def test_chapters_and_flags_of_streams_are_kept_or_reported(kind: str, tmp_path: Path) -> None:
    def describe(container: Any, stream: Any) -> None:
        stream.disposition = 1 | 64  # default and forced
        second = {"start": 200, "end": 500, "time_base": Fraction(1, 1000)}
        container.set_chapters([{"id": 1, "metadata": {"title": "two"}, **second}])

    source = make(tmp_path / "in.mkv", EVEN, None, describe)
    _, writer = passed(source, tmp_path / f"out.{kind}")
    assert writer.left_out == (["chapters"] if kind == "avi" else [])
    with av.open(str(tmp_path / f"out.{kind}")) as done:
        titles = [chapter["metadata"].get("title") for chapter in done.chapters()]
        assert titles == ([] if kind == "avi" else ["two"])
        if kind == "mkv":
            assert int(done.streams.video[0].disposition) == 65


@pytest.mark.parametrize(("curve", "name"), [(16, "PQ"), (18, "HLG")])
def test_hdr_is_refused_by_name(curve: int, name: str, tmp_path: Path) -> None:
    def tag(container: Any, stream: Any) -> None:
        stream.codec_context.color_trc = curve

    source = make(tmp_path / "in.mkv", EVEN[:2], None, tag, pixels="yuv420p10le")
    with pytest.raises(VideoError, match=f"is HDR video .{name}."):
        Reader(source)


def test_ten_bits_that_become_eight_are_reported(tmp_path: Path) -> None:
    source = make(tmp_path / "in.mkv", EVEN[:2], pixels="yuv420p10le")
    assert passed(source, tmp_path / "out.mkv")[0] == ["reduced to 8 bits a channel"]


def test_an_option_that_the_encoder_does_not_know_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make(tmp_path / "in.mp4", EVEN[:2])
    monkeypatch.setattr("runtime.video.writer.CODECS", {".avi": ("mpeg4", {"q": "2"})})
    with pytest.raises(RuntimeError, match="mpeg4 knows no option q"):
        passed(source, tmp_path / "out.avi")


def test_a_size_that_changes_is_reported_and_not_squeezed(tmp_path: Path) -> None:
    """Frames of another size are scaled to the first one's, as FFmpeg does."""
    small, large = tmp_path / "small.ts", tmp_path / "large.ts"
    for path, sides in ((small, (64, 96)), (large, (128, 192))):
        with av.open(str(path), "w") as container:
            stream: Any = container.add_stream("libx264", rate=24)
            (stream.height, stream.width), stream.pix_fmt = sides, "yuv420p"
            for n in range(3):
                pixels = np.full((*sides, 3), 40 * n + 40, np.uint8)
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    both = tmp_path / "both.ts"
    both.write_bytes(small.read_bytes() + large.read_bytes())
    with closing(Reader(both)) as reader:
        shapes = {item.pixels.shape for item in reader.packets() if isinstance(item, Frame)}
        assert shapes == {(64, 96, 3)}
        assert list(reader.remarks) == ["its size changes; all frames have the first one's"]
