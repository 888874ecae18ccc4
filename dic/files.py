"""Atomic file output: a file appears complete, or the old one stays."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from dic.console import UserError


def write_whole(path: Path, data: bytes | memoryview) -> None:
    """Write one file atomically; see `write_together`."""
    write_together({path: data})


def write_json(path: Path, content: object) -> None:
    """Write a value as indented JSON, whole or not at all; raises UserError as `write_whole`."""
    write_whole(path, (json.dumps(content, indent=1) + "\n").encode())


def write_together(files: Mapping[Path, bytes | bytearray | memoryview]) -> None:
    """Write several files so that either all of them appear, complete, or none does.

    All are first written under temporary names in their folders, then renamed. Missing folders are
    created. Only a power failure or a kill between two renames leaves a mixture of old and new.

    Args:
        files: content by path.

    Raises:
        UserError: a file cannot be written; existing files are unchanged.
    """
    written: dict[Path, Path] = {}
    made: list[Path] = []  # created folders, outermost first
    path = Path()
    try:
        for path, data in files.items():
            _refuse_folder(path)
            if not path.parent.is_dir():
                made += reversed([folder for folder in path.parents if not folder.exists()])
                path.parent.mkdir(parents=True, exist_ok=True)
            written[path] = _temporary_name(path)
            with written[path].open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        for path in files:
            os.replace(written[path], path)
            del written[path]
        made.clear()
    except OSError as error:
        raise _not_writable(path, error) from error
    finally:
        for temporary in written.values():
            with contextlib.suppress(OSError):
                temporary.unlink()
        for folder in reversed(made):
            with contextlib.suppress(OSError):
                folder.rmdir()


def open_regular(path: Path) -> io.BufferedReader:
    """Open a file for reading that is needed at once: not a pipe, whose content may never come.

    Raises:
        UserError: it is a pipe, socket or device.
        OSError: it cannot be opened, or is a folder.
    """
    if not (stat.S_ISREG(kind := path.stat().st_mode) or stat.S_ISDIR(kind)):
        raise UserError(f"{path}: is a pipe or a device; give a file")
    return path.open("rb")


@contextlib.contextmanager
def partial_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; rename it to `path` at the end.

    For libraries that write a file themselves. After an error the temporary file is removed and
    `path` is unchanged.

    Raises:
        UserError: the file cannot be written.
    """
    _refuse_folder(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _temporary_name(path, path.suffix)
        temporary.touch(exist_ok=False)
    except OSError as error:
        raise _not_writable(path, error) from error
    try:
        yield temporary
        try:
            os.replace(temporary, path)
        except OSError as error:
            raise _not_writable(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _temporary_name(path: Path, suffix: str = "") -> Path:
    """Return a new hidden name in the folder of `path` for a file that is still incomplete."""
    return path.with_name(f"{_temporary_prefix(path)}{os.urandom(4).hex()}{suffix}")


def _temporary_prefix(path: Path) -> str:
    return f".{path.name[:40]}."


def remove_partial_files(paths: Iterable[Path]) -> None:
    """Remove the temporary files of outputs that killed processes left in their folders.

    Reads each folder once, however many outputs it has. Must not be called while another process
    writes one of `paths`.
    """
    begun: dict[Path, set[tuple[str, str]]] = {}
    for path in paths:
        prefix = _temporary_prefix(path)
        begun.setdefault(path.parent, set()).update(((prefix, ""), (prefix, path.suffix)))
    for folder, known in begun.items():
        with contextlib.suppress(OSError):
            for name in os.listdir(folder):
                if name.startswith(".") and not known.isdisjoint(_temporary_parts(name)):
                    with contextlib.suppress(OSError):
                        (folder / name).unlink()


def _temporary_parts(name: str) -> Iterator[tuple[str, str]]:
    """The prefix and suffix that `_temporary_name` may have been given to make a name."""
    stem, suffix = os.path.splitext(name)
    for rest, end in ((name, ""), (stem, suffix)):
        if re.fullmatch("[0-9a-f]{8}", rest[-8:]):
            yield rest[:-8], end


def check_writable(path: Path) -> None:
    """Check that a file can be written, so that long work does not fail at its end.

    Raises:
        UserError: `path` is a folder, or its folder is not writable.
    """
    _refuse_folder(path)
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _not_writable(path, error) from error


def _refuse_folder(path: Path) -> None:
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name a file to write")


def _not_writable(path: Path, error: OSError) -> UserError:
    return UserError(f"{path}: cannot be written: {error.strerror or error}")
