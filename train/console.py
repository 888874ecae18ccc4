"""What every command of `train` and `export` does alike: errors, whole files, progress.

`runtime` must import nothing of this package (it runs where PyTorch is not), so it has its own.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from tqdm import tqdm


class UserError(Exception):
    """Something the user can put right. The message is one line: what, where, what to do."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are `UserError`s, one line like all others."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {self.prog} --help)")


def run(main: Callable[[list[str]], int]) -> NoReturn:
    """Run a command's `main(arguments) -> exit status` and leave the process with the status.

    0 done; 1 some inputs failed; 2 nothing could be done; 130 interrupted.
    """
    try:
        status = main(sys.argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    sys.exit(status)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open `path` for writing so that it appears whole or not at all.

    Written beside, synced, then renamed; on any failure an older file stays as it was.

    Raises:
        UserError: the folder or the disk does not take it.
    """
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


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
