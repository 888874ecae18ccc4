"""The library: `FaceRestorer`, its detectors, and how threads share an engine."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from dic.landmarks import decode
from dic.pixels import normalise, to_levels
from export.exporter import export
from export.graph.interface import Io, Signature, wrap
from runtime.engines.batching import Batcher, overlapped
from runtime.engines.load import load_engine
from runtime.faces.crop import Crop
from runtime.faces.detect import YuNetDetector
from runtime.pictures.header import ImageError
from runtime.restorer import FaceRestorer
from train.checkpoint import load_checkpoint
from train.data.pairs import shrink

Faces = tuple[np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def family(faces: Faces) -> np.ndarray:
    """Three synthetic faces of 24, 40 and 60 pixels on a plain wall, (300, 400, 3)."""
    image = np.full((300, 400, 3), 150, np.uint8)
    for index, size, x, y in ((0, 24, 60, 60), (3, 40, 200, 40), (5, 60, 290, 190)):
        small = Image.fromarray(faces[0][index]).resize((size, size), Image.Resampling.BICUBIC)
        image[y : y + size, x : x + size] = np.asarray(small)
    return image


class KnownFaces:
    """A detector that knows where the faces of `family` are."""

    def find(self, image: np.ndarray) -> list[Crop]:
        return [Crop(290, 190, 60), Crop(200, 40, 40), Crop(60, 60, 24)]


def test_a_picture_gives_its_faces(family: np.ndarray, faces: Faces) -> None:
    with FaceRestorer(device="cpu", detector=KnownFaces()) as restorer:
        found = restorer(family)
    assert [face.box[2] for face in found] == [60, 40, 24]
    for face, index in zip(found, (5, 3, 0), strict=True):
        assert face.image.shape == (128, 128, 3)
        assert face.landmarks is not None
        assert face.points is not None
        # the landmarks lie on the drawn face, at its place in the picture
        wanted = Crop(*face.box[:3]).to_picture(faces[1][index], 128)
        assert np.linalg.norm(face.points - wanted, axis=1).mean() < 0.08 * face.crop.size
        corner = face.matrix @ [0, 0, 1]
        assert np.abs(corner - [face.box[0] - 0.5, face.box[1] - 0.5]).max() < 1


def test_pictures_of_all_kinds_are_taken(
    family: np.ndarray, tiny_engine: Path, tmp_path: Path
) -> None:
    cv2.imwrite(str(tmp_path / "family.png"), family[:, :, ::-1])
    grey = cv2.cvtColor(family, cv2.COLOR_RGB2GRAY)
    with FaceRestorer(tiny_engine, device="cpu", detector=KnownFaces()) as restorer:
        wanted = [face.image for face in restorer(family)]
        same = {
            "file": tmp_path / "family.png",
            "name": str(tmp_path / "family.png"),
            "Pillow": Image.fromarray(family),
            "palette": Image.fromarray(family).convert("RGBA"),
            "tensor": torch.from_numpy(family),
        }
        for name, given in same.items():
            for a, b in zip(restorer(given), wanted, strict=True):
                assert np.abs(a.image.astype(int) - b).max() <= 1, name
        shown = [
            restorer(given)[0].image for given in (grey, Image.fromarray(grey), grey[..., None])
        ]
        np.testing.assert_array_equal(shown[0], shown[1])
        np.testing.assert_array_equal(shown[0], shown[2])
        deep = Image.fromarray(grey.astype(np.uint16) * 257)
        np.testing.assert_array_equal(restorer(deep)[0].image, shown[0])
        for wrong in ("x.png", family):
            with pytest.raises(ValueError, match="takes a list of crops"):
                restorer.restore(wrong)
        for given in (*same.values(), grey, deep):
            done = restorer.restore_photo(given)
            assert done.image.shape == (300 * done.scale, 400 * done.scale, 3)
        with pytest.raises(ImageError, match="No such file"):
            restorer("x")
        for wrong in (None, 3, family.astype(np.float32), family[:, :, :2], family[:0]):
            with pytest.raises(ValueError, match="a picture"):
                restorer(wrong)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pillows_pictures_are_turned_upright(orientation: int) -> None:
    """As Pillow turns them itself."""
    from PIL import ImageOps

    from runtime.pictures.inputs import as_rgb

    lying = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8))
    lying.getexif()[0x0112] = orientation
    np.testing.assert_array_equal(as_rgb(lying), np.asarray(ImageOps.exif_transpose(lying)))


def test_several_pictures_and_iterators(family: np.ndarray, tiny_engine: Path) -> None:
    taken = []

    def pictures(count: int) -> Iterator[np.ndarray]:
        for n in range(count):
            taken.append(n)
            yield family

    with FaceRestorer(tiny_engine, device="cpu", detector=KnownFaces()) as restorer:
        one = restorer(family)
        for several in ([family] * 3, np.stack([family] * 3), (family, family, family)):
            lists = restorer(several)
            assert [len(found) for found in lists] == [3, 3, 3]
            for found in lists:
                for a, b in zip(found, one, strict=True):
                    assert np.abs(a.image.astype(int) - b.image).max() <= 1
        results = restorer(pictures(100))
        next(results)
        assert len(taken) < 20, "an iterator is not read to its end before it is needed"
        results.close()
    assert restorer.engine.metadata.io == "image"
    with pytest.raises(ValueError, match="closed"):
        restorer(family)


def test_an_engine_that_was_given_stays_open(tiny_engine: Path) -> None:
    with load_engine(tiny_engine, "cpu") as engine:
        with FaceRestorer(engine) as restorer:
            restorer.restore([np.zeros((16, 16, 3), np.uint8)])
        assert engine.run({"image": np.zeros((1, 16, 16, 3), np.uint8)})


def test_tensor_engines_give_the_faces_of_every_step(
    tiny_checkpoint: Path, tmp_path: Path, faces: Faces
) -> None:
    """Against PyTorch, decoded by the training code."""
    network = load_checkpoint(tiny_checkpoint)
    path = tmp_path / "steps.onnx"
    signature = Signature(Io.TENSOR, 2, True, True)
    export(network, signature, path)
    crops = list(faces[0][:3])
    with FaceRestorer(path, device="cpu") as restorer:
        found = restorer.restore(crops)
    lq = torch.from_numpy(normalise(np.stack([shrink(crop) for crop in crops])))
    with torch.no_grad():
        given = [tensor.numpy() for tensor in wrap(network.network, signature)(lq)]
    steps, maps = given[:2], given[2:]
    points, scores = decode(maps[-1])
    image = wrap(network.network, Signature(Io.IMAGE, 2, True))
    with torch.no_grad():
        final = image(torch.from_numpy(np.stack([shrink(crop) for crop in crops])))[0].numpy()
    for i, face in enumerate(found):
        assert len(face.steps) == 2
        np.testing.assert_array_equal(face.steps[-1], face.image)
        assert np.abs(face.image.astype(int) - final[i]).max() <= 1
        assert np.abs(face.steps[0].astype(int) - to_levels(steps[0])[i]).max() <= 1
        assert face.landmarks is not None
        assert face.scores is not None
        assert (face.landmarks == points[i]).mean() > 0.99
        np.testing.assert_allclose(face.scores, scores[i], atol=1e-5)


def test_heatmaps_are_decoded_as_in_training() -> None:
    maps = np.random.default_rng(0).normal(size=(3, 68, 32, 32)).astype(np.float32)
    for ours, theirs in zip(decode(maps), decode(maps), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_batches_do_not_matter(tiny_engine: Path, faces: Faces) -> None:
    crops = list(faces[0][:9])
    with load_engine(tiny_engine, "cpu") as engine:
        one, seven = (
            [face.image for face in FaceRestorer(engine, batch=n).restore(crops)] for n in (1, 7)
        )
    assert len(one) == 9
    assert np.abs(np.stack(one).astype(int) - np.stack(seven)).max() <= 1


def test_threads_share_batches_and_get_their_own() -> None:
    ran: list[int] = []

    def run(items: Sequence[int]) -> list[int]:
        ran.append(len(items))
        time.sleep(0.005)
        return [item * item for item in items]

    batcher = Batcher(run, 4)
    results: dict[int, list[int]] = {}

    def work(n: int) -> None:
        results[n] = batcher([n, n + 100, n + 200])

    in_threads(work, 20)
    assert results == {n: [n**2, (n + 100) ** 2, (n + 200) ** 2] for n in range(20)}
    assert sum(ran) == 60
    assert max(ran) == 4
    assert len(ran) < 30, f"batches are not filled: {ran}"


def test_lanes_run_at_once_and_share_what_waits() -> None:
    running, most, ran = [0], [0], []
    lock = threading.Lock()

    def run(items: Sequence[int]) -> list[int]:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
            ran.append(len(items))
        time.sleep(0.005)
        with lock:
            running[0] -= 1
        return [-item for item in items]

    batcher = Batcher(run, 4, lanes=3)
    results: dict[int, list[int]] = {}

    def work(n: int) -> None:
        results[n] = [batcher([n])[0], *batcher([n, n + 100])]

    in_threads(work, 20)
    assert results == {n: [-n, -n, -n - 100] for n in range(20)}
    assert sum(ran) == 60
    assert most == [3]


def test_an_error_reaches_those_whose_run_it_was() -> None:
    def run(items: Sequence[int]) -> list[int]:
        if 3 in items:
            raise ValueError("three")
        return list(items)

    batcher = Batcher(run, 1)
    failed: list[int] = []

    def work(n: int) -> None:
        try:
            assert batcher([n]) == [n]
        except ValueError:
            failed.append(n)

    in_threads(work, 8)
    assert failed == [3]
    assert batcher([5]) == [5], "it goes on after an error"


def in_threads(work: Callable[[int], None], count: int) -> None:
    threads = [threading.Thread(target=work, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()


def test_overlapped_work_keeps_its_order_and_its_distance() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for n in range(50):
            taken.append(n)
            yield n

    def work(n: int) -> int:
        time.sleep(0.001 * (n % 3))
        return n

    results = overlapped(work, items(), 3)
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    assert len(taken) <= 5 + 6
    assert list(results) == list(range(5, 50))


@pytest.mark.parametrize("width", [12, 16, 30])
def test_small_faces_are_found(width: int) -> None:
    """The astronaut with a face, from brow to chin, of so many pixels, in a larger photograph."""
    import skimage.data

    astronaut = skimage.data.astronaut()
    side = round(512 * width / 98)  # 98 pixels wide in the original
    small = np.asarray(Image.fromarray(astronaut).resize((side, side), Image.Resampling.LANCZOS))
    image = np.full((900, 1200, 3), 128, np.uint8)
    image[300 : 300 + side, 500 : 500 + side] = small
    found = [c for c in YuNetDetector().find(image) if 450 < c.centre[0] < 500 + side]
    assert len(found) == 1
    middle = np.array([500, 300]) + np.array([225, 118]) * side / 512
    assert np.abs(found[0].centre - middle).max() < 0.25 * found[0].size


@pytest.mark.parametrize(("name", "scale"), [("coffee", 0.6), ("motorcycle", 0.2)])
def test_what_only_resembles_a_face_is_not_found(
    name: str, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cup, a motorcycle: found by a single pass, and not when looked at closely."""
    import skimage.data

    loaded = skimage.data.stereo_motorcycle()[0] if name == "motorcycle" else None
    picture = Image.fromarray(getattr(skimage.data, name)() if loaded is None else loaded)
    size = [round(side * scale) for side in picture.size]
    image = np.asarray(picture.convert("RGB").resize(size, Image.Resampling.BICUBIC))
    assert not YuNetDetector().find(image)
    monkeypatch.setattr(YuNetDetector, "CONFIRMED", 0)
    assert YuNetDetector().find(image)


@pytest.mark.parametrize("turn", [90, 135, 180, 270])
def test_turned_faces_are_found_and_turned_upright(turn: int) -> None:
    import skimage.data

    astronaut = Image.fromarray(skimage.data.astronaut()).crop((96, 0, 352, 256))
    image = np.asarray(astronaut.resize((160, 160)).rotate(-turn, fillcolor=(120, 120, 120)))
    (crop,) = YuNetDetector().find(image)
    off = (crop.angle - turn + 180) % 360 - 180
    assert abs(off) < 20, f"turned by {crop.angle:.0f}°, not {turn}°"


@pytest.mark.parametrize("size", [(1, 29), (3, 400), (400, 2)])
def test_pictures_of_few_lines_have_no_face(size: tuple[int, int]) -> None:
    """OpenCV's detector answers some with infinite boxes."""
    y, x = np.mgrid[: size[0], : size[1]] / max(size)
    for pattern in (np.sin(5 * x + 3 * y) * np.cos(4 * y - 2 * x), x + y, (x * 97) % 1):
        low, high = pattern.min(), max(pattern.max(), pattern.min() + 1e-6)
        image = np.repeat(((pattern - low) / (high - low) * 255).astype(np.uint8)[:, :, None], 3, 2)
        assert YuNetDetector().find(image) == []


def test_hundreds_of_faces_in_a_large_photograph(faces: Faces) -> None:
    """Larger than one tile; every face once."""
    image = np.full((2200, 2400, 3), 128, np.uint8)
    places = [(x, y) for y in range(100, 2050, 160) for x in range(60, 2200, 160)]
    for n, (x, y) in enumerate(places):
        image[y : y + 128, x : x + 128] = faces[0][n % len(faces[0])]
    found = YuNetDetector().find(image)
    centres = np.array([crop.centre for crop in found])
    hits = [int((np.abs(centres - (x + 64, y + 64)).max(1) < 32).sum()) for x, y in places]
    assert np.mean([hit == 1 for hit in hits]) > 0.9, f"{np.mean(hits):.2f} a face"
    assert len(found) < 1.05 * len(places)


def test_small_faces_are_left_out_where_larger_ones_are_asked_for(photo_file: Path) -> None:
    image = np.asarray(Image.open(photo_file).convert("RGB"))  # a face of some 24 pixels
    assert len(YuNetDetector(smallest=15).find(image)) == 1
    assert not YuNetDetector(smallest=60).find(image)


def test_detectors_work_in_threads(family: np.ndarray) -> None:
    detector = YuNetDetector()
    wanted, found = detector.find(family), dict[int, list[Crop]]()

    def work(n: int) -> None:
        found[n] = detector.find(family)

    in_threads(work, 4)
    assert all(crops == wanted for crops in found.values())


def test_a_yunet_that_is_none_is_refused(tmp_path: Path) -> None:
    from runtime.faces.detect import DetectorError

    (tmp_path / "model.onnx").write_bytes(b"no model")
    for name, why in (("absent.onnx", "no such file"), ("model.onnx", "not a YuNet model")):
        with pytest.raises(DetectorError, match=why):
            YuNetDetector(tmp_path / name)


def test_a_leaning_face_is_turned_upright(faces: Faces) -> None:
    """Framed upright, a face that leans by 35° is cut out anew, and the better for it."""
    index = next(i for i, p in enumerate(faces[1]) if abs(_lean(p)) < 2)
    padded = np.pad(faces[0][index], ((96, 96), (96, 96), (0, 0)), mode="edge")
    turn = cv2.getRotationMatrix2D((159.5, 159.5), -35, 1)
    leaning = cv2.warpAffine(padded, turn, (320, 320), borderMode=cv2.BORDER_REPLICATE)
    small = np.asarray(Image.fromarray(leaning).resize((80, 80), Image.Resampling.BICUBIC))
    with FaceRestorer(device="cpu") as restorer:
        (plain,) = restorer.restore_in(small, [Crop(24, 24, 32)], exact=True)
        (face,) = restorer.restore_in(small, [Crop(24, 24, 32)])
    assert plain.crop.angle == 0
    assert face.crop.angle == pytest.approx(35, abs=12)
    truth = (faces[1][index] - 63.5) / 4
    angle = np.radians(35)
    turned = truth @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    wanted = turned + 39.5
    assert face.points is not None
    assert plain.points is not None
    ours, before = (np.linalg.norm(p - wanted, axis=1).mean() for p in (face.points, plain.points))
    assert ours < before, f"{ours:.2f} px, unturned {before:.2f} px"


def _lean(points: np.ndarray) -> float:
    across, down = points[42:48].mean(0) - points[36:42].mean(0)
    return float(np.degrees(np.arctan2(down, across)))


def test_overlapping_faces_and_faces_at_the_border(family: np.ndarray) -> None:
    crops = [Crop(200, 40, 40), Crop(215, 50, 40), Crop(-10, -8, 40), Crop(380, 270, 50)]
    from runtime.pictures.picture import Picture

    with FaceRestorer(device="cpu") as restorer:
        done = restorer.restore_photo(Picture(family), crops, enlarge=2)
    assert len(done.faces) == 4
    plain = cv2.resize(family, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    touched = (done.picture.pixels != plain).any(2)
    allowed = np.zeros_like(touched)
    for crop in crops:
        x, y, size = 2 * crop.x, 2 * crop.y, 2 * crop.size
        allowed[max(y, 0) : y + size, max(x, 0) : x + size] = True
    assert touched.any()
    assert not (touched & ~allowed).any()
    # nothing tears: steps in the picture are hardly larger than in the enlarged one
    steps = [np.abs(np.diff(i.astype(int), axis=1)).max() for i in (done.picture.pixels, plain)]
    assert steps[0] <= steps[1] + 60


def test_invalid_options_are_refused_at_once(family: np.ndarray, tiny_engine: Path) -> None:
    for wrong in ({"batch": 0}, {"batch": -3}, {"refine": -1}):
        with pytest.raises(ValueError, match="at least"):
            FaceRestorer(tiny_engine, **wrong)
    with pytest.raises(TypeError):
        FaceRestorer(tiny_engine, batch=2.5)  # type: ignore[arg-type]
    with FaceRestorer(tiny_engine, detector=KnownFaces()) as restorer:
        for enlarge in (0, 9, -1):
            with pytest.raises(ValueError, match="enlarge must be 1 to 8"):
                restorer.restore_photo(family, enlarge=enlarge)
        with pytest.raises(ValueError, match="sharp"):
            restorer.restore_photo(family, background="sharp")
        done = restorer.restore_photo(family, enlarge=2, background="nearest")
    np.testing.assert_array_equal(done.image[:20:2, :20:2], family[:10, :10])


def test_what_signatures_name_can_be_imported() -> None:
    import runtime

    for name in runtime.__all__:
        assert getattr(runtime, name).__name__ == name
    assert runtime.ImageError is ImageError
