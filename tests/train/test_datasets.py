"""Reading of data sets and landmark files, and the training pairs made from them."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY_RUN, Command, one_line_error
from numpy.typing import NDArray
from PIL import Image

from dic.console import UserError
from dic.landmarks import heatmaps
from train.data.annotations import UNNAMED, AnnotationError, encode_pts, read_annotations
from train.data.datasets import BadFaceError, FacesInFiles, FacesInMemory, FileRange, open_faces
from train.data.pairs import Batches, FacePairs
from train.data.pictures import cut, read_picture
from train.loop.training import train
from train.recipe import load_recipe

COUNT = 6
Faces = tuple[NDArray[np.uint8], NDArray[np.float32]]
Write = Callable[[Path, Faces], None]


def png(image: NDArray[np.uint8]) -> bytes:
    encoded = io.BytesIO()
    Image.fromarray(image).save(encoded, "png")
    return encoded.getvalue()


def names(count: int = COUNT) -> list[str]:
    return [f"face{i:02}" for i in range(count)]


def write_pictures(folder: Path, faces: Faces) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, image in zip(names(), faces[0], strict=False):
        (folder / f"{name}.png").write_bytes(png(image))


def each(suffix: str, content: Callable[[NDArray[np.float32]], bytes]) -> Write:
    """A landmark file beside each picture."""

    def write(folder: Path, faces: Faces) -> None:
        write_pictures(folder, faces)
        for name, points in zip(names(), faces[1], strict=False):
            (folder / f"{name}{suffix}").write_bytes(content(points))

    return write


def table(name: str, content: Callable[[dict[str, NDArray[np.float32]]], bytes]) -> Write:
    """One landmark file for all pictures."""

    def write(folder: Path, faces: Faces) -> None:
        write_pictures(folder, faces)
        held = {f"{n}.png": p for n, p in zip(names(), faces[1], strict=False)}
        (folder / name).write_bytes(content(held))

    return write


def openface(points: NDArray[np.float32]) -> bytes:
    """Two faces in the format of OpenFace's FaceLandmarkImg, the more confident one second."""
    k = len(points)
    head = ["face", "confidence", "gaze_0_x", "gaze_0_y", "pose_Tx"]
    head += [f"x_{i}" for i in range(k)] + [f"y_{i}" for i in range(k)]
    head += [f"X_{i}" for i in range(k)]
    rows = [", ".join(head)]
    for face, confidence, found in ((0, 0.3, points * 0), (1, 0.98, points)):
        numbers = [face, confidence, 0.1, 0.2, 3.0, *found[:, 0], *found[:, 1], *[0.0] * k]
        rows.append(", ".join(str(float(n)) for n in numbers))
    return "\n".join(rows).encode()


def one_csv(held: dict[str, NDArray[np.float32]]) -> bytes:
    k = len(next(iter(held.values())))
    rows = ["image_id," + ",".join(f"p{i}_x,p{i}_y" for i in range(k))]
    rows += [f"{n}," + ",".join(str(float(v)) for v in p.ravel()) for n, p in held.items()]
    return "\n".join(rows).encode()


def npz(**arrays: Any) -> bytes:
    packed = io.BytesIO()
    np.savez(packed, **arrays)
    return packed.getvalue()


def authors_pkl(held: dict[str, NDArray[np.float32]], protocol: int) -> bytes:
    content = {
        name: {"landmark": points.tolist(), "bbox": np.array([0, 0, 128, 128])}
        for name, points in held.items()
    }
    return pickle.dumps(content, protocol=protocol)


def json_table(held: dict[str, NDArray[np.float32]]) -> bytes:
    return json.dumps({n: {"landmarks": p.tolist()} for n, p in held.items()}).encode()


def json_records(held: dict[str, NDArray[np.float32]]) -> bytes:
    return json.dumps([{"image": n, "landmarks": p.tolist()} for n, p in held.items()]).encode()


def shards(folder: Path, faces: Faces) -> None:
    """Two WebDataset shards."""
    folder.mkdir(parents=True)
    for number, part in enumerate((names()[:4], names()[4:])):
        with tarfile.open(folder / f"train-{number:06}.tar", "w") as tar:
            for name in part:
                i = names().index(name)
                for suffix, data in (("png", png(faces[0][i])), ("pts", encode_pts(faces[1][i]))):
                    member = tarfile.TarInfo(f"{name}.{suffix}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))


FORMATS: dict[str, Write] = {
    "pts": each(".pts", encode_pts),
    "openface": each(".csv", openface),
    "json-each": each(".json", lambda p: json.dumps(p.tolist()).encode()),
    "npz-each": each(".npz", lambda p: npz(landmarks=p)),
    "csv": table("landmarks.csv", one_csv),
    "json": table("landmarks.json", json_table),
    "json-records": table("landmarks.json", json_records),
    "npz": table("landmarks.npz", lambda h: npz(names=list(h), landmarks=np.stack([*h.values()]))),
    "npz-arrays": table("landmarks.npz", lambda h: npz(**h)),
    "pkl-2": table("landmarks.pkl", lambda h: authors_pkl(h, 2)),
    "pkl-4": table("landmarks.pkl", lambda h: authors_pkl(h, 4)),
    "shards": shards,
}


@pytest.mark.parametrize("write", FORMATS.values(), ids=FORMATS.keys())
def test_every_format_returns_the_faces_written(write: Write, tmp_path: Path, faces: Faces) -> None:
    write(tmp_path / "data", faces)
    found = open_faces(str(tmp_path / "data"), "", 68)
    assert len(found) == COUNT
    for i in range(COUNT):
        image, points = found[i]
        np.testing.assert_array_equal(image, faces[0][i])
        np.testing.assert_allclose(points, faces[1][i], atol=1e-3)


def test_shards_match_a_pattern_and_a_table_may_be_elsewhere(
    tmp_path: Path, faces: Faces, capfd: pytest.CaptureFixture[str]
) -> None:
    shards(tmp_path / "tars", faces)
    assert len(open_faces(str(tmp_path / "tars" / "train-*.tar"), "", 68)) == COUNT
    assert len(open_faces(str(tmp_path / "tars" / "train-000001.tar"), "", 68)) == 2
    write_pictures(tmp_path / "pictures" / "deep", faces)
    chosen = {"face01.png": faces[1][1], "deep/face03.png": faces[1][3]}
    (tmp_path / "some.json").write_bytes(json_table(chosen))
    found = open_faces(str(tmp_path / "pictures"), str(tmp_path / "some.json"), 68)
    assert [Path(entry.name).stem for entry in found.entries] == ["face01", "face03"]
    assert "4 of 6 pictures have no landmarks and are omitted" in capfd.readouterr().err
    tabled = {f"train-00000{i // 4}/{n}": faces[1][i] for i, n in enumerate(names())}
    tabled = {f"{key}.png": points + 1 for key, points in tabled.items()}
    (tmp_path / "tars.json").write_bytes(json_table(tabled))
    found = open_faces(str(tmp_path / "tars"), str(tmp_path / "tars.json"), 68)
    np.testing.assert_allclose(found[5][1], faces[1][5] + 1, atol=1e-3)


def test_the_authors_box_is_cropped_as_in_their_code(tmp_path: Path) -> None:
    """Pillow's bicubic of the crop, as in their `_crop_resize`."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (300, 400, 3), dtype=np.uint8)
    points = rng.uniform(60, 240, (68, 2)).astype(np.float32)
    (tmp_path / "a.png").write_bytes(png(image))
    held = {"a.png": {"landmark": points.tolist(), "bbox": [50, 40, 250, 240]}}
    (tmp_path / "train_info.pkl").write_bytes(pickle.dumps(held))
    face, found = open_faces(str(tmp_path), str(tmp_path / "train_info.pkl"), 68)[0]
    expected = Image.fromarray(image[40:240, 50:250]).resize((128, 128), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(face, np.asarray(expected))
    # They scale p - 50 directly; we preserve pixel centres, a difference of 0.18 pixels.
    np.testing.assert_allclose(found, (points - [50, 40]) * 0.64, atol=0.2)


def test_a_box_beyond_the_picture_repeats_edge_pixels() -> None:
    image = np.arange(128 * 128, dtype=np.int64).reshape(128, 128) % 251
    image = np.repeat(image[..., None], 3, 2).astype(np.uint8)
    face, points = cut(image, np.zeros((68, 2), np.float32), (-10, 0, 118, 128))
    np.testing.assert_array_equal(face[:, 10:], image[:, :118])
    np.testing.assert_array_equal(face[:, :10], np.repeat(image[:, :1], 10, 1))
    np.testing.assert_allclose(points, np.tile([10, 0], (68, 1)), atol=1e-5)


def test_rotated_grey_and_16_bit_pictures_are_decoded(tmp_path: Path) -> None:
    grey = (np.arange(128 * 128).reshape(128, 128) % 256).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # display rotated by 90°
    Image.fromarray(grey).save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(grey).convert("RGBA").save(tmp_path / "alpha.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    for name in ("turned", "alpha", "deep"):
        (tmp_path / f"{name}.pts").write_bytes(encode_pts(np.zeros((68, 2))))
    alpha, deep, turned = (open_faces(str(tmp_path), "", 68)[i][0] for i in range(3))
    np.testing.assert_array_equal(alpha[..., 0], grey)
    np.testing.assert_array_equal(deep[..., 2], grey)
    np.testing.assert_array_equal(turned[..., 0], np.rot90(grey, -1))


class Evil:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("/tmp/evil"),))


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("a.pkl", pickle.dumps({"a": Evil()}), "refused, it would run"),
        ("a.pkl", pickle.dumps({"a": {"landmark": [[1, 2]], "bbox": print}}), "builtins.print"),
        ("a.pkl", pickle.dumps([1, 2]), "contains no {picture: landmarks} mapping"),
        ("a.pkl", pickle.dumps({"a": np.array([object()])}), "refused, an array of"),
        ("a.pkl", pickle.dumps({"a": np.zeros(2, "V8")}), "refused, an array of 'V8'"),
        ("a.pkl", pickle.dumps({"a": {"landmark": [[1, 2]], "bbox": [0, 0, 9, np.nan]}}), "a box"),
        ("a.pkl", b"nonsense", "damaged, or not a landmark file"),
        ("a.pts", b"version: 1\nn_points: 3\n{\n1 2\n3 4\n}\n", "2 points, but n_points is 3"),
        ("a.pts", b"nothing", "contains no { … }"),
        ("a.pts", b"n_points: 1\n{\n1 x\n}", "damaged"),
        ("a.csv", b"image,eye\na.png,3\n", "no x and y columns"),
        ("a.csv", b"", "damaged"),
        ("a.csv", b"image,x0,y0\n", "contains no landmarks"),
        ("a.json", b"{", "damaged"),
        ("a.json", b'{"a": {"points": []}}', 'without "landmarks"'),
        ("a.json", b'{"a": [[1, 2, 3]]}', "not K×2"),
        ("a.json", b'{"a": [[1, NaN]]}', "NaN or infinite"),
        ("a.npz", b"PK", "damaged"),
        ("a.npz", npz(a=np.array([object()])), "damaged"),
        ("a.txt", b"", "the supported formats are .pts"),
    ],
)
def test_invalid_landmark_files_are_reported_in_one_line(
    name: str, content: bytes, why: str
) -> None:
    with pytest.raises(AnnotationError) as caught:
        read_annotations(name, content)
    assert why in str(caught.value)
    assert str(caught.value).startswith(f"{name}: ") or name == "a.txt"
    assert "\n" not in str(caught.value)
    assert not Path("/tmp/evil").exists()


def test_an_invalid_entry_does_not_affect_the_others() -> None:
    for name, content in (
        ("a.json", b'{"a": [[1, NaN]], "b": [[1, 2]]}'),
        ("a.csv", b"name,x0,y0\na,1,none\nb,1,2\n"),
        ("a.npz", npz(names=["a", "b"], landmarks=np.array([[[1, np.nan]], [[1, 2]]]))),
        ("a.pkl", pickle.dumps({"a": {"landmark": [[1, None]]}, "b": {"landmark": [[1, 2]]}})),
    ):
        found = read_annotations(name, content)
        assert found["a"].fault, name
        assert found["b"].fault == ""
        np.testing.assert_array_equal(found["b"].landmarks, [[1, 2]])


def test_numpy_arrays_in_pickles_are_read() -> None:
    held = {"a": {"landmark": np.ones((5, 2), np.float64), "bbox": np.float32([1, 2, 3, 4])}}
    for protocol in (2, 4, 5):
        found = read_annotations("a.pkl", pickle.dumps(held, protocol=protocol))
        np.testing.assert_array_equal(found["a"].landmarks, np.ones((5, 2)))
        assert found["a"].box == (1, 2, 3, 4)


def test_a_pickle_cannot_create_an_array_of_object_pointers() -> None:
    """NumPy's dtype would accept this state, and then interpret numbers as object pointers."""
    crafted = pickle.dumps({"a": np.zeros(1)}).replace(b"\x8c\x02f8", b"\x8c\x02O8")
    with pytest.raises(AnnotationError, match="refused, an array of 'O8'"):
        read_annotations("a.pkl", crafted)


def test_the_origin_of_pts_files_is_one() -> None:
    found = read_annotations("a.pts", b"version: 1\nn_points: 1\n{\n1.0 3.5\n}\n")
    np.testing.assert_array_equal(found[UNNAMED].landmarks, [[0, 2.5]])


def test_missing_data_is_reported_in_one_line(tmp_path: Path, faces: Faces) -> None:
    (tmp_path / "empty").mkdir()
    write_pictures(tmp_path / "bare", faces)
    (tmp_path / "other.json").write_text('{"nobody.png": [[1, 2]]}')
    each(".pts", lambda points: encode_pts(points[:5]))(tmp_path / "five", faces)
    for twin in "ab":
        write_pictures(tmp_path / "twins" / twin, faces)
    (tmp_path / "twins.json").write_text('{"face01.png": [[1, 2]]}')
    (tmp_path / "tars").mkdir()
    (tmp_path / "tars" / "a.tar").write_bytes(b"no tar at all" * 100)
    cases = {
        (str(tmp_path / "nowhere"), ""): "neither a folder",
        (str(tmp_path / "empty"), ""): "no pictures",
        (str(tmp_path / "bare"), ""): "6 of 6 pictures have no landmarks",
        (str(tmp_path / "five"), ""): "have 5 landmarks, the network 68; set network.landmarks=5",
        (str(tmp_path / "bare" / "face00.png"), ""): "is a picture; name its folder",
        (str(tmp_path / "bare"), str(tmp_path / "other.json")): "none of its 1 names",
        (str(tmp_path / "bare"), str(tmp_path / "none.json")): "No such file",
        (str(tmp_path / "tars"), ""): "damaged, compressed or not a tar file",
        (str(tmp_path / "twins"), str(tmp_path / "twins.json")): "matches both",
    }
    for (source, landmarks), why in cases.items():
        with pytest.raises(UserError) as caught:
            open_faces(source, landmarks, 68)
        assert why in str(caught.value)
        assert "\n" not in str(caught.value)


def broken_set(folder: Path, faces: Faces, broken: tuple[int, ...]) -> FacesInFiles:
    each(".pts", encode_pts)(folder, faces)
    for i in broken:
        path = folder / f"{names()[i]}.png"
        path.write_bytes(path.read_bytes()[: 60 if i % 2 else 2000])
    return open_faces(str(folder), "", 68)


def test_an_unreadable_face_is_reported(tmp_path: Path, faces: Faces) -> None:
    found = broken_set(tmp_path, faces, (1, 2))
    for i in (1, 2):
        with pytest.raises(BadFaceError, match=names()[i]):
            found[i]
    with pytest.raises(BadFaceError, match="68 landmarks, not 194"):
        FacesInFiles(found.entries, 194)[0]
    Image.new("RGB", (128, 100)).save(tmp_path / "face00.png")
    with pytest.raises(BadFaceError, match="128×100 is not square"):
        found[0]


def test_an_unreadable_face_is_replaced_by_the_next(tmp_path: Path, faces: Faces) -> None:
    pairs = FacePairs(broken_set(tmp_path, faces, (1, 2)))
    assert torch.equal(pairs[0, 1]["gt"], pairs[0, 3]["gt"])
    assert [n in pairs[0, 1]["skipped"] for n in names()[:4]] == [False, True, True, False]
    assert pairs[0, 3]["skipped"] == ""
    with pytest.raises(UserError, match="6 faces in a row cannot be read"):
        FacePairs(broken_set(tmp_path, faces, tuple(range(COUNT))))[0, 0]


def files_run(tmp_path: Path, *more: str) -> list[str]:
    no_count = [s for s in TINY_RUN if not s.startswith("data.")]
    data = [f"data.train={tmp_path / 'data'}", f"data.validation={tmp_path / 'data'}"]
    return [*no_count, "data.kind=files", "data.workers=2", *data, *more]


def test_skipped_faces_are_counted_and_a_resumed_run_is_identical(
    tmp_path: Path, faces: Faces, capfd: pytest.CaptureFixture[str]
) -> None:
    broken_set(tmp_path / "data", faces, (1, 2))
    recipe = load_recipe("synthetic-demo", files_run(tmp_path))
    train(recipe, tmp_path / "whole")
    said = capfd.readouterr().err
    assert "skipped" in said
    assert "face01.png" in said
    assert said.count("omitted from validation: ") == 2
    train(recipe, tmp_path / "stopped", max_iters=3)
    train(recipe, tmp_path / "stopped", resume=True)
    one, two = (
        torch.load(tmp_path / run / "state.pth", weights_only=True) for run in ("whole", "stopped")
    )
    assert one["progressed"]["skipped"] == two["progressed"]["skipped"] > 0
    assert one["progressed"]["log"] == two["progressed"]["log"]
    assert one["progressed"]["log"][-1]["unreadable"] == 2
    for name, tensor in one["parts"]["generator"].items():
        assert torch.equal(tensor, two["parts"]["generator"][name]), name


def test_resuming_with_other_faces_is_refused(tmp_path: Path, faces: Faces) -> None:
    broken_set(tmp_path / "data", faces, ())
    recipe = load_recipe("synthetic-demo", files_run(tmp_path, "data.workers=0"))
    train(recipe, tmp_path / "run", max_iters=1)
    (tmp_path / "data").rename(tmp_path / "moved")
    moved = [f"data.{part}={tmp_path / 'moved'}" for part in ("train", "validation")]
    recipe = load_recipe("synthetic-demo", files_run(tmp_path, "data.workers=0", *moved))
    train(recipe, tmp_path / "run", max_iters=2, resume=True)  # the same faces in another folder
    (tmp_path / "moved" / "face00.png").unlink()
    with pytest.raises(UserError, match=r"was started with 6 faces, .* now there are 5 faces"):
        train(recipe, tmp_path / "run", resume=True)


def test_the_command_reports_invalid_data(here: Command, tmp_path: Path, faces: Faces) -> None:
    broken_set(tmp_path / "data", faces, tuple(range(COUNT)))
    run = ["train", "--recipe", "synthetic-demo", "--out", tmp_path / "run"]
    done = here(*run, *files_run(tmp_path, "data.workers=1"))
    assert "faces in a row cannot be read" in one_line_error(done, 2)
    done = here("train", "--recipe", "dic-celebahq", "--out", tmp_path / "run")
    assert "data/celebahq/train: neither a folder" in one_line_error(done, 2)
    assert not (tmp_path / "run" / "last.pth").exists()


def test_batches_depend_on_the_update_only() -> None:
    def take(count: int, **options: int) -> list[list[tuple[int, int]]]:
        batches = iter(Batches(10, 4, seed=3, **options))
        return [next(batches) for _ in range(count)]

    whole = take(7)
    assert take(4, start=3) == whole[3:]
    first_epoch = [index for batch in whole[:2] for _, index in batch]
    assert len(set(first_epoch)) == 8, "no face occurs twice in an epoch"
    assert [epoch for batch in whole for epoch, _ in batch] == [0] * 8 + [1] * 8 + [2] * 8 + [3] * 4
    two = [take(7, rank=rank, world=2) for rank in (0, 1)]
    assert [a + b for a, b in zip(*two, strict=True)] == whole
    parts = take(14, parts=2)
    assert [a + b for a, b in zip(parts[::2], parts[1::2], strict=True)] == whole
    with pytest.raises(UserError, match="only 3 faces"):
        Batches(3, 4, seed=0)


def test_a_mirrored_face_has_its_landmarks_mirrored(faces: Faces) -> None:
    pairs = FacePairs(FacesInMemory(*faces), flip=True, seed=5)
    plain = FacePairs(FacesInMemory(*faces))
    flipped = 0
    for epoch in range(6):
        one, two = pairs[epoch, 0], plain[epoch, 0]
        assert torch.equal(pairs[epoch, 0]["gt"], one["gt"]), "the same key returns the same pair"
        if not torch.equal(one["gt"], two["gt"]):
            flipped += 1
            assert torch.equal(one["gt"], two["gt"].flip(-1))
            left_eye, right_eye = one["landmarks"][36], two["landmarks"][45]
            assert left_eye[0].item() == pytest.approx(127 - right_eye[0].item(), abs=1e-4)
            expected = heatmaps(one["landmarks"].numpy())
            np.testing.assert_array_equal(one["heatmaps"].numpy(), expected)
    assert 0 < flipped < 6


def test_a_picture_over_the_budget_is_refused_by_its_header() -> None:
    """The file ends before its pixels, which decoding would report otherwise."""
    encoded = io.BytesIO()
    Image.new("RGB", (2000, 2000)).save(encoded, "png")
    start = encoded.getvalue()[:100]
    with pytest.raises(ValueError, match="needs up to 61 MB of memory, 1 MB are allowed"):
        read_picture(start, 2**20)


def test_a_file_beyond_the_machines_memory_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.data.datasets.share_of_core", lambda: 2**20)
    with (tmp_path / "a.png").open("wb") as file:
        file.truncate(2**40)  # of which the disk holds nothing
    with pytest.raises(ValueError, match=r"has 1 TB, 1 MB of memory are allowed"):
        FileRange(str(tmp_path / "a.png"), "a.png").read()
