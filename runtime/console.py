"""What every command does alike: errors and whole files.

`train.console` is the same text: the runtime shares no code with the stages that need PyTorch,
and both should greet a user alike. A test holds them equal.
"""

from __future__ import annotations

import argparse
import contextlib
import glob
import io
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NoReturn


class UserError(Exception):
    """Something the user can put right. The message is one line: what, where, what to do."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are `UserError`s, one line like all others."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {self.prog} --help)")


class _Told(io.TextIOWrapper):
    """Standard error whose reader may go away: what is said is lost then, the work goes on."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except BrokenPipeError:
            self._lost()
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except BrokenPipeError:
            self._lost()

    def _lost(self) -> None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())


def _keep_telling() -> None:
    """Make standard error one that can be written to, whoever reads it or has closed it."""
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115  # for as long as the process lives
    elif isinstance(sys.stderr, io.TextIOWrapper):
        told = sys.stderr
        options = {"encoding": told.encoding, "errors": told.errors, "line_buffering": True}
        sys.stderr = _Told(told.buffer, **options)  # type: ignore[arg-type]


def complain(message: object) -> None:
    print(f"error: {' '.join(str(message).splitlines())}", file=sys.stderr, flush=True)


def run(main: Callable[[list[str]], int], extra: str, *errors: type[Exception]) -> NoReturn:
    """Run a command's `main(arguments) -> exit status` and leave the process with the status.

    0 done; 1 some inputs failed; 2 nothing could be done; 130 interrupted.

    Args:
        extra: the distribution's extra that installs what the command needs.
        errors: further exceptions whose message is for the user.
    """
    errors = (UserError, *errors)
    _keep_telling()
    try:
        status = main(sys.argv[1:])
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    except errors as error:
        complain(error)
        status = 2
    except ModuleNotFoundError as error:
        complain(f"{error.name} is not installed; pip install 'dic-toolkit[{extra}]'")
        status = 2
    except MemoryError:
        complain("out of memory")
        status = 2
    except BrokenPipeError:
        # Python would write what is left when it ends, and say so at length.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        with contextlib.suppress(OSError):
            complain("whoever read the output has stopped reading")
        status = 2
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        complain(f"{where}{error.strerror or error}")
        status = 2
    sys.exit(status)


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


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Around the import of large libraries: Ctrl-C there just ends the process.

    As an exception it may be raised in the middle of their own start, which swallows it or aborts.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is threading.main_thread() and callable(before):
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
    else:
        yield
