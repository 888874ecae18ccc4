"""Videos on full disks, in folders that cannot be written, interrupted, and of odd names."""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Command, one_line_error
from test_video import write_video
from test_video_containers import passed, times_of
from test_video_streams import Found

from runtime.faces.options import PhotoOptions
from runtime.faces.restore import Restorer
from runtime.video.reader import Reader, VideoError
from runtime.video.restore import restore_video


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video that takes several of FFmpeg's buffers of 32 KB."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("noise") / "in.mkv"
    write_video(path, [rng.integers(0, 255, (64, 96, 3), np.uint8) for _ in range(8)])
    return path


@pytest.mark.parametrize("kind", ["mp4", "mkv"])
def test_a_disk_that_is_full_at_the_nth_byte_leaves_no_video(
    kind: str, noise: Path, tiny_engine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The kernel refuses to let a file grow; a whole older one must stay."""
    assert capsys  # which keeps progress in memory: to a file, it could not grow either
    options = PhotoOptions(enlarge=1)
    out, older = tmp_path / f"out.{kind}", b"older"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Restorer(tiny_engine, device="cpu", detector=Found()) as restorer:
        restore_video(noise, out, restorer, options)
        whole = out.stat().st_size
        out.write_bytes(older)
        # The last of them leaves room for variation in size: Matroska's header has random numbers,
        # and x264 gives noise of the same pixels some hundred bytes more or less.
        for size in (0, 1000, 40_000, whole // 2, whole - 2000):
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
            try:
                with pytest.raises(VideoError, match=rf"out\.{kind}: cannot be written: File too"):
                    restore_video(noise, out, restorer, options)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            assert out.read_bytes() == older, f"with room for {size} of {whole} bytes"
            assert list(tmp_path.iterdir()) == [out], f"with room for {size} of {whole} bytes"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that root cannot write")
def test_a_folder_that_cannot_be_written_is_named(
    infer: Command, noise: Path, tiny_engine: Path
) -> None:
    done = infer("--faces", noise, "-o", "/proc/out.mp4", "--engine", tiny_engine)
    assert "/proc/out.mp4: cannot be written" in one_line_error(done, 2)


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("where", ["finding", "writing"])
def test_an_interrupted_video_leaves_nothing(
    where: str, sign: signal.Signals, noise: Path, infer: Command, tiny_engine: Path,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    count = 0

    def hit(*_: object) -> None:
        nonlocal count
        count += 1
        if count == 3:
            os.kill(os.getpid(), sign)

    def found(_: object, image: np.ndarray) -> Any:
        if where == "finding":
            hit()
        return Found().find(image)

    for way in ("find", "find_upright"):
        monkeypatch.setattr(f"runtime.faces.detect.YuNetDetector.{way}", found)
    if where == "writing":
        from runtime.video.writer import Writer

        add = Writer.add

        def added(writer: Writer, frame: Any) -> None:
            add(writer, frame)
            hit()

        monkeypatch.setattr(Writer, "add", added)
    out = tmp_path / "out" / "out.mp4"
    done = infer("--faces", noise, "-o", out, "--engine", tiny_engine)
    assert done.returncode == 128 + sign, done.stderr
    assert "Traceback" not in done.stderr
    assert count >= 3
    assert not out.parent.exists() or not list(out.parent.iterdir())


@pytest.mark.parametrize("out", ["out.mp4", "out"])
def test_a_format_that_is_not_read_is_named(
    out: str, infer: Command, tiny_engine: Path, tmp_path: Path
) -> None:
    source = tmp_path / "clip.m2ts"
    source.write_bytes(bytes(1000))
    done = infer("--faces", source, "-o", tmp_path / out, "--engine", tiny_engine)
    message = one_line_error(done, 2)
    assert "clip.m2ts: this format of videos is not supported; convert it first" in message
    assert list(tmp_path.iterdir()) == [source]


def test_a_colon_in_a_name_is_no_protocol(
    noise: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # only relative paths begin with what FFmpeg takes for one
    for name in ("12:30.mkv", "pipe:0.mkv", "file:a.mkv"):
        Path(name).write_bytes(noise.read_bytes())
        remarks, _ = passed(Path(name), Path(f"out of {name}"))
        assert remarks == []
        assert len(times_of(Path(f"out of {name}").resolve())) == 8


def test_a_list_of_other_files_is_no_video(noise: Path, tmp_path: Path) -> None:
    """FFmpeg would read the files that it names."""
    (tmp_path / "other.mkv").write_bytes(noise.read_bytes())
    listed = tmp_path / "list.mkv"
    listed.write_text("ffconcat version 1.0\nfile other.mkv\n")
    with pytest.raises(VideoError, match=r"list\.mkv: not a video, or a damaged one"):
        Reader(listed)
