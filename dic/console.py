"""What every command does alike: its parser, its errors, its exit status."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
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
