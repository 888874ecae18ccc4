"""One-line errors and exit statuses of commands."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, Command, one_line_error

from dic.console import UserError
from dic.files import check_writable, remove_partial_files, write_together, write_whole


@pytest.mark.parametrize(
    ("raised", "printed"),
    [
        ("UserError('it broke')", "error: it broke"),
        (
            "ModuleNotFoundError(name='torch')",
            "error: torch is not installed; pip install 'dic-toolkit[train]'",
        ),
        ("MemoryError()", "error: out of memory"),
        ("OSError(13, 'Permission denied', '/x/y')", "error: /x/y: Permission denied"),
    ],
)
def test_user_errors_are_printed_in_one_line(raised: str, printed: str) -> None:
    code = (
        f"from dic.console import *\ndef main(arguments):\n    raise {raised}\nrun(main, 'train')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (2, printed + "\n")


@pytest.mark.parametrize(
    "module",
    [
        *("runtime.infer", "runtime.serve", "export.onnx", "export.tensorrt", "export.triton"),
        *("export.inspect", "train", "train.prepare", "train.pretrained", "benchmarks"),
        *("benchmarks.training", "benchmarks.detector", "benchmarks.portraits"),
        *("benchmarks.gpu_check", "benchmarks.demo"),
    ],
)
def test_every_command_ends_with_its_exit_status(module: str, command: Command) -> None:
    """As a process; other tests call its `cli` in their own."""
    done = command(module, "--nonsense")
    assert f"(see python -m {module} --help)" in one_line_error(done, 2)
    assert done.stderr.count("\n") == 1


def test_progress_without_a_terminal_prints_few_lines() -> None:
    code = (
        "from dic.progress import Progress\n"
        "with Progress(range(300), desc='work') as bar:\n"
        "    for i in bar:\n"
        "        if i % 100 == 0: bar.say(f'at {i}')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    lines = done.stderr.splitlines()
    assert [line for line in lines if line.startswith("at ")] == ["at 0", "at 100", "at 200"]
    assert lines[-1].startswith("work: 100% 300/300")
    assert len(lines) == 4, "the end is printed once"
    assert "\r" not in done.stderr


def test_a_file_is_written_atomically(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    write_whole(path, b"first")
    assert path.read_bytes() == b"first"
    with pytest.raises(UserError, match="cannot be written"):
        write_whole(path / "below", b"x")
    with pytest.raises(UserError, match="too long"):
        write_whole(tmp_path / ("x" * 300), b"x")
    assert [p.name for p in path.parent.iterdir()] == ["file"]
    assert [p.name for p in tmp_path.iterdir()] == ["new"]


def test_several_files_are_written_atomically(tmp_path: Path) -> None:
    new = tmp_path / "new" / "deep"
    with pytest.raises(UserError, match="cannot be written"):
        write_together({new / "one": b"1", new / ("x" * 300): b"2"})
    assert not list(tmp_path.iterdir()), "folders created for them are removed too"
    write_together({new / "one": b"1", new / "two": b"2"})
    with pytest.raises(UserError, match="is a folder"):
        write_together({new / "one": b"changed", new: b"x"})
    assert (new / "one").read_bytes() == b"1"


@pytest.mark.parametrize("nth", [0, 1, 2])
def test_a_disk_that_is_full_at_the_nth_file_leaves_all_as_they_were(
    nth: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [tmp_path / name for name in "abc"]
    write_together(dict.fromkeys(files, b"old"))
    flushed = iter(range(3))

    def fsync(_: int) -> None:
        if next(flushed) == nth:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(UserError, match=f"{files[nth]}: cannot be written: No space left"):
        write_together(dict.fromkeys([*files, tmp_path / "new" / "d"], b"new"))
    assert sorted(tmp_path.iterdir()) == files
    assert [path.read_bytes() for path in files] == [b"old"] * 3


def test_files_that_a_kill_left_are_removed_and_no_others(tmp_path: Path) -> None:
    outputs = [tmp_path / name for name in ("a.png", "clip.mkv", "x" * 60, "no suffix")]
    outputs.append(tmp_path / "missing" / "a.png")
    left = [".a.png.0123abcd", ".a.png.0123abcd.png", f".{'x' * 40}.0123abcd"]
    left += [".clip.mkv.89abcdef.mkv", ".no suffix.00000000"]
    kept = [".a.png", ".a.png.0123abc", ".b.png.0123abcd", "a.png.0123abcd", ".a.png.0123abcd.mkv"]
    for name in left + kept:
        (tmp_path / name).touch()
    remove_partial_files(outputs)
    assert {path.name for path in tmp_path.iterdir()} == set(kept)


def test_check_writable_leaves_no_trace_and_rejects_impossible_paths(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "b" / "c")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Not a directory"):
        check_writable(tmp_path / "file" / "x" / "y")


@pytest.mark.parametrize("closing", ["2>&-", "2>&1 >/dev/null | head -c 1 >/dev/null"])
def test_work_continues_when_standard_error_is_closed(closing: str, tmp_path: Path) -> None:
    """E.g. when the user quits the pager that shows the messages."""
    script = (
        "import sys, pathlib\n"
        "from dic.console import run\n"
        "def main(arguments):\n"
        "    for n in range(4000):\n"
        "        print('message', n, file=sys.stderr)\n"
        "    pathlib.Path(arguments[0]).write_text('done')\n"
        "    return 1\n"
        "run(main, 'cpu')\n"
    )
    (tmp_path / "script.py").write_text(script)
    for unbuffered in ("", "1"):
        line = f"{sys.executable} {tmp_path}/script.py {tmp_path}/done{unbuffered} {closing}"
        line += "; exit ${PIPESTATUS[0]}"
        done = subprocess.run(
            ["bash", "-c", line],
            check=False,
            env=os.environ | {"PYTHONUNBUFFERED": unbuffered, "PYTHONPATH": str(ROOT)},
        )
        assert done.returncode == 1
        assert (tmp_path / f"done{unbuffered}").read_text() == "done"
