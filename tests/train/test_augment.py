"""Augmentation and degradation: correct landmarks, undegraded targets, reproducible pairs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY_RUN, Command, one_line_error
from numpy.typing import NDArray
from PIL import Image

from train.data.augment import degraded, varied
from train.data.datasets import FacesInMemory, open_faces
from train.data.pairs import FacePairs, shrink
from train.data.pictures import Picture
from train.prepare import main as prepare
from train.recipe import Augment, Degrade, load_recipe

Faces = tuple[NDArray[np.uint8], NDArray[np.float32]]
DOTS = np.array([[75, 80], [125, 84], [112, 125], [85, 122]], np.float32)


def dotted() -> Picture:
    """A picture with a bright dot at every landmark."""
    y, x = np.mgrid[:220, :200]
    light = sum(np.exp(-((x - px) ** 2 + (y - py) ** 2) / 18) for px, py in DOTS)
    image = np.repeat((40 + 200 * light).clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)
    return Picture(image, DOTS, (20, 20, 180, 180))


def test_augmentation_moves_the_landmarks_with_the_image() -> None:
    how = Augment(turn=30, scale=0.2, shift=0.1)
    worst, turns = 0.0, []
    for seed in range(40):
        image, points = varied(dotted(), how, np.random.default_rng(seed))
        assert image.shape == (128, 128, 3)
        for px, py in points:
            x, y = round(px), round(py)
            near = image[y - 7 : y + 8, x - 7 : x + 8, 0].astype(np.float64) - 40
            rows, columns = np.mgrid[y - 7 : y + 8, x - 7 : x + 8]
            found = np.array([(near * columns).sum(), (near * rows).sum()]) / near.sum()
            worst = max(worst, float(np.abs(found - (px, py)).max()))
        turns.append(np.degrees(np.arctan2(*(points[1] - points[0])[::-1])))
    assert worst < 0.2, f"a dot is {worst:.2f} px from its landmark"
    assert min(turns) < -15 < 20 < max(turns)


def test_augmentation_with_zero_ranges_equals_the_plain_crop() -> None:
    picture = dotted()
    image, points = varied(picture, Augment(), np.random.default_rng(0))
    wanted, known = picture.face()
    np.testing.assert_allclose(points, known, atol=1e-4)
    error = np.abs(image.astype(int) - wanted).max()
    assert error <= 2, f"differs from Pillow by {error} levels"


def test_conversion_to_grey_and_random_exposure(faces: Faces) -> None:
    picture = Picture.of((faces[0][0], faces[1][0]))
    grey, _ = varied(picture, Augment(grey=1), np.random.default_rng(0))
    luma = np.asarray(Image.fromarray(faces[0][0]).convert("L")).astype(int)
    assert (grey[..., 0] == grey[..., 2]).all()
    assert np.abs(grey[..., 0] - luma).max() <= 2
    means = [
        varied(picture, Augment(exposure=0.2), np.random.default_rng(seed))[0].mean()
        for seed in range(20)
    ]
    assert max(means) > 1.2 * min(means)


def test_inputs_that_are_not_degraded_are_those_of_the_paper(faces: Faces) -> None:
    rng = np.random.default_rng(0)
    for face in faces[0][:4]:
        np.testing.assert_array_equal(shrink(degraded(face, Degrade(share=0), rng)), shrink(face))
    off = [
        np.abs(shrink(degraded(face, Degrade(share=1), rng)).astype(int) - shrink(face)).mean()
        for face in faces[0]
    ]
    assert 1 < np.mean(off) < 10, f"{np.mean(off):.1f} levels"


def test_pairs_depend_on_their_key_only_and_targets_are_not_degraded(faces: Faces) -> None:
    recipe = replace(
        load_recipe("synthetic-demo"),
        augment=Augment(turn=10, scale=0.1, colour=0.1),
        degrade=Degrade(share=1),
    )
    given = FacesInMemory(*faces)
    pairs = FacePairs.training(given, recipe)
    one, again, later = pairs[3, 7], FacePairs.training(given, recipe)[3, 7], pairs[4, 7]
    for name in ("lq", "gt", "heatmaps", "landmarks"):
        assert torch.equal(one[name], again[name])  # type: ignore[literal-required]
    assert not torch.equal(one["gt"], later["gt"])
    clean = FacePairs(given, flip=True, seed=recipe.seed, augment=recipe.augment)[3, 7]
    assert torch.equal(one["gt"], clean["gt"])
    assert not torch.equal(one["lq"], clean["lq"])


def test_drawn_faces_are_mixed_in_and_never_repeat(faces: Faces) -> None:
    pairs = FacePairs(FacesInMemory(faces[0][:6], faces[1][:6]), drawn=0.4)
    assert len(pairs) == 10
    drawn = {pairs[epoch, index]["gt"].numpy().tobytes() for epoch in (0, 1) for index in range(10)}
    assert len(drawn) == 6 + 2 * 4


def test_a_margin_is_stored_with_the_box_of_the_face(tmp_path: Path, faces: Faces) -> None:
    source, out, plain = tmp_path / "in", tmp_path / "out", tmp_path / "plain"
    source.mkdir()
    marks = {}
    for i in range(4):
        big = Image.fromarray(faces[0][i]).resize((256, 256), Image.Resampling.BICUBIC)
        photo = Image.new("RGB", (400, 300), (90, 90, 90))
        photo.paste(big, (50, 20))
        photo.save(source / f"{i}.png")
        marks[f"{i}.png"] = ((faces[1][i] + 0.5) * 2 - 0.5 + (50, 20)).tolist()
    (tmp_path / "marks.json").write_text(json.dumps(marks))
    line = [str(source), "--landmarks", str(tmp_path / "marks.json"), "--workers", "1", "--out"]
    assert prepare([*line, str(out), "--margin", "0.25"]) == 0
    assert prepare([*line, str(plain)]) == 0
    wide, cut = (open_faces(str(folder / "train"), "", 68) for folder in (out, plain))
    for i in range(4):
        (image, points), (wanted, known) = wide[i], cut[i]
        np.testing.assert_array_equal(image, wanted)
        np.testing.assert_allclose(points, known, atol=1e-3)
        left, _, right, _ = wide.picture(i).box
        assert wide.picture(i).image.shape[1] > 1.2 * (right - left)
    assert prepare([*line, str(out), "--margin", "0.25"]) == 0, "continues the same data set"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (["augment.turns=3"], "did you mean 'augment.turn'"),
        (["augment.shift=0.9"], "augment.shift"),
        (["degrade.jpeg=0"], "degrade.jpeg"),
        (["data.train=x", "data.validation=y", "data.drawn=1"], "data.drawn"),
        (["data.train=x", "data.validation=y", "data.drawn=0.5", "network.landmarks=5"], "drawn"),
    ],
)
def test_invalid_fields_are_reported_in_one_line(
    here: Command, tmp_path: Path, fields: list[str], message: str
) -> None:
    done = here("train", "--recipe", "synthetic-demo", "--out", tmp_path / "out", *fields)
    assert message in one_line_error(done, 2)
    assert not (tmp_path / "out").exists()


def test_a_run_on_mixed_and_augmented_faces(tmp_path: Path, faces: Faces, here: Command) -> None:
    for part, some in (("train", range(6)), ("validation", range(6, 8))):
        (tmp_path / part).mkdir()
        for i in some:
            Image.fromarray(faces[0][i]).save(tmp_path / part / f"{i}.png")
            (tmp_path / part / f"{i}.json").write_text(
                json.dumps({"landmarks": faces[1][i].tolist(), "bbox": [4, 4, 124, 124]})
            )
    small = [field for field in TINY_RUN if not field.startswith("data.")]
    where = [f"data.train={tmp_path / 'train'}", f"data.validation={tmp_path / 'validation'}"]
    out = tmp_path / "run"
    done = here("train", "--recipe", "dic-photoreal", "--out", out, *small, *where)
    assert done.returncode == 0, done.stderr
    assert "iteration 6" in done.stderr
    assert (out / "best.pth").exists()
