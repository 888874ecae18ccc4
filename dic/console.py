"""Shared by all commands: the argument parser, error reporting and exit statuses."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, NoReturn


class UserError(Exception):
    """An error that the user can fix. The message is one line: what, where, what to do."""


class Parser(argparse.ArgumentParser):
    """An argument parser that raises its errors as `UserError`, so that they print as one line."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        # Abbreviated options, such as --face for --faces, would become ambiguous with new ones.
        super().__init__(*arguments, **{"allow_abbrev": False, **options})

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {self.prog} --help)")


class _BrokenPipeSafeStderr(io.TextIOWrapper):
    """Standard error that discards its output once the reader has closed the pipe.

    Long work then continues instead of failing on its next progress message.
    """

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except BrokenPipeError:
            self._discard()
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except BrokenPipeError:
            self._discard()

    def _discard(self) -> None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())


def _make_stderr_safe() -> None:
    """Replace standard error by a stream that never fails, even if it is closed or unread."""
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115  # stays open until the process exits
    elif isinstance(sys.stderr, io.TextIOWrapper):
        old = sys.stderr
        options = {"encoding": old.encoding, "errors": old.errors, "line_buffering": True}
        sys.stderr = _BrokenPipeSafeStderr(old.buffer, **options)  # type: ignore[arg-type]


def print_error(message: object) -> None:
    """Print `error: message` to standard error as a single line."""
    print(f"error: {' '.join(str(message).splitlines())}", file=sys.stderr, flush=True)


def run(main: Callable[[list[str]], int], extra: str, *errors: type[Exception]) -> NoReturn:
    """Run a command and exit the process with its status.

    Exit statuses: 0 success; 1 some inputs failed; 2 the command failed; 130 interrupted.

    Args:
        main: takes the command-line arguments and returns the exit status.
        extra: the extra of `dic-toolkit` that installs the command's dependencies.
        errors: exceptions to report like a `UserError`, in one line without a traceback.
    """
    errors = (UserError, *errors)
    _make_stderr_safe()
    try:
        status = main(sys.argv[1:])
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    except errors as error:
        print_error(error)
        status = 2
    except ModuleNotFoundError as error:
        print_error(f"{error.name} is not installed; pip install 'dic-toolkit[{extra}]'")
        status = 2
    except MemoryError:
        print_error("out of memory")
        status = 2
    except BrokenPipeError:
        # Otherwise Python flushes standard output at exit, fails again and prints a traceback.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        with contextlib.suppress(OSError):
            print_error("standard output was closed by its reader (broken pipe)")
        status = 2
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print_error(f"{where}{error.strerror or error}")
        status = 2
    sys.exit(status)


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Let Ctrl-C terminate the process directly while large libraries are imported.

    A KeyboardInterrupt raised inside their initialisation may be swallowed, or abort the process
    with a traceback.
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
