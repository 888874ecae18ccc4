"""Outputs that must not replace inputs, names that must match, and wrong values in the library."""

from __future__ import annotations

import math
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from conftest import Command, one_line_error
from PIL import Image

from dic.console import UserError
from runtime import Crop, DetectorError, FaceRestorer, load_engine
from runtime.faces.options import PhotoOptions
from runtime.jobs.boxes import Boxes
from runtime.jobs.paths import Job
from runtime.jobs.pictures import PictureWork

BOX = "photo.png,0,0,40,40\n"


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(np.full((40, 40, 3), 128, np.uint8)).save(path)
    return path


@pytest.mark.parametrize("way", ["itself", "a symbolic link", "a hard link", "a detour"])
@pytest.mark.parametrize("option", ["--summary", "-o"])
@pytest.mark.parametrize("victim", ["boxes", "engine", "photo"])
def test_no_output_replaces_a_file_that_is_read(
    victim: str,
    option: str,
    way: str,
    photo: Path,
    tiny_engine: Path,
    tmp_path: Path,
    here: Command,
) -> None:
    boxes, engine = tmp_path / "boxes.csv", tmp_path / "engine.onnx"
    boxes.write_text(BOX)
    engine.write_bytes(tiny_engine.read_bytes())
    target = {"boxes": boxes, "engine": engine, "photo": photo}[victim]
    content = target.read_bytes()
    alias = target
    if way == "a detour":
        (tmp_path / "folder").mkdir()
        alias = tmp_path / "folder" / ".." / target.name
    elif way != "itself":
        alias = tmp_path / "alias.png"
        if way == "a symbolic link":
            alias.symlink_to(target)
        else:
            os.link(target, alias)
    outputs = {"-o": tmp_path / "out.png", "--summary": tmp_path / "summary.json"} | {option: alias}
    line = [part for pair in outputs.items() for part in pair]
    done = here("runtime.infer", "--boxes", boxes, photo, "--engine", engine, *line)
    message = one_line_error(done, 2)
    if option == "--summary" or alias.suffix == ".png":
        assert "would be overwritten" in message
    assert target.read_bytes() == content
    assert not (tmp_path / "summary.json").exists()


def test_names_are_compared_normalised(tmp_path: Path) -> None:
    (tmp_path / "boxes.csv").write_text("café.png,1,1,30,30\n", encoding="utf-8")
    boxes = Boxes(tmp_path / "boxes.csv")
    for form in ("NFC", "NFD"):
        name = Path("album") / unicodedata.normalize(form, "café.png")
        assert [crop.size for crop in boxes.of(name, True)] == [30]


def test_boxes_of_other_pictures_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "boxes.csv").write_text("x.png,1,1,30,30\n")
    boxes = Boxes(tmp_path / "boxes.csv")
    boxes.check([Path("a/y.png"), Path("a/x.png")])
    with pytest.raises(UserError, match="no entry for any of the 2 pictures"):
        boxes.check([Path("a/y.png"), Path("a/z.png")])


def test_a_result_fits_its_format(tiny_engine: Path, tmp_path: Path) -> None:
    """WebP holds 16,383 pixels a side; the face needs to be enlarged four times."""
    wide = tmp_path / "wide.png"
    Image.fromarray(np.full((40, 6000, 3), 128, np.uint8)).save(wide)
    (tmp_path / "boxes.csv").write_text("wide.png,4,4,32,32\n")
    with load_engine(tiny_engine, "cpu") as engine, FaceRestorer(engine) as restorer:
        work = PictureWork(restorer, PhotoOptions(), Boxes(tmp_path / "boxes.csv"))
        done = work(Job(wide, tmp_path / "wide.webp", {}, named=True))
    assert done.status == "restored", done.message
    assert "enlarged 2×, and not 4×" in done.message
    with Image.open(tmp_path / "wide.webp") as written:
        assert written.size == (12_000, 80)


@pytest.mark.parametrize("wrong", [{"size": 0}, {"size": -5}, {"angle": math.nan}])
def test_crops_that_cannot_be_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="a crop has a size of at least 1 pixel"):
        Crop(**({"x": 1, "y": 1, "size": 9} | wrong))


def test_detectors_that_are_none_are_refused(tiny_engine: Path, tmp_path: Path) -> None:
    with load_engine(tiny_engine, "cpu") as engine:
        with pytest.raises(DetectorError, match="no such file"):
            FaceRestorer(engine, detector="haar")
        with pytest.raises(ValueError, match="a detector has a method find, int has none"):
            FaceRestorer(engine, detector=3)  # type: ignore[arg-type]
