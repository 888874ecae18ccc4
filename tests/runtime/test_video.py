"""Videos: frames, sound and times stay; faces neither flicker nor jump."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from conftest import Command, one_line_error
from PIL import Image

from runtime.faces.crop import Crop
from runtime.infer import main
from runtime.video.tracks import join, sightings

RATE = 12


def write_video(
    path: Path, frames: list[np.ndarray], codec: str = "libx264", sound: str | None = "aac"
) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=RATE, options={"crf": "12"})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        audio = container.add_stream(sound, rate=48000) if sound else None
        for n, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts, frame.time_base = n, Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if audio is None:
            return
        wave = np.sin(np.arange(48000 * len(frames) // RATE) / 20) * 9000
        for start in range(0, len(wave), 960):
            piece = wave[start : start + 960].astype(np.int16)[None]
            part = av.AudioFrame.from_ndarray(piece, format="s16", layout="mono")
            part.sample_rate, part.pts = 48000, start
            container.mux(audio.encode(part))
        container.mux(audio.encode(None))


def read_video(path: Path) -> tuple[list[np.ndarray], list[float]]:
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    return [f.to_ndarray(format="rgb24") for f in frames], [float(f.time) for f in frames]


def packets(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(p) for p in container.demux(audio=0) if p.size]


@pytest.fixture(scope="module")
def frames() -> list[np.ndarray]:
    """The astronaut, 30 frames of 160×120, the camera moving."""
    import skimage.data

    small = np.asarray(
        Image.fromarray(skimage.data.astronaut()).resize((170, 170), Image.Resampling.BICUBIC)
    )
    return [small[5:125, n // 3 : n // 3 + 160] for n in range(30)]


@pytest.fixture(scope="module")
def clip(frames: list[np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    write_video(path, frames)
    return path


@pytest.mark.parametrize("kind", ["mp4", "mkv", "webm", "avi", "mov"])
def test_a_video_is_restored_in_its_container(
    kind: str, frames: list[np.ndarray], tmp_path: Path, tiny_engine: Path
) -> None:
    codec, sound = {"webm": ("libvpx-vp9", "libopus"), "avi": ("mpeg4", "mp3")}.get(
        kind, ("libx264", "aac")
    )
    source, out = tmp_path / f"in.{kind}", tmp_path / f"out.{kind}"
    write_video(source, frames[:6], codec, sound)
    line = ["--faces", str(source), "-o", str(out), "--engine", str(tiny_engine)]
    assert main([*line, "--enlarge", "2"]) == 0
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []
    given, at = read_video(source)
    done, when = read_video(out)
    assert len(done) == len(given) == 6
    np.testing.assert_allclose(when, at, atol=1.5e-3)
    assert done[0].shape == (240, 320, 3)
    with av.open(str(source)) as before, av.open(str(out)) as after:
        assert before.format.name == after.format.name
    assert packets(out) == packets(source), "the sound is another one"
    # colours are the video's, away from the face
    plain = cv2.resize(given[3], (320, 240), interpolation=cv2.INTER_CUBIC).astype(int)
    drift = (done[3].astype(int) - plain)[:, :90].mean((0, 1))
    assert np.abs(drift).max() < 1.5, drift


def test_faces_do_not_flicker(clip: Path, frames: list[np.ndarray], tmp_path: Path) -> None:
    """With the shipped engine: the restored face moves with the camera and else stays."""
    out = tmp_path / "out.mp4"
    assert main(["--faces", str(clip), "-o", str(out), "--landmarks", "--device", "cpu"]) == 0
    told = json.loads((tmp_path / "out.mp4.landmarks.json").read_text())
    assert (told["width"], told["height"], told["scale"]) == (160, 120, 3)
    assert len(told["frames"]) == 30
    assert [len(frame["faces"]) for frame in told["frames"]] == [1] * 30
    assert told["frames"][12]["time"] == pytest.approx(1.0, abs=0.002)
    boxes = np.array([frame["faces"][0]["box"] for frame in told["frames"]])
    assert np.abs(np.diff(boxes, axis=0)).max() <= 3, "the square jumps"
    shown, _ = read_video(out)
    plain, _ = read_video(clip)
    still = [n for n in range(1, 30) if n % 3]  # the camera does not move before these frames
    inside = np.s_[60:130, 150:240]
    ours, theirs = (
        np.mean([np.abs(np.diff([v[n - 1], v[n]], axis=0)).mean() for n in still])
        for v in (
            [f.astype(int)[inside] for f in shown],
            [cv2.resize(f, (480, 360)).astype(int)[inside] for f in plain],
        )
    )
    assert ours < theirs + 3, f"changes by {ours:.1f} levels a frame, the video by {theirs:.1f}"


def test_a_turned_video_is_turned_upright(clip: Path, tmp_path: Path, tiny_engine: Path) -> None:
    """As telephones write them: lying, with a matrix in the track's header that says so."""
    source, out = tmp_path / "lying.mp4", tmp_path / "out.mp4"
    line = ["--faces", str(source), "-o", str(out), "--engine", str(tiny_engine), "--enlarge", "1"]
    lying = [cv2.rotate(f, cv2.ROTATE_90_COUNTERCLOCKWISE) for f in read_video(clip)[0][:6]]
    write_video(tmp_path / "u.mp4", lying)
    data = bytearray((tmp_path / "u.mp4").read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    data[at : at + 36] = b"".join(
        int(v).to_bytes(4, "big", signed=True)
        for v in (0, 65536, 0, -65536, 0, 0, 120 << 16, 0, 1 << 30)
    )
    source.write_bytes(data)
    assert main(line) == 0
    done, _ = read_video(out)
    assert done[0].shape == (120, 160, 3)
    plain = read_video(clip)[0][0].astype(int)
    assert np.abs(done[0].astype(int) - plain)[:, :40].mean() < 12


def test_odd_sizes_and_uneven_times(frames: list[np.ndarray], tmp_path: Path) -> None:
    """A frame of 159×119, shown for unequal times."""
    path, out = tmp_path / "odd.mkv", tmp_path / "out.mkv"
    times = [0, 40, 80, 200, 240, 1000, 1040]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = 119, 159, "yuv444p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for at, pixels in zip(times, frames, strict=False):
            piece = np.ascontiguousarray(pixels[:119, :159])
            frame = av.VideoFrame.from_ndarray(piece, format="rgb24")
            frame.pts, frame.time_base = at, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert main(["--faces", str(path), "-o", str(out), "--enlarge", "1", "--device", "cpu"]) == 0
    done, when = read_video(out)
    np.testing.assert_allclose(when, np.array(times) / 1000, atol=1e-3)
    assert done[0].shape == (120, 160, 3)


def test_videos_that_cannot_be_restored_say_why(
    clip: Path, frames: list[np.ndarray], infer: Command, tiny_engine: Path, tmp_path: Path
) -> None:
    whole = clip.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        audio = container.add_stream("aac", rate=48000)
        part = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.int16), "s16", "mono")
        part.sample_rate = 48000
        container.mux(audio.encode(part))
        container.mux(audio.encode(None))
    with av.open(str(tmp_path / "none.mkv"), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        container.start_encoding()
    write_video(tmp_path / "wall.mp4", [np.full((64, 64, 3), 90, np.uint8)] * 3)
    out = tmp_path / "out"
    for name, why in (
        ("cut.mp4", "not a video, or a damaged one"),
        ("sound.mp4", "has no video stream"),
        ("none.mkv", "no frames|not a video"),
        ("wall.mp4", "no face detected"),
    ):
        done = infer("--faces", tmp_path / name, "-o", out, "--engine", tiny_engine)
        message = one_line_error(done, 2)
        assert any(part in message for part in why.split("|")), message
        assert not out.exists() or not list(out.iterdir()), name


def test_a_broken_tail_is_told_and_the_rest_restored(
    frames: list[np.ndarray], tmp_path: Path, tiny_engine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "in.mkv", tmp_path / "out.mkv"
    write_video(source, frames, "libx264")
    whole = source.read_bytes()
    source.write_bytes(whole[: int(len(whole) * 0.6)])
    line = ["--faces", str(source), "-o", str(out), "--engine", str(tiny_engine)]
    assert main([*line, "--enlarge", "1"]) == 0
    done, _ = read_video(out)
    assert 5 < len(done) < 30
    told = capsys.readouterr().err
    assert f"{len(done)} frames" in told
    assert "may be truncated: ends at" in told
    assert "of 2.52 s" in told


def test_a_damaged_packet_costs_its_frames_only(
    frames: list[np.ndarray], tmp_path: Path, tiny_engine: Path
) -> None:
    source, damaged, out = (tmp_path / f"{name}.mkv" for name in ("in", "damaged", "out"))
    write_video(source, frames, "libvpx-vp9")  # without frames out of order, which times go by
    with av.open(str(source)) as given, av.open(str(damaged), "w") as made:
        streams = {s.index: made.add_stream_from_template(s) for s in given.streams}
        count = 0
        for packet in given.demux():
            if not packet.size:
                continue
            packet.dts = packet.pts if packet.dts is None else packet.dts
            if packet.stream.type == "video":
                count += 1
                if count == 10:  # another one's bytes in its place
                    broken = av.Packet(bytes(200))
                    broken.pts, broken.dts = packet.pts, packet.dts
                    broken.time_base = packet.time_base
                    broken.stream = streams[packet.stream.index]
                    made.mux(broken)
                    continue
            packet.stream = streams[packet.stream.index]
            made.mux(packet)
    line = ["--faces", str(damaged), "-o", str(out), "--engine", str(tiny_engine)]
    assert main([*line, "--enlarge", "1"]) == 0
    assert len(read_video(out)[0]) >= 25
    assert packets(out) == packets(damaged)


def test_pixel_shapes_and_languages_are_kept(
    frames: list[np.ndarray], tmp_path: Path, tiny_engine: Path
) -> None:
    source, out = tmp_path / "in.mkv", tmp_path / "out.mkv"
    with av.open(str(source), "w") as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.height, stream.width, stream.pix_fmt = 120, 160, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
        audio = container.add_stream("aac", rate=48000)
        audio.metadata["language"] = "deu"
        for pixels in frames[:5]:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        part = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.int16), "s16", "mono")
        part.sample_rate = 48000
        container.mux([*audio.encode(part), *audio.encode(None)])
    line = ["--faces", str(source), "-o", str(out), "--engine", str(tiny_engine)]
    assert main([*line, "--enlarge", "1"]) == 0
    with av.open(str(out)) as done:
        assert done.streams.video[0].codec_context.sample_aspect_ratio == Fraction(4, 3)
        assert done.streams.audio[0].metadata["language"] == "deu"


def test_videos_and_pictures_of_a_folder(
    clip: Path, photo_file: Path, tiny_engine: Path, tmp_path: Path
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    (folder / "clip.mp4").write_bytes(clip.read_bytes())
    (folder / "photo.png").write_bytes(photo_file.read_bytes())
    write_video(folder / "wall.mp4", [np.full((64, 64, 3), 90, np.uint8)] * 3)
    line = ["--faces", str(folder), "-o", str(out), "--engine", str(tiny_engine), "--landmarks"]
    assert main([*line, "--enlarge", "1"]) == 0
    assert sorted(p.name for p in out.iterdir()) == [
        "clip.mp4", "clip.mp4.landmarks.json", "photo.png", "photo.png.landmarks.json",
        "photo.png.landmarks.png", "wall.mp4", "wall.mp4.landmarks.json",
    ]  # fmt: skip
    assert (out / "wall.mp4").read_bytes() == (folder / "wall.mp4").read_bytes()


def crops(*places: tuple[int, int, int]) -> list[Crop]:
    return [Crop(x, y, size) for x, y, size in places]


def test_long_tracks_take_little_memory() -> None:
    """Eleven minutes at 30 frames a second."""
    import tracemalloc

    found = [crops((100 + n % 7, 100, 40)) for n in range(20_000)]
    tracemalloc.start()
    (track,) = join(found, 30)
    taken = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    assert len(track.crops) == 20_000
    assert taken < 100, f"{taken:.0f} MB"


def test_tracks_bridge_what_a_detector_misses() -> None:
    rng = np.random.default_rng(0)
    found = []
    for n in range(60):
        jitter = rng.integers(-2, 3, 3)
        one = [(20 + n + jitter[0], 30 + jitter[1], 40 + jitter[2])] if n % 5 else []
        two = [(200, 100, 30)] if n >= 30 else []
        mistake = [(300, 300, 25)] if n == 10 else []
        found.append(crops(*one, *two, *mistake))
    tracks = sorted(join(found, 30), key=lambda track: min(track.crops))
    assert len(tracks) == 2, "one face is one track, and a mistake is none"
    first = tracks[0]
    assert sorted(first.crops) == list(range(1, 60))
    for n, crop in first.crops.items():
        assert abs(crop.centre[0] - (20 + n + 19.5)) <= 3
        assert abs(crop.size - 40) <= 2
    steps = np.diff([first.crops[n].size for n in range(1, 60)])
    assert np.abs(steps).max() <= 1, "its size is smooth"
    seen = [s.weight for n in range(60) for s in sightings([tracks[1]], n, 60, 30)]
    assert len(seen) == 30
    assert seen[0] < 0.5, "a face that comes is blended in"
    assert seen[-1] == 1, "and one that is there at the end stays"
