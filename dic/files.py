"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import glob
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from dic.console import UserError


def write_whole(path: Path, data: bytes | memoryview) -> None:
    """Write a file so that it appears whole or not at all; see `write_together`."""
    write_together({path: data})


def write_together(files: Mapping[Path, bytes | bytearray | memoryview]) -> None:
    """Write files so that all appear, whole, or none: beside them first, then renamed.

    Only a power cut or a kill between two renamings leaves some old and some new.

    Raises:
        UserError: the folder or the disk does not take one; older files stay as they were.
    """
    written: dict[Path, Path] = {}
    made: list[Path] = []  # folders, outermost first
    path = Path()
    try:
        for path, data in files.items():
            if path.is_dir():
                raise UserError(f"{path}: is a folder; a file is to be written there")
            if not path.parent.is_dir():
                made += reversed([folder for folder in path.parents if not folder.exists()])
                path.parent.mkdir(parents=True, exist_ok=True)
            written[path] = _unfinished(path)
            with written[path].open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        for path in files:
            os.replace(written[path], path)
            del written[path]
        made.clear()
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        for temporary in written.values():
            with contextlib.suppress(OSError):
                temporary.unlink()
        for folder in reversed(made):
            with contextlib.suppress(OSError):
                folder.rmdir()


@contextlib.contextmanager
def beside(path: Path) -> Iterator[Path]:
    """For what writes a file itself: a path beside `path`, put in its place at the end.

    Raises:
        UserError: the folder cannot be written to. After any error nothing is left.
    """
    if path.is_dir():
        raise UserError(f"{path}: is a folder; a file is to be written there")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _unfinished(path, path.suffix)
        temporary.touch(exist_ok=False)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error
    try:
        yield temporary
        try:
            os.replace(temporary, path)
        except OSError as error:
            raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _unfinished(path: Path, suffix: str = "") -> Path:
    """A new name beside `path` for what is not whole yet."""
    return path.with_name(f"{_mark(path)}{os.urandom(4).hex()}{suffix}")


def _mark(path: Path) -> str:
    """How the names of files begin that are not whole yet."""
    return f".{path.name[:40]}."


def sweep(path: Path) -> None:
    """Remove what a killed process left half-written beside `path`. No other may be writing it."""
    if path.parent.is_dir():
        named = glob.escape(_mark(path)) + "[0-9a-f]" * 8  # as `_unfinished` names them
        for ending in ("", glob.escape(path.suffix)):
            for left in path.parent.glob(named + ending):
                with contextlib.suppress(OSError):
                    left.unlink()


def check_writable(path: Path) -> None:
    """Raise UserError where a file could not be written, before long work for it."""
    if path.is_dir():
        raise UserError(f"{path}: is a folder; a file is to be written there")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error
