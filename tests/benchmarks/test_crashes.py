"""Killed commands: the short form of `python -m benchmarks.crashes`."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.crashes import commands, crashed


def test_killed_batches_end_as_undisturbed_ones(
    tiny_engine: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    lines = commands(tmp_path, tiny_engine, tiny_checkpoint)
    result = crashed("photos", lines["photos"], tmp_path, kills=2, seed=1)
    assert result.right, result


def test_what_differs_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a command that writes another file each time, and leaves one behind."""
    (tmp_path / "x.py").write_text(
        "import os, pathlib, sys, time\n"
        "out = pathlib.Path(sys.argv[1])\n"
        "out.mkdir(exist_ok=True)\n"
        "(out / f'.left{os.getpid()}').touch()\n"
        "(out / 'a').write_text(str(time.time_ns()))\n"
    )
    monkeypatch.chdir(tmp_path)
    result = crashed("x", lambda out: ["x", str(out)], tmp_path, 1, 0)
    assert result.differing
    assert result.left
    assert not result.right
