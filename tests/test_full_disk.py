"""Commands whose disk is full, or whose folder is removed, while they write: each ends with one
line, leaves nothing half-written, and run again does what an undisturbed run does.

`runtime.infer` and `export.tensorrt` have such tests of their own.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY_RUN, Command, one_line_error
from numpy.typing import NDArray
from PIL import Image

from benchmarks.crashes import contents
from train.data.annotations import encode_pts


@pytest.fixture
def lines(
    tmp_path: Path, tiny_checkpoint: Path, faces: tuple[NDArray[np.uint8], NDArray[np.float32]]
) -> dict[str, list[object]]:
    """The commands, without the folder that they write to."""
    source = tmp_path / "faces"
    source.mkdir()
    for n in range(6):
        Image.fromarray(faces[0][n]).save(source / f"{n}.png")
        (source / f"{n}.pts").write_bytes(encode_pts(faces[1][n]))
    prepare = ["train.prepare", source, "--crop", "none", "--workers", 1]
    return {
        "export": ["export.onnx", tiny_checkpoint, "--external-data", "-o"],
        "prepare": [*prepare, "--validation", 2, "--out"],
        "shards": [*prepare, "--shards", 3, "--out"],
        "train": [
            *("train", "--recipe", "synthetic-demo", "--resume", *TINY_RUN, "save_every=2"),
            "--out",
        ],
    }


def full(handle: int, folder: Path) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def removed(handle: int, folder: Path) -> None:
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("name", "writes", "faults"),
    [
        ("export", 2, [(full, 1), (full, 2), (removed, 2)]),
        ("prepare", 15, [(full, 1), (full, 3), (full, 14), (full, 15), (removed, 4)]),
        ("shards", 7, [(full, 2), (full, 5)]),
        ("train", 14, [(full, 14), (removed, 6)]),
    ],
)
def test_commands_end_in_one_line_and_can_be_run_again(
    name: str,
    writes: int,
    faults: list[tuple[Callable[[int, Path], None], int]],
    lines: dict[str, list[object]],
    tmp_path: Path,
    here: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, calls = os.fsync, 0

    def run(
        folder: Path, fault: Callable[[int, Path], None] | None = None, nth: int = 0
    ) -> subprocess.CompletedProcess[str]:
        nonlocal calls

        def sync(handle: int) -> None:
            nonlocal calls
            calls += 1
            if fault and calls == nth:
                fault(handle, folder)
            else:
                real(handle)

        calls = 0
        monkeypatch.setattr(os, "fsync", sync)
        return here(*lines[name], folder / "dic.onnx" if name == "export" else folder)

    whole = tmp_path / "whole"
    assert run(whole).returncode == 0
    wanted = contents(whole)
    assert calls == writes
    for number, (fault, nth) in enumerate(faults):
        disturbed = tmp_path / f"disturbed{number}"
        why = one_line_error(run(disturbed, fault, nth), 2)
        assert "cannot be written: No s" in why  # "No space left on device", "No such file …"
        left = contents(disturbed) if disturbed.exists() else {}
        assert not set(left) - set(wanted), (nth, left)
        assert run(disturbed).returncode == 0
        assert contents(disturbed) == wanted, nth
