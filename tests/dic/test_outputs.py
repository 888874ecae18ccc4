"""No output replaces a file that is read, however its path is spelled."""

from __future__ import annotations

import os
import re
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Command, one_line_error
from PIL import Image

from dic.console import UserError
from dic.outputs import check_outputs, refuse_inputs, repeated
from runtime.engines.contract import SHIPPED
from train.recipe import recipe_path

NAME = "Café Straße.png"


def _detour(path: Path) -> Path:
    (path.parent / "folder").mkdir()
    return path.parent / "folder" / ".." / path.name


def _linked_folder(path: Path) -> Path:
    (path.parent / "way").symlink_to(path.parent)
    return path.parent / "way" / path.name


def _symbolic(path: Path) -> Path:
    (path.parent / "symbolic").symlink_to(path)
    return path.parent / "symbolic"


def _hard(path: Path) -> Path:
    os.link(path, path.parent / "hard")
    return path.parent / "hard"


SPELLINGS: dict[str, Callable[[Path], Path]] = {
    "itself": lambda path: path,
    "a detour": _detour,
    "a linked folder": _linked_folder,
    "a symbolic link": _symbolic,
    "a hard link": _hard,
    "another case": lambda path: path.with_name(path.name.upper()),
    "decomposed accents": lambda path: path.with_name(unicodedata.normalize("NFD", path.name)),
    "from here": lambda path: Path(os.path.relpath(path)),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_file_that_is_read_is_no_output(spelling: str, tmp_path: Path) -> None:
    read = tmp_path / NAME
    read.write_bytes(b"read")
    written = SPELLINGS[spelling](read)
    with pytest.raises(UserError, match="would be overwritten"):
        check_outputs([tmp_path / "other", written], [read])
    check_outputs([tmp_path / "new"], [read, tmp_path])
    assert not (tmp_path / "new").exists()


def test_files_of_a_folder_that_is_read_are_no_outputs(tmp_path: Path) -> None:
    inside = tmp_path / "faces" / "deep" / "a.png"
    inside.parent.mkdir(parents=True)
    inside.write_bytes(b"")
    (tmp_path / "link").symlink_to(tmp_path / "faces")
    with pytest.raises(UserError, match=r"a\.png: would be overwritten, and is in .*faces"):
        refuse_inputs([tmp_path / "link" / "deep" / "a.png"], [tmp_path / "faces"])
    refuse_inputs([tmp_path / "faces" / "new.onnx"], [tmp_path / "faces"])


def test_two_outputs_are_one_file_where_the_file_system_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = tmp_path / "a.png", tmp_path / "A.PNG"
    (tmp_path / "x").touch()
    folds = (tmp_path / "X").exists()
    assert (repeated([one, other]) is not None) == folds
    assert repeated([one, tmp_path / "b.png"]) is None
    (tmp_path / "way").symlink_to(tmp_path)
    assert repeated([one, tmp_path / "way" / "a.png"]) == (one, tmp_path / "way" / "a.png")
    monkeypatch.setattr("dic.outputs._ignores_case", lambda folder: True)  # as on macOS
    assert repeated([one, other]) == (one, other)


COMMANDS: dict[str, list[str]] = {
    "runtime.infer": ["FACES/a.png", "-o", "OUT.png", "--engine", "ENGINE", "--summary", "ENGINE"],
    "runtime.serve": ["--engine", "a=ENGINE", "--write-config", "ENGINE"],
    "export.onnx": ["CKPT", "-o", "FACES/a.onnx", "--faces", "FACES"],
    "export.tensorrt": ["ENGINE", "-o", "OUT.trt", "--timing-cache", "ENGINE"],
    "export.triton": ["ENGINE", "-o", "MODELS"],
    "train": ["--recipe", "synthetic-demo", "--out", "RUN", "start=RUN/best.pth"],
    "train.prepare": ["FACES", "--out", "SET", "--crop", "none", "--workers", "1"],
    "benchmarks": ["accuracy", "-e", "ENGINE", "--reference", "CKPT", "--json", "ENGINE"],
    "benchmarks.pipeline": ["--engine", "ENGINE", "--json", "ENGINE"],
    "benchmarks.portraits": ["--engine", "ENGINE", "--json", "ENGINE"],
    "benchmarks.serve": ["fuzz", "--engine", "ENGINE", "--json", "ENGINE"],
    "benchmarks.training": ["--recipe", "RECIPE", "--json", "RECIPE"],
    "benchmarks.demo": ["--engine", "RUN/small.png", "--out", "RUN"],
    "benchmarks.gpu_check": ["--checkpoint", "RUN/log.txt", "--out", "RUN"],
}


@pytest.mark.parametrize("module", COMMANDS)
def test_no_command_writes_over_what_it_reads(module: str, tmp_path: Path, here: Command) -> None:
    """Before anything is loaded: but for Triton's, these engines and checkpoints are none."""
    engine = tmp_path / "models" / "dic" / "1" / "model.onnx"
    files = {name: tmp_path / name for name in ("ckpt.pth", "faces/a.onnx", "run/best.pth")}
    files |= {name: tmp_path / name for name in ("run/small.png", "run/log.txt")}
    for path in (engine, *files.values()):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"read")
    if module == "export.triton":
        engine.write_bytes(SHIPPED.read_bytes())
    shutil.copy(recipe_path("synthetic-demo"), tmp_path / "recipe.toml")
    Image.fromarray(np.zeros((128, 128, 3), np.uint8)).save(tmp_path / "faces" / "a.png")
    points = "\n".join(f"{n} {n}" for n in range(68))
    (tmp_path / "faces" / "a.pts").write_text(f"version: 1\nn_points: 68\n{{\n{points}\n}}\n")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train").symlink_to(tmp_path / "faces")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    places = {
        "ENGINE": engine,
        "CKPT": files["ckpt.pth"],
        "RECIPE": tmp_path / "recipe.toml",
        **{name.upper(): tmp_path / name for name in ("faces", "models", "run", "set", "out")},
    }
    line = []
    for word in COMMANDS[module]:
        for name, path in places.items():
            word = re.sub(rf"\b{name}\b", str(path), word)
        line.append(word)
    assert "would be overwritten" in one_line_error(here(module, *line), 2)
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert after == before
