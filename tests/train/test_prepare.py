"""`python -m train.prepare`: accepted faces, rejected pictures and their reasons, resumption."""

from __future__ import annotations

import io
import json
import math
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import Command, one_line_error
from numpy.typing import NDArray
from PIL import Image

from dic.console import UserError
from train.data.annotations import encode_pts
from train.data.crop import Detector, crop_box
from train.data.datasets import open_faces
from train.prepare import main

COUNT = 24
OFFSET = 30, 50  # of the face in its picture
Faces = tuple[NDArray[np.uint8], NDArray[np.float32]]


@pytest.fixture
def pictures(tmp_path: Path, faces: Faces) -> Path:
    """Photographs with a face of 256 pixels off the centre, half of them in a subfolder."""
    folder = tmp_path / "in"
    (folder / "more").mkdir(parents=True)
    for i in range(COUNT):
        big = Image.fromarray(faces[0][i]).resize((256, 256), Image.Resampling.BICUBIC)
        photo = Image.new("RGB", (400, 330), (90, 90, 90))
        photo.paste(big, OFFSET)
        path = folder / ("more" if i % 2 else ".") / f"photo{i:02}.png"
        photo.save(path)
        path.with_suffix(".pts").write_bytes(encode_pts((faces[1][i] + 0.5) * 2 - 0.5 + OFFSET))
    return folder


def prepare(*arguments: object) -> int:
    return main([*map(str, arguments), "--workers", "1"])


def test_faces_are_cropped_resized_and_written_with_their_landmarks(
    pictures: Path, tmp_path: Path, faces: Faces
) -> None:
    out = tmp_path / "out"
    assert prepare(pictures, "--out", out, "--validation", 4) == 0
    training, checks = (open_faces(str(out / p), "", 68) for p in ("train", "validation"))
    assert (len(training), len(checks)) == (COUNT - 4, 4)
    assert {Path(e.name).stem for e in checks.entries} == {f"photo{i}" for i in (16, 18, 20, 22)}
    for image, points in (training[0], training[7]):
        low, high = points.min(0), points.max(0)
        assert image.shape == (128, 128, 3)
        assert 128 / 1.85 < (high - low).max() < 128 / 1.65, "the crop follows the landmarks"
    assert json.loads((out / "report.json").read_text())["faces"] == {"train": 20, "validation": 4}
    preview = np.asarray(Image.open(out / "preview.png"))
    assert preview.shape == (4 * 128, 6 * 128, 3)


def test_the_crop_matches_that_of_synthetic_faces(faces: Faces) -> None:
    boxes = np.array([crop_box(points) for points in faces[1]])
    found = np.median(boxes, axis=0)
    np.testing.assert_allclose(found, [0, 0, 128, 128], atol=8)


def test_aligned_faces_are_only_resized(tmp_path: Path, faces: Faces, here: Command) -> None:
    for i in range(3):
        big = Image.fromarray(faces[0][i]).resize((1024, 1024), Image.Resampling.BICUBIC)
        big.save(tmp_path / f"{i}.png")
    held = {str(i): ((faces[1][i] + 0.5) * 8 - 0.5).tolist() for i in range(3)}
    (tmp_path / "all.json").write_text(json.dumps(held))
    done = here(
        *("train.prepare", tmp_path, "--out", tmp_path / "out"),
        *("--landmarks", tmp_path / "all.json", "--crop", "none"),
    )
    assert done.returncode == 0, done.stderr
    found = open_faces(str(tmp_path / "out" / "train"), "", 68)
    with Image.open(tmp_path / "0.png") as big:
        expected = np.asarray(big.resize((128, 128), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(found[0][0], expected)
    np.testing.assert_allclose(found[0][1], faces[1][0], atol=1e-3)


def test_the_result_does_not_depend_on_the_number_of_processes(
    pictures: Path, tmp_path: Path, command: Command
) -> None:
    done = command("train.prepare", pictures, "--out", tmp_path / "two", "--workers", 2)
    assert done.returncode == 0, done.stderr
    prepare(pictures, "--out", tmp_path / "one")
    one, two = (sorted((tmp_path / n / "train").rglob("*.p*")) for n in ("one", "two"))
    assert len(one) == 2 * COUNT
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]


def test_existing_faces_are_kept(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(pictures, "--out", out)
    kept, lost = out / "train" / "photo00.png", out / "train" / "photo02.pts"
    kept.write_bytes(b"mine")
    lost.unlink()  # as if killed between writing the two files
    left = lost.with_name(".photo02.pts.0123abcd")
    left.touch()
    prepare(pictures, "--out", out)
    assert not left.exists()
    assert kept.read_bytes() == b"mine"
    assert lost.exists()
    report = json.loads((out / "report.json").read_text())
    assert report["faces"] == {"train": COUNT}
    assert report["already there"] == COUNT - 1


def test_shards_contain_the_same_faces(pictures: Path, tmp_path: Path) -> None:
    prepare(pictures, "--out", tmp_path / "files")
    prepare(pictures, "--out", tmp_path / "shards", "--shards", 10)
    tars = sorted(path.name for path in (tmp_path / "shards" / "train").glob("*.tar"))
    assert tars == ["00000.tar", "00001.tar", "00002.tar"]
    one, two = (open_faces(str(tmp_path / p / "train"), "", 68) for p in ("files", "shards"))
    assert len(one) == len(two) == COUNT
    for a, b in ((one[i], two[i]) for i in (0, 11, 23)):
        np.testing.assert_array_equal(a[0], b[0])
        np.testing.assert_array_equal(a[1], b[1])
    again = sorted((tmp_path / "shards" / "train").iterdir())
    before = [path.stat().st_mtime_ns for path in again]
    prepare(pictures, "--out", tmp_path / "shards", "--shards", 10)
    assert [path.stat().st_mtime_ns for path in again] == before


def test_rejections_of_shards_are_stored(pictures: Path, tmp_path: Path) -> None:
    for i in (0, 2, 4, 6):
        (pictures / f"photo{i:02}.png").write_bytes(b"nonsense")
    reports = []
    for _ in range(2):
        assert prepare(pictures, "--out", tmp_path / "out", "--shards", 4) == 1
        reports.append(json.loads((tmp_path / "out" / "report.json").read_text()))
    assert reports[0]["rejected"] == reports[1]["rejected"] == {"unreadable": 4}
    assert reports[0]["faces"] == {"train": COUNT - 4}
    assert reports[1]["faces"] == {"train": COUNT - 4}
    assert reports[1]["already there"] == COUNT - 4
    # All four faces of one shard were rejected: it has no file, and is not processed again.
    assert len(open_faces(str(tmp_path / "out" / "train"), "", 68)) == COUNT - 4


def test_shards_are_accepted_as_input_and_unsafe_names_are_refused(
    pictures: Path, tmp_path: Path, faces: Faces
) -> None:
    prepare(pictures, "--out", tmp_path / "tars", "--shards", 10)
    assert prepare(tmp_path / "tars" / "train", "--out", tmp_path / "out") == 0
    found = open_faces(str(tmp_path / "out" / "train"), "", 68)
    assert len(found) == COUNT
    assert found.entries[0].key.startswith("00000/")
    buffer = io.BytesIO()
    Image.fromarray(faces[0][0]).save(buffer, "png")
    (tmp_path / "evil").mkdir()
    with tarfile.open(tmp_path / "evil" / "a.tar", "w") as tar:
        member = tarfile.TarInfo("x/../../../../escaped.png")
        member.size = buffer.tell()
        buffer.seek(0)
        tar.addfile(member, buffer)
    with pytest.raises(UserError, match="unsafe name"):
        prepare(tmp_path / "evil", "--out", tmp_path / "out2")


def test_the_output_may_be_below_the_pictures(pictures: Path) -> None:
    for _ in range(2):
        assert prepare(pictures, "--out", pictures / "out") == 0
    report = json.loads((pictures / "out" / "report.json").read_text())
    assert report["already there"] == COUNT


def test_a_data_set_is_continued_only_with_the_same_settings(
    pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    prepare(pictures, "--out", out, "--validation", 4)
    for more, why in (
        (["--validation", 5], "was started with validation 4, not 5"),
        (["--validation", 4, "--shards", 5], "was started with shards 0, not 5"),
        (["--validation", 4, "--crop", "none"], "was started with crop landmarks, not none"),
    ):
        with pytest.raises(UserError, match=why):
            prepare(pictures, "--out", out, *more)
    (pictures / "photo00.png").unlink()
    with pytest.raises(UserError, match="was started with pictures 24"):
        prepare(pictures, "--out", out, "--validation", 4)
    with pytest.raises(UserError, match="is the folder of the pictures"):
        prepare(pictures, "--out", pictures)
    with pytest.raises(UserError, match=r"was made by train\.prepare; use .*/train"):
        prepare(out, "--out", tmp_path / "again")


def test_a_changed_landmark_file_is_detected(tmp_path: Path, faces: Faces) -> None:
    folder, table = tmp_path / "in", tmp_path / "all.json"
    folder.mkdir()
    for i in range(3):
        Image.fromarray(faces[0][i]).save(folder / f"{i}.png")
    for shift, status in ((0, 0), (3, None)):
        held = {str(i): (faces[1][i] + shift).tolist() for i in range(3)}
        table.write_text(json.dumps(held))
        run = (folder, "--out", tmp_path / "out", "--landmarks", table, "--crop", "none")
        if status is None:
            with pytest.raises(UserError, match="was started with landmarks"):
                prepare(*run)
        else:
            assert prepare(*run) == status


def test_implausible_landmarks_are_rejected(tmp_path: Path, faces: Faces) -> None:
    folder, table = tmp_path / "in", tmp_path / "all.json"
    folder.mkdir()
    for i in range(6):
        Image.fromarray(faces[0][i]).save(folder / f"{i}.png")
    held = [points.tolist() for points in faces[1][:6]]
    held[1] = np.full((68, 2), 5).tolist()
    held[2] = faces[1][2][:, ::-1].tolist()
    held[3] = (faces[1][3] / 128).tolist()
    held[4][7] = [math.nan, 3]
    table.write_text(json.dumps({str(i): points for i, points in enumerate(held)}))
    run = (folder, "--out", tmp_path / "out", "--landmarks", table, "--crop", "none")
    assert prepare(*run, "--validation", 2) == 1
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    reasons = {Path(n).stem: why.split(":")[0] for n, why in report["rejected_pictures"].items()}
    assert reasons == {
        "1": "landmarks all in one place",
        "2": "not upright",
        "3": "landmarks all in one place",
        "4": "damaged landmarks",
    }
    assert report["faces"] == {"train": 1, "validation": 1}


def test_every_rejected_picture_is_counted_and_named(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pictures / "photo00.png").write_bytes(b"nonsense")
    (pictures / "photo02.pts").unlink()
    (pictures / "photo04.pts").write_bytes(b"nonsense")
    (pictures / "photo06.pts").write_bytes(encode_pts(np.ones((5, 2))))
    far = np.random.default_rng(0).uniform(200, 700, (68, 2))
    (pictures / "photo08.pts").write_bytes(encode_pts(far))
    far_one = np.vstack((far[:67] / 4 + 20, [[2e6, 2e6]]))
    (pictures / "photo12.pts").write_bytes(encode_pts(far_one))
    small = np.random.default_rng(0).uniform(100, 150, (68, 2))
    (pictures / "photo10.pts").write_bytes(encode_pts(small))
    assert prepare(pictures, "--out", tmp_path / "out") == 1
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["faces"] == {"train": COUNT - 7}
    reasons = {Path(n).name: why for n, why in report["rejected_pictures"].items()}
    assert reasons == {
        "photo00.png": "unreadable: not an image file",
        "photo02.png": "no landmarks: no landmarks",
        "photo04.png": reasons["photo04.png"],
        "photo06.png": "not 68 landmarks: 5 landmarks",
        "photo08.png": "face outside the picture: face outside the picture",
        "photo10.png": reasons["photo10.png"],
        "photo12.png": reasons["photo12.png"],
    }
    assert "far larger than the picture" in reasons["photo12.png"]
    assert reasons["photo04.png"].startswith("damaged landmarks: ")
    assert reasons["photo10.png"].startswith("smaller than 128 pixels: ")
    assert "1 unreadable" in capsys.readouterr().err


def test_the_largest_detected_face_is_used(
    pictures: Path, tmp_path: Path, faces: Faces, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a replacement for face-alignment, whose weights may not be available."""
    small, large = np.ones((68, 2)) * [[1, 2]], (faces[1][0] + 0.5) * 2 - 0.5 + OFFSET
    seen = []

    class FaceAlignment:
        def __init__(self, kind: str, device: str) -> None:
            assert (kind, device) == ("2D", "cpu")

        def get_landmarks_from_image(self, image: Any) -> Any:
            seen.append(image.shape)
            return [small, large] if len(seen) < 3 else None

    fake = SimpleNamespace(FaceAlignment=FaceAlignment, LandmarksType=SimpleNamespace(TWO_D="2D"))
    monkeypatch.setitem(sys.modules, "face_alignment", fake)
    for path in sorted(pictures.glob("*.pts"))[:3]:
        path.unlink()
    assert prepare(pictures, "--out", tmp_path / "out", "--detect") == 1
    assert seen == [(330, 400, 3)] * 3
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["faces"] == {"train": COUNT - 1}
    assert report["rejected"] == {"no face found": 1}


def test_usage_errors_are_reported_in_one_line(
    pictures: Path, tmp_path: Path, here: Command
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    bare = tmp_path / "bare"
    bare.mkdir()
    Image.new("RGB", (200, 200)).save(bare / "a.png")
    out = ["--out", tmp_path / "out"]
    cases = [
        ([pictures], "--out"),
        ([tmp_path / "nowhere", *out], "neither a folder"),
        ([tmp_path / "empty", *out], "no pictures"),
        ([pictures, *out, "--detect", "--points", "5"], "--detect needs --points 68"),
        ([pictures, *out, "--validation", "24"], "leaves none of 24"),
        ([pictures, *out, "--points", "7"], "--points"),
        ([pictures, *out, "--smallest", "0"], "--smallest"),
        ([pictures, pictures, *out], "have the same output name"),
        ([pictures, "--out", tmp_path / "file" / "x"], "cannot be written"),
        ([bare, *out], "all 1 pictures were rejected"),
    ]
    for arguments, why in cases:
        done = here("train.prepare", *arguments)
        assert why in one_line_error(done, 2)


def test_detection_without_the_package_is_reported_in_one_line() -> None:
    if "face_alignment" in sys.modules:
        pytest.skip("face-alignment is installed")
    with pytest.raises(Exception, match=r"pip install 'dic-toolkit\[detect\]'"):
        Detector()
