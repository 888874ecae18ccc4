"""What the commands of `runtime` and `benchmarks` do alike: errors, whole files, progress.

`train.console` is its twin for the stages that run where PyTorch is; the runtime imports nothing
of theirs.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from tqdm import tqdm


class UsageError(Exception):
    """The command was given something that it cannot use; the message is one line."""


class Parser(argparse.ArgumentParser):
    """An argument parser that reports its errors in one line, like all others."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def complain(message: object) -> None:
    print(f"error: {message}", file=sys.stderr, flush=True)


def run(main: Callable[[list[str]], int], *errors: type[Exception]) -> NoReturn:
    """Run a command and leave the process with its exit status; `errors` end in status 2."""
    errors = (UsageError, *errors)
    try:
        status = main(sys.argv[1:])
    except errors as error:
        complain(error)
        status = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    sys.exit(status)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that it appears whole or not at all: beside it first, then renamed.

    Raises:
        OSError: the folder or the disk does not take it; an older file stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


class Progress(tqdm):  # type: ignore[type-arg]  # generic in its stubs only
    """A bar on a terminal; elsewhere a plain line at most every ten seconds, and one at the end."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.plain = not sys.stderr.isatty()
        if self.plain:
            options |= {"mininterval": 10.0, "maxinterval": 10.0, "ncols": 0}
            options["bar_format"] = "{desc}: {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"
        super().__init__(*args, file=sys.stderr, dynamic_ncols=not self.plain, **options)  # type: ignore[call-overload]

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        if not self.plain:
            super().display(msg, pos)
        elif self.n:
            print(self, file=sys.stderr, flush=True)

    def close(self) -> None:
        if self.plain and not self.disable:
            self.display()
            self.disable = True
        super().close()
