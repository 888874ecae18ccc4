"""The wheel: built, installed by itself, and run from there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from conftest import ROOT


def test_the_wheel_holds_all_that_its_command_needs(tmp_path: Path, face_file: Path) -> None:
    """From a copy of the sources, so that nothing is left among them."""
    sources, installed = tmp_path / "sources", tmp_path / "installed"
    names = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    for name in names:
        if (ROOT / name).is_file() and not name.startswith("tests/"):
            (sources / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, sources / name)
    line = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    done = subprocess.run(
        [*line, "--target", str(installed), str(sources)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for name in (
        "runtime/models/dic-photoreal.onnx",
        "runtime/models/dic-photoreal.json",
        "train/weights/dic-photoreal.pth",
        "train/recipes/dic-celebahq.toml",
        "dic/engine_file.py",
        "runtime/cuda/kernels.cu",
        "runtime/cuda/common.h",
        "export/templates/model.py",
        "bin/dic-infer",
    ):
        assert (installed / name).is_file(), name
    assert not (installed / "tests").exists()
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    where = "import runtime.infer; print(runtime.infer.__file__)"
    for command in (
        [sys.executable, "-c", where],
        [sys.executable, str(installed / "bin" / "dic-infer"), str(face_file), "-o", "sharp.png"],
    ):
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, env=environment
        )
        assert done.returncode == 0, done.stderr
        if "-c" in command:
            assert done.stdout.startswith(str(installed))
    assert (tmp_path / "sharp.png").is_file()
