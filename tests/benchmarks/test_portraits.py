"""Real portraits, compared with their originals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from conftest import Command, one_line_error
from PIL import Image

from benchmarks import portraits
from dic.metrics import psnr
from runtime.faces.crop import Crop


def test_the_portraits_are_what_they_are_called() -> None:
    assert portraits.astronaut().shape == (512, 512, 3)
    assert portraits.grace_hopper().shape == (600, 512, 3)


def test_a_comparison_is_of_the_face_alone() -> None:
    original = portraits.astronaut()
    face = Crop(150, 20, 160)
    small = portraits.shrunk(original, face, 20)
    assert small.shape == (64, 64, 3)
    compared = portraits.compare("astronaut", original, small, original, face)
    assert compared.width == 20
    assert compared.restored > 40, "the original itself"
    bicubic = Image.fromarray(small).resize((512, 512), Image.Resampling.BICUBIC)
    crops = (np.asarray(image)[20:180, 150:310] for image in (bicubic, original))
    shown = [np.asarray(Image.fromarray(crop).resize((128, 128), 3)) for crop in crops]
    assert compared.bicubic == psnr(*shown)


def test_the_command(command: Command, tiny_engine: Path, tmp_path: Path) -> None:
    sheet, results = tmp_path / "sheet.jpg", tmp_path / "results.json"
    done = command(
        "benchmarks.portraits", "--engine", tiny_engine, "--json", results, "--out", sheet
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(results.read_text())["portraits"]
    assert len(rows) == len(portraits.PORTRAITS) * len(portraits.WIDTHS)
    assert portraits.table(rows) in done.stdout
    with Image.open(sheet) as image:
        assert image.width == 4 * portraits.TILE + 3 * 8
    wrong = command("benchmarks.portraits", "--out", tmp_path / "sheet.gif")
    assert "name a .png or .jpg" in one_line_error(wrong, 2)
