"""The command that most users type, and what they get wrong."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import ROOT, Command, one_line_error

from dic.console import UserError
from runtime.engines.load import load_engine
from runtime.infer import main
from runtime.pictures.files import read_picture
from runtime.pictures.picture import Picture
from runtime.restorer import FaceRestorer


def arguments(*given: object) -> list[str]:
    return [str(argument) for argument in given]


def test_a_crop_becomes_a_face(
    command: Command, tiny_engine: Path, face_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "face.png"
    done = command("runtime.infer", face_file, "-o", out, "--engine", tiny_engine)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    with load_engine(tiny_engine) as engine:
        wanted = FaceRestorer(engine).restore([read_picture(face_file).rgb()])[0].image
    np.testing.assert_array_equal(read_picture(out).rgb(), wanted)
    assert [path.name for path in out.parent.iterdir()] == ["face.png"]


def test_a_grey_crop_becomes_a_grey_face(tiny_engine: Path, tmp_path: Path) -> None:
    path, out = tmp_path / "grey.png", tmp_path / "out.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (50, 50), dtype=np.uint8))
    assert main(arguments(path, "-o", out, "--engine", tiny_engine)) == 0
    assert read_picture(out).pixels.shape == (128, 128, 1)


def test_a_folder_of_crops(tiny_engine: Path, face_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.png", "b.PNG", "notes.txt"):
        shutil.copy(face_file, folder / name)
    out = tmp_path / "out"
    assert main(arguments(folder, "-o", out, "--engine", tiny_engine)) == 0
    assert sorted(path.name for path in out.iterdir()) == ["a.png", "b.png"]


@pytest.mark.parametrize("size", [(1, 1), (16, 16), (37, 91), (1200, 900)])
def test_crops_of_any_size(size: tuple[int, int], tiny_engine: Path, tmp_path: Path) -> None:
    path, out = tmp_path / "in.png", tmp_path / "out.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))
    assert main(arguments(path, "-o", out, "--engine", tiny_engine)) == 0
    assert read_picture(out).rgb().shape == (128, 128, 3)


def test_a_photograph(
    command: Command, tiny_engine: Path, photo_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.jpg"
    done = command("runtime.infer", photo_file, "-o", out, "--engine", tiny_engine, "--faces")
    assert done.returncode == 0, done.stderr
    assert "1 restored" in done.stderr
    assert read_picture(out).rgb().shape[0] > read_picture(photo_file).rgb().shape[0]


def test_a_photograph_keeps_its_colours_and_everything_outside_the_face(
    photo_file: Path,
) -> None:
    photo = read_picture(photo_file)
    with load_engine(device="cpu") as engine:
        done = FaceRestorer(engine).restore_photo(photo, max_face=128)
    assert done.scale > 1
    assert len(done.faces) == 1
    plain = cv2.resize(
        photo.rgb(), None, fx=done.scale, fy=done.scale, interpolation=cv2.INTER_CUBIC
    )
    crop, scale = done.faces[0].crop, done.scale
    outside = np.ones(plain.shape[:2], bool)
    outside[
        crop.y * scale : (crop.y + crop.size) * scale, crop.x * scale : (crop.x + crop.size) * scale
    ] = False
    np.testing.assert_array_equal(done.picture.pixels[outside], plain[outside])
    assert (done.picture.pixels[~outside] != plain[~outside]).any()
    for channel in range(3):
        drift = (
            done.picture.pixels[~outside][:, channel].mean() - plain[~outside][:, channel].mean()
        )
        assert abs(drift) < 4


@pytest.mark.parametrize("kind", ["grey", "alpha", "deep"])
def test_photographs_keep_their_kind(kind: str, photo_file: Path) -> None:
    """A grey, transparent or 16-bit photograph comes out as an 8-bit RGB one does."""
    rgb = read_picture(photo_file).rgb()
    grey = np.repeat(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)[:, :, None], 3, 2)
    # A slow ramp: colours count by their opacity, which hardly differs from pixel to pixel.
    ramp = np.linspace(200, 255, rgb.shape[0])[:, None].repeat(rgb.shape[1], 1).astype(np.uint8)
    picture, plain = {
        "grey": (Picture(grey[:, :, :1]), Picture(grey)),
        "alpha": (Picture(rgb, ramp), Picture(rgb)),
        "deep": (Picture(rgb.astype(np.uint16) * 257), Picture(rgb)),
    }[kind]
    with load_engine(device="cpu") as engine:
        restorer = FaceRestorer(engine)
        done, wanted = (restorer.restore_photo(given, max_face=128) for given in (picture, plain))
    given = done.picture
    assert len(done.faces) == 1
    assert given.pixels.dtype == picture.pixels.dtype
    assert given.pixels.shape[2] == picture.pixels.shape[2]
    expected = wanted.picture.pixels.astype(float)
    if kind == "grey":
        expected = cv2.cvtColor(wanted.picture.pixels, cv2.COLOR_RGB2GRAY)[:, :, None].astype(float)
    assert np.abs(given.pixels / (given.peak / 255) - expected).max() <= 2
    if kind == "alpha":
        assert given.alpha is not None
        assert np.abs(given.alpha.astype(int) - _enlarged(ramp, done.scale)).max() <= 1
    else:
        assert given.alpha is None


def _enlarged(channel: np.ndarray, scale: int) -> np.ndarray:
    size = (channel.shape[1] * scale, channel.shape[0] * scale)
    return cv2.resize(channel, size, interpolation=cv2.INTER_CUBIC)


def test_no_seam_shows(photo_file: Path) -> None:
    """Along the border of a pasted face, steps are no larger than they were without it."""
    photo = read_picture(photo_file)
    with load_engine(device="cpu") as engine:
        done = FaceRestorer(engine).restore_photo(photo, max_face=128)
    crop, scale = done.faces[0].crop, done.scale
    top, left, size = crop.y * scale, crop.x * scale, crop.size * scale
    for image in (done.picture.pixels.astype(int),):
        plain = _enlarged(photo.rgb(), scale).astype(int)
        for axis, at in ((0, top), (0, top + size), (1, left), (1, left + size)):
            edge = np.s_[at - 1 : at + 2] if axis == 0 else np.s_[:, at - 1 : at + 2]
            steps = [np.abs(np.diff(i[edge], axis=axis)).mean() for i in (image, plain)]
            assert steps[0] <= steps[1] + 0.5


def test_a_small_face_in_a_large_photograph(tiny_engine: Path, tmp_path: Path) -> None:
    """As in a group portrait: a crop of about 44 pixels in 12 megapixels."""
    import skimage.data

    noise = np.random.default_rng(0).normal(0, 3, (3000, 4000, 3))
    large = np.clip(120 + noise, 0, 255).astype(np.uint8)
    small = cv2.resize(skimage.data.astronaut(), (170, 170), interpolation=cv2.INTER_AREA)
    large[2000:2170, 3000:3170] = small
    with load_engine(tiny_engine) as engine:
        done = FaceRestorer(engine).restore_photo(Picture(large), max_face=64)
    assert len(done.faces) == 1
    assert 3000 < done.faces[0].crop.x < 3100
    # enlarged by what 64 megapixels leave room for, not by what the face would need
    assert done.scale == 2


def test_large_faces_are_left_alone(here: Command, tiny_engine: Path, tmp_path: Path) -> None:
    import skimage.data

    path, out = tmp_path / "large.png", tmp_path / "out.png"
    cv2.imwrite(str(path), skimage.data.astronaut()[:, :, ::-1])
    line = ("runtime.infer", path, "-o", out, "--engine", tiny_engine, "--faces")
    assert "larger than --max-face" in one_line_error(here(*line, "--max-face", 30), 2)
    assert not out.exists()
    assert here(*line, "--max-face", 200).returncode == 0
    assert read_picture(out).rgb().shape == (512, 512, 3)


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(b"0"))
        + chunk(b"IEND", b"")
    )


def test_wrong_calls_end_in_one_line_with_nothing_written(
    infer: Command, tiny_engine: Path, tiny_checkpoint: Path, face_file: Path, tmp_path: Path
) -> None:
    blank = tmp_path / "blank.png"
    cv2.imwrite(str(blank), np.full((200, 200, 3), 90, np.uint8))
    text = tmp_path / "text.png"
    text.write_text("not a picture")
    empty_folder = tmp_path / "empty"
    empty_folder.mkdir()
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(tiny_engine.read_bytes()[:1000])
    twin = tmp_path / "twin" / face_file.name
    twin.parent.mkdir()
    shutil.copy(face_file, twin)
    out = tmp_path / "out"
    engine = ("--engine", tiny_engine)
    cases = [
        ([], "INPUT"),
        ([face_file, *engine], "-o/--output"),
        ([tmp_path / "absent.png", "-o", out, *engine], "No such file"),
        ([text, "-o", out, *engine], "not a picture"),
        ([empty_folder, "-o", out, *engine], "no pictures"),
        ([face_file, "-o", out, "--engine", tmp_path / "no.onnx"], "No such file"),
        ([face_file, "-o", out, "--engine", cut], "not an ONNX model"),
        ([face_file, "-o", out, "--engine", tiny_checkpoint], "is a checkpoint"),
        ([face_file, "-o", out, *engine, "--device", "cuda:9"], "no GPU"),
        ([face_file, "-o", out, *engine, "--device", "tpu"], "unknown device"),
        ([face_file, "-o", tmp_path / "out.gif", *engine], "can be written as one of"),
        ([face_file, "-o", face_file, *engine], "would be overwritten"),
        ([face_file, twin, "-o", out, *engine], "would both be written to"),
        ([face_file, blank, "-o", text, *engine], "is a file"),
        ([blank, "-o", out, *engine, "--enlarge", "2"], "needs --faces"),
        ([blank, "-o", out, *engine, "--faces"], "no face detected"),
        ([blank, "-o", out, *engine, "--faces", "--detector", text], "not a YuNet model"),
        ([blank, "-o", out, *engine, "--faces", "--enlarge", "9"], "--enlarge"),
    ]
    for given, why in cases:
        assert why in one_line_error(infer(*given), 2), given
        assert not out.exists(), given
    assert face_file.stat().st_size == twin.stat().st_size


def test_a_header_that_promises_too_much_is_refused(
    here: Command, tiny_engine: Path, tmp_path: Path
) -> None:
    huge = tmp_path / "huge.png"
    huge.write_bytes(png_header(20_000, 20_000))
    done = here("runtime.infer", huge, "-o", tmp_path / "out", "--engine", tiny_engine)
    assert "larger than 268435456 pixels" in one_line_error(done, 2)


def test_files_of_a_folder_that_cannot_be_read_are_counted(
    here: Command,
    tiny_engine: Path,
    face_file: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A phone's old film and a JPEG XL fail by name; a raw picture beside its JPEG does not."""
    folder = tmp_path / "album"
    folder.mkdir()
    (folder / "a.png").write_bytes(face_file.read_bytes())
    (folder / "b.3gp").write_bytes(b"\0\0\0\x18ftyp3gp4")
    (folder / "c.jxl").write_bytes(b"\xff\x0a")
    (folder / "d.nef").write_bytes(b"MM\0*")
    done = here("runtime.infer", folder, "-o", tmp_path / "out", "--engine", tiny_engine)
    assert done.returncode == 1
    errors = sorted(line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert len(errors) == 2
    assert f"error: {folder / 'b.3gp'}: this format of videos is not supported" in errors[0]
    assert f"error: {folder / 'c.jxl'}: JPEG XL pictures cannot be read" in errors[1]
    assert f"{folder / 'd.nef'}: format not supported; skipped" in caplog.text
    assert "1 restored" in done.stderr
    assert "2 failed" in done.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.png"]


def test_one_bad_file_does_not_stop_the_rest(
    here: Command, tiny_engine: Path, face_file: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"")
    done = here(
        "runtime.infer",
        bad,
        face_file,
        tmp_path / "gone.png",
        "-o",
        tmp_path / "out",
        "--engine",
        tiny_engine,
    )
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 2
    errors.sort()  # in the order in which the files were done
    assert "bad.png: the file is empty" in errors[0]
    assert [path.name for path in (tmp_path / "out").iterdir()] == [face_file.name]


def test_a_full_disk_leaves_nothing(
    command: Command, tiny_engine: Path, face_file: Path, tmp_path: Path
) -> None:
    """The kernel refuses to let a file grow, as a full disk does; a whole older one must stay."""
    out = tmp_path / "out.png"
    out.write_bytes(b"older")

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    done = command("runtime.infer", face_file, "-o", out, "--engine", tiny_engine, preexec_fn=limit)
    assert "cannot be written" in one_line_error(done, 2)
    assert out.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [out]


def test_a_full_standard_output_is_named(
    command: Command, tiny_engine: Path, face_file: Path
) -> None:
    line = [sys.executable, "-m", "runtime.infer", face_file, "-o", "-", "--engine", tiny_engine]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            line, stdout=full, stderr=subprocess.PIPE, text=True, timeout=300, cwd=ROOT
        )
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert errors == ["error: standard output: No space left on device"]


def test_a_summary_that_cannot_be_written_fails_but_not_the_pictures(
    tiny_engine: Path, face_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out, summary = tmp_path / "out.png", tmp_path / "told.json"
    line = arguments(face_file, "-o", out, "--engine", tiny_engine, "--summary", summary)

    def full(path: Path, data: bytes) -> None:
        raise UserError(f"{path}: cannot be written: No space left on device")

    monkeypatch.setattr("runtime.jobs.summary.write_json", full)
    assert main(line) == 1
    assert out.exists()
    assert "told.json: cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize("nth", [0, 1])
def test_a_disk_that_is_full_at_the_nth_write_leaves_nothing(
    nth: int, tiny_engine: Path, face_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    flushed = iter(range(2))

    def fsync(_: int) -> None:
        if next(flushed) == nth:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    out = tmp_path / "new" / "out.png"
    assert main(arguments(face_file, "-o", out, "--engine", tiny_engine, "--landmarks")) == 2
    assert "cannot be written: No space left on device" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that root cannot write")
def test_an_unwritable_folder(here: Command, tiny_engine: Path, face_file: Path) -> None:
    done = here("runtime.infer", face_file, "-o", "/proc/x.png", "--engine", tiny_engine)
    assert "/proc/x.png: cannot be written" in one_line_error(done, 2)


@pytest.mark.parametrize(
    "module", ["runtime.infer", "export.onnx", "train.__main__", "benchmarks.__main__"]
)
def test_help_waits_for_no_heavy_import(module: str) -> None:
    code = (
        "import sys\n"
        f"from {module} import main\n"
        "try:\n    main(['--help'])\n"
        "except SystemExit as left:\n    assert left.code == 0\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'cv2', 'numpy', 'skimage'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "usage: python -m" in done.stdout


def test_a_path_too_long_for_the_system(here: Command, tiny_engine: Path) -> None:
    done = here("runtime.infer", "x" * 5000, "-o", "out", "--engine", tiny_engine)
    assert "name too long" in one_line_error(done, 2)
