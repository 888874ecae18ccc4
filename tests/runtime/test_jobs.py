"""Folders, patterns, streams, and what is written beside a result."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import ROOT, Command, one_line_error
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from dic.console import UserError
from runtime.faces.crop import Crop
from runtime.infer import main
from runtime.jobs.boxes import Boxes
from runtime.jobs.paths import OutputOptions, finished, plan
from runtime.jobs.pictures import PictureWork
from runtime.jobs.summary import Summary

PLAIN = OutputOptions(True, None, {})


def arguments(*given: object) -> list[str]:
    return [str(argument) for argument in given]


@pytest.fixture
def album(tmp_path: Path, face_file: Path, photo_file: Path) -> Path:
    """Photographs in folders: two with a face, one without, one broken, and other files."""
    album = tmp_path / "album"
    (album / "1950" / "summer").mkdir(parents=True)
    shutil.copy(photo_file, album / "a.png")
    shutil.copy(photo_file, album / "1950" / "summer" / "a.png")
    cv2.imwrite(str(album / "1950" / "wall.png"), np.full((100, 120, 3), 90, np.uint8))
    (album / "1950" / "notes.txt").write_text("")
    (album / ".hidden.png").write_text("")
    return album


def places(root: Path) -> list[str]:
    return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())


def test_a_folder_keeps_its_shape(album: Path, tiny_engine: Path, command: Command) -> None:
    (album / "broken.png").write_bytes(b"")
    out = album.parent / "out"
    summary = album.parent / "summary.json"
    line = ("runtime.infer", "--faces", album, "-o", out, "--engine", tiny_engine)
    done = command(*line, "--summary", summary)
    assert done.returncode == 1, done.stderr
    assert places(out) == ["1950/summer/a.png", "1950/wall.png", "a.png"]
    assert (out / "1950/wall.png").read_bytes() == (album / "1950/wall.png").read_bytes()
    last = done.stderr.strip().splitlines()[-1]
    assert "2 restored (2 faces" in last
    assert "1 copied without a face to restore" in last
    assert "1 failed" in last
    told = json.loads(summary.read_text())
    assert (told["restored"], told["copied"], told["failed"], told["faces"]) == (2, 1, 1, 2)
    assert {Path(f["source"]).name: f["status"] for f in told["files"]} == {
        "a.png": "restored", "wall.png": "copied", "broken.png": "failed",
    }  # fmt: skip


def test_results_within_the_folder_are_not_restored_again(album: Path, tiny_engine: Path) -> None:
    out = album / "restored"
    line = arguments("--faces", album, "-o", out, "--engine", tiny_engine)
    for _ in range(2):
        assert main(line) == 0
        assert places(out) == ["1950/summer/a.png", "1950/wall.png", "a.png"]


def test_a_folder_that_cannot_be_listed_fails_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed, scandir = tmp_path / "album" / "closed", os.scandir
    closed.mkdir(parents=True)
    (closed.parent / "a.png").write_bytes(b"")

    def refuse(path: Any) -> Any:
        if Path(path) == closed:
            raise PermissionError(13, "Permission denied", str(closed))
        return scandir(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", refuse)
        jobs = plan([str(closed.parent)], str(tmp_path / "out"), PLAIN)
    assert [job.source for job in jobs] == [closed.parent / "a.png", closed]
    done = PictureWork(None, None, None)(jobs[1])  # type: ignore[arg-type]
    assert done.status == "failed"
    assert f"{closed}: " in done.message


def test_links_that_go_in_circles_end(album: Path) -> None:
    (album / "1950" / "loop").symlink_to(album)
    (album / "1950" / "self").symlink_to(album / "1950")
    (album / "me.png").symlink_to("me.png")
    jobs = plan([str(album)], str(album.parent / "out"), PLAIN)
    assert sorted(job.source.name for job in jobs) == ["a.png", "a.png", "me.png", "wall.png"]


@pytest.mark.parametrize("given", ["", "*.png"])
def test_pipes_in_a_folder_are_not_waited_for(
    given: str, album: Path, caplog: pytest.LogCaptureFixture
) -> None:
    os.mkfifo(album / "pipe.png")
    (album / "folder.png").mkdir()
    jobs = plan([str(album / given)], str(album.parent / "out"), PLAIN)
    assert "a.png" in {job.source.name for job in jobs}
    assert "pipe.png" not in {job.source.name for job in jobs}
    assert "pipe.png: is a folder, pipe or device; skipped" in caplog.text


def test_patterns_are_filled_in_where_the_shell_did_not(album: Path) -> None:
    options = OutputOptions(True, ".jpg", {})
    jobs = plan([str(album / "19*" / "*.png")], str(album.parent / "out"), options)
    assert [(j.source.name, j.target.name) for j in jobs] == [("wall.png", "wall.jpg")]
    with pytest.raises(UserError, match="no picture or video matches"):
        plan([str(album / "*.tiff")], str(album.parent / "out"), PLAIN)


def test_a_file_named_twice_is_restored_once(album: Path) -> None:
    jobs = plan([str(album / "a.png")] * 2 + [str(album)], str(album.parent / "out"), PLAIN)
    assert len(jobs) == 3


def test_what_cannot_be_planned_says_why(album: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copy(album / "a.png", album / "a.jpg")
    (tmp_path / "empty").mkdir()
    extras = OutputOptions(True, None, {"landmarks": ".landmarks.json"})
    cases = [
        (["https://example.org/face.png"], out, PLAIN, "URLs are not supported"),
        ([str(tmp_path / "empty")], out, PLAIN, "no pictures or videos"),
        (
            [str(album / "a.png"), str(album / "a.jpg")],
            out,
            OutputOptions(True, ".png", {}),
            "would both",
        ),
        ([str(album / "a.png"), str(album / "a.jpg")], out / "x.png", PLAIN, "has a file's suffix"),
        ([""], out, PLAIN, "a path is empty"),
        (
            [str(album / "a.png"), str(album / "a.jpg")],
            Path("-"),
            PLAIN,
            "standard output takes one",
        ),
        ([str(album / "a.png")], Path("-"), extras, "standard output takes one"),
        ([str(album)], album, PLAIN, "would be overwritten"),
        (["clip.mp4"], tmp_path / "clip.png", PLAIN, "videos can be written as one of"),
        (["a.png"], tmp_path / "b.png", OutputOptions(True, ".jpg", {}), "differs from --format"),
        (["a.png"], Path("-"), OutputOptions(True, ".jpg", {}), "standard output is always PNG"),
    ]
    for inputs, output, options, why in cases:
        with pytest.raises(UserError, match=why):
            plan(inputs, str(output), options)


def test_streams(photo_file: Path, tiny_engine: Path, tmp_path: Path) -> None:
    line = [sys.executable, "-m", "runtime.infer", "-", "-o", "-", "--engine", str(tiny_engine)]
    data = photo_file.read_bytes()
    done = subprocess.run([*line, "--faces"], input=data, capture_output=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    picture = Image.open(io.BytesIO(done.stdout))
    out = tmp_path / "out.png"
    assert main(arguments("--faces", photo_file, "-o", out, "--engine", tiny_engine)) == 0
    np.testing.assert_array_equal(np.asarray(picture), np.asarray(Image.open(out)))
    empty = subprocess.run(line, input=b"", capture_output=True, cwd=ROOT)
    assert empty.returncode == 2
    assert b"standard input: the file is empty" in empty.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("reader", ["true", "head -c 1"])
def test_a_closed_pipe_ends_in_one_line(
    reader: str, unbuffered: str, photo_file: Path, tiny_engine: Path
) -> None:
    line = f"{sys.executable} -m runtime.infer --faces {photo_file} -o - --engine {tiny_engine}"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line} --enlarge 8 | {reader} >/dev/null"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
    )
    assert done.returncode == 2
    assert "closed by its reader" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_resuming_leaves_out_what_is_done(
    album: Path, tiny_engine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = album.parent / "out"
    line = arguments("--faces", album, "-o", out, "--engine", tiny_engine, "--resume")
    assert main(line) == 0
    times = {p: p.stat().st_mtime_ns for p in out.rglob("*.png")}
    (out / "a.png").unlink()
    assert main(line) == 0
    assert "2 already finished" in capsys.readouterr().err
    after = {p: p.stat().st_mtime_ns for p in out.rglob("*.png")}
    assert after.keys() == times.keys()
    assert [p.name for p in after if after[p] != times[p]] == ["a.png"]
    assert main(line) == 0
    assert "nothing left to do" in capsys.readouterr().err
    # what is asked for beside it is missing yet
    assert main([*line, "--landmarks"]) == 0
    assert (out / "a.png.landmarks.json").is_file()


def test_landmarks_are_written_as_documented_and_drawn(photo_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    line = arguments(
        "--faces", photo_file, "-o", out, "--landmarks", "--compare", "--device", "cpu"
    )
    assert main(line) == 0
    assert places(tmp_path) == [
        "out.png", "out.png.compare.png", "out.png.landmarks.json", "out.png.landmarks.png",
    ]  # fmt: skip
    told = json.loads((tmp_path / "out.png.landmarks.json").read_text())
    assert told["schema"] == "dic-landmarks-1"
    assert (told["image"], told["width"], told["height"]) == (str(photo_file), 128, 128)
    (face,) = told["faces"]
    points = np.array(face["landmarks"])
    assert points.shape == (68, 2)
    assert len(face["scores"]) == 68
    x, y, width, height = face["box"]
    assert width == height
    assert (points > [x, y]).all()
    assert (points < [x + width, y + height]).all()
    # the astronaut's eyes, at a quarter of where they are in the original
    eyes = [points[36:42].mean(0), points[42:48].mean(0)]
    np.testing.assert_allclose(eyes, np.array([[203, 107], [247, 107]]) / 4, atol=3)
    matrix = np.array(face["matrix"])
    middle = [x + width / 2 - 0.5, y + height / 2 - 0.5]
    np.testing.assert_allclose(matrix @ [63.5, 63.5, 1], middle, atol=1e-3)
    drawn, result = (
        np.asarray(Image.open(tmp_path / f"out.png{e}")) for e in (".landmarks.png", "")
    )
    zoom = drawn.shape[0] // result.shape[0]
    at = (np.array(eyes[0]) + 0.5) * told["scale"] * zoom
    patch = drawn[int(at[1]) - 40 : int(at[1]) + 40, int(at[0]) - 40 : int(at[0]) + 40].astype(int)
    assert ((patch[..., 0] > 200) & (patch[..., 1] < 120)).any(), "no mark where the eye is"
    compared = Image.fromarray(np.asarray(Image.open(tmp_path / "out.png.compare.png")))
    assert compared.size == (3 * 256 + 2 * 8, 256 + 28)


def test_landmarks_of_an_aligned_face_are_in_pixels_of_its_file(
    faces: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    """A wide picture, whose centre is taken."""
    wide = np.pad(faces[0][4], ((0, 0), (100, 60), (0, 0)), mode="edge")[:, 20:]
    cv2.imwrite(str(tmp_path / "wide.png"), wide[:, :, ::-1])
    assert main(arguments(tmp_path / "wide.png", "-o", tmp_path / "out.png", "--landmarks")) == 0
    (face,) = json.loads((tmp_path / "out.png.landmarks.json").read_text())["faces"]
    assert face["box"] == [70, 0, 128, 128]


def test_boxes_say_where_the_faces_are(photo_file: Path, tiny_engine: Path, tmp_path: Path) -> None:
    name = photo_file.name
    (tmp_path / "boxes.csv").write_text(f"image,x,y,w,h\n{name},10,20,30,30\n{name},70,60,21,20\n")
    (tmp_path / "boxes.json").write_text(json.dumps({name: [[10, 20, 30, 30], [70, 60, 21, 20]]}))
    results = []
    for kind in ("csv", "json"):
        out = tmp_path / f"{kind}.png"
        line = arguments(
            photo_file, "--boxes", tmp_path / f"boxes.{kind}", "-o", out, "--landmarks"
        )
        assert main([*line, "--engine", str(tiny_engine)]) == 0
        told = json.loads(out.with_name(f"{kind}.png.landmarks.json").read_text())
        assert [face["box"][:2] for face in told["faces"]] == [[10, 20], [70, 60]]
        results.append(np.asarray(Image.open(out)))
    np.testing.assert_array_equal(*results)
    # and what --landmarks wrote is read again
    document = tmp_path / "csv.png.landmarks.json"
    again = Boxes(document).of(photo_file, True)
    assert [(c.x, c.y, c.size) for c in again] == [(10, 20, 30), (70, 60, 21)]


def test_a_square_outside_of_the_picture_is_an_error(
    photo_file: Path, tiny_engine: Path, tmp_path: Path, infer: Command
) -> None:
    (tmp_path / "boxes.csv").write_text(f"{photo_file.name},330,100,30,30\n")
    line = (photo_file, "--boxes", tmp_path / "boxes.csv", "-o", tmp_path / "o.png")
    assert "128×128 pixels" in one_line_error(infer(*line, "--engine", tiny_engine), 2)
    assert not (tmp_path / "o.png").exists()


@pytest.mark.parametrize(("sign", "status"), [(signal.SIGTERM, 128 + 15), (signal.SIGINT, 130)])
def test_an_interruption_leaves_whole_files_and_a_summary(
    sign: signal.Signals, status: int, photo_file: Path, tmp_path: Path
) -> None:
    folder, out, summary = tmp_path / "in", tmp_path / "out", tmp_path / "done.json"
    folder.mkdir()
    for n in range(60):
        shutil.copy(photo_file, folder / f"{n:02}.png")
    line = [sys.executable, "-m", "runtime.infer", "--faces", str(folder), "-o", str(out)]
    line += ["--summary", str(summary)]
    # What began in the background ignores Ctrl-C otherwise.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(line, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    signal.signal(signal.SIGINT, before)
    while process.poll() is None and (not out.exists() or len(list(out.iterdir())) < 12):
        time.sleep(0.02)
    process.send_signal(sign)
    _, told = process.communicate()
    assert process.returncode == status
    assert "Traceback" not in told
    assert [p for p in out.iterdir() if p.name.startswith(".")] == []
    done = json.loads(summary.read_text())
    assert 0 < done["restored"] == len(done["files"]) == 60 - done["left"] < 60
    assert [entry["target"] for entry in done["files"]] == sorted(map(str, out.iterdir()))
    assert all(f"\n{entry['message']}\n" in told for entry in done["files"])
    assert f", {done['left']} not processed; output in {out}" in told


def test_a_summary_that_cannot_be_written_hides_no_interruption(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "reports"
    folder.mkdir()
    summary = Summary([], "out", folder / "told.json")
    folder.rmdir()
    folder.write_text("a file now")
    with pytest.raises(KeyboardInterrupt), summary:
        raise KeyboardInterrupt
    assert "cannot be written" in capsys.readouterr().err


def test_five_points_align_a_face(faces: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    five = [faces[1][0][i].mean(0) for i in (slice(36, 42), slice(42, 48), [30], [48], [54])]
    numbers = ",".join(f"{v:.2f}" for point in five for v in point)
    (tmp_path / "boxes.csv").write_text(f"face.png,{numbers}\n")
    (crop,) = Boxes(tmp_path / "boxes.csv").of(Path("any/face.png"), True)
    assert abs(crop.size - 128) < 25
    assert np.abs(crop.centre - 63.5).max() < 15


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("face.png,1,2,3\n", "line 1: a face needs 4 or 10 numbers, separated by commas; got 3"),
        ("image,x\nface.png,1,2,x,4\n", r"line 2: .* must all be numbers"),
        ("face.png,1O,2,3,4\n", r"line 1: .* must all be numbers"),
        ("face.png,1,2,0,4\n", "at least 1 pixel, got 0×4"),
        ("face.png,1,2,1e30,4\n", "finite pixel coordinates of at most 1,000,000"),
        ("face.png,1,1,1,1,1,1,1,1,1,1\n", "must not coincide"),
        ("[", "not valid JSON"),
        ('{"faces": 3}', "unexpected JSON structure"),
        ('{"schema": "dic-landmarks-1", "frames": []}', "describes a video"),
        ('[{"image": "x"}]', "unexpected JSON structure"),
        ("other.png,1,2,30,30\n", "has no entry in"),
    ],
)
def test_boxes_that_cannot_be_read_say_why(text: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "boxes").write_text(text)
    with pytest.raises(UserError, match=why):
        Boxes(tmp_path / "boxes").of(Path("face.png"), True)


def test_boxes_go_by_the_longest_end_of_a_path(tmp_path: Path) -> None:
    (tmp_path / "boxes.csv").write_text("x.png,1,1,30,30\na/x.png,2,2,30,30\n")
    boxes = Boxes(tmp_path / "boxes.csv")
    assert [crop.x for crop in boxes.of(Path("album/a/x.png"), True)] == [2]
    assert [crop.x for crop in boxes.of(Path("album/b/x.png"), True)] == [1]
    assert boxes.of(Path("album/a/y.png"), False) == []  # of a folder: nothing to restore there


@given(data=st.binary(max_size=200))
def test_no_file_of_boxes_ends_in_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.mktemp("boxes") / "boxes"
    path.write_bytes(data)
    try:
        crops = Boxes(path)._faces.values()
    except UserError:
        return
    assert all(isinstance(crop, Crop) for found in crops for crop in found)


def test_profiles_and_exif_are_kept(photo_file: Path, tiny_engine: Path, tmp_path: Path) -> None:
    """A photograph in another colour space, lying on its side by EXIF."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Camera"
    lying = Image.open(photo_file).transpose(Image.Transpose.ROTATE_90)
    for kind in ("jpg", "png", "webp"):
        source, out = tmp_path / f"in.{kind}", tmp_path / f"out.{kind}"
        lying.save(source, quality=95, icc_profile=profile, exif=exif.tobytes())
        assert main(arguments("--faces", source, "-o", out, "--engine", tiny_engine)) == 0
        done = Image.open(out)
        assert done.info["icc_profile"] == profile
        assert done.getexif()[0x010F] == "Camera"
        assert done.getexif()[0x0112] == 1, "it is upright now"
        small = done.convert("RGB").resize((128, 128), Image.Resampling.BOX)
        upright = np.asarray(Image.open(photo_file).convert("RGB")).astype(int)
        assert np.abs(np.asarray(small).astype(int) - upright).mean() < 8


def test_unusual_pictures(photo_file: Path, tiny_engine: Path, tmp_path: Path) -> None:
    photo = Image.open(photo_file).convert("RGB")
    photo.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    photo.save(tmp_path / "still.gif")
    for kind in ("gif", "webp", "png"):
        photo.save(
            tmp_path / f"moving-{kind}.{kind}",
            save_all=True,
            append_images=[photo.rotate(9)],
            duration=90,
        )
    out = tmp_path / "out"
    line = arguments("--faces", tmp_path, "-o", out, "--engine", tiny_engine)
    assert main([*line, "--summary", str(tmp_path / "told.json")]) == 1
    told = json.loads((tmp_path / "told.json").read_text())
    status = {Path(f["source"]).name: f["status"] for f in told["files"]}
    assert status.pop("cmyk.jpg") == "restored"
    assert status.pop("still.gif") == "restored"
    assert set(status.values()) == {"failed"}
    assert all("is animated" in f["message"] for f in told["files"] if f["status"] == "failed")
    shown = np.asarray(Image.open(out / "cmyk.jpg").convert("RGB").resize((128, 128)))
    assert np.abs(shown.astype(int) - np.asarray(photo)).mean() < 12, "colours are other ones"
    assert (out / "still.png").is_file()


def test_wrong_calls(
    infer: Command, photo_file: Path, face_file: Path, tiny_engine: Path, tmp_path: Path
) -> None:
    out, engine = tmp_path / "out", ("--engine", tiny_engine)
    (tmp_path / "boxes.csv").write_text("x.png,1,2,30,30\n")
    (tmp_path / "clip.mp4").write_bytes(b"no video")
    cases = [
        ([face_file, "--format", "gif"], "invalid choice"),
        ([face_file, "--batch", "0"], "--batch must be"),
        ([face_file, "--threads", "0"], "--threads must be"),
        ([face_file, "--upscale-background", "lanczos"], "needs --faces"),
        ([photo_file, "--boxes", tmp_path / "boxes.csv"], "has no entry in"),
        ([photo_file, "--boxes", tmp_path / "none.csv"], "No such file"),
        ([tmp_path / "clip.mp4"], "--faces detects the faces in it"),
        ([tmp_path / "clip.mp4", "--boxes", tmp_path / "boxes.csv"], "is for pictures"),
        ([photo_file, "--summary", photo_file], "would be overwritten"),
        ([photo_file, "--summary", tmp_path], "is a folder"),
        ([tmp_path / "clip.mp4", "--faces"], "not a video, or a damaged one"),
        (["http://x/y.png"], "URLs are not supported"),
    ]
    for given_, why in cases:
        done = infer(*given_, "-o", out, *engine)
        assert why in one_line_error(done, 2), given_
        assert not out.exists(), given_


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_refused_at_once(
    command: Command, album: Path, tiny_engine: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    done = command("runtime.infer", "--faces", album, "-o", folder / "x", "--engine", tiny_engine)
    assert "cannot be written" in one_line_error(done, 2)


def test_finished_means_all_files(tmp_path: Path) -> None:
    options = OutputOptions(True, None, {"landmarks": ".landmarks.json"})
    (tmp_path / "a.png").write_text("")
    (job,) = plan([str(tmp_path / "a.png")], str(tmp_path / "b.png"), options)
    (tmp_path / "b.png").write_text("")
    assert not finished(job)
    (tmp_path / "b.png.landmarks.json").write_text("")
    assert finished(job)
