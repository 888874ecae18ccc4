"""The released weights by name, and `python -m train.pretrained`, which lists and fetches them.

MMEditing publishes a DIC and a DICGAN trained on CelebA-HQ (its model zoo, restorers/dic). A file
is fetched once into a cache folder: `$DIC_HOME`, else `dic-toolkit` in the user's cache. A file
that was copied there by hand is taken as it is. `DIC_OFFLINE=1` forbids the network.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from dic.console import Parser, UserError, run
from dic.progress import Progress

if TYPE_CHECKING:
    from filelock import FileLock

ZOO = "https://download.openmmlab.com/mmediting/restorers/dic/"
TIMEOUT = 30  # seconds without a byte
ATTEMPTS = 4  # connections; each goes on where the one before broke off
PAUSE = 1.0  # seconds before the second attempt, twice as long before each further one
CHUNK = 2**18  # bytes


class FetchError(UserError):
    """Weights cannot be fetched; the message names address, hash and path."""


@dataclass(frozen=True)
class Released:
    """A published checkpoint.

    Attributes:
        url: where it is published.
        sha256: the first digits of its SHA-256 in hexadecimal, which end its file's name.
        about: the network and what it reached, as published: PSNR in dB and SSIM on CelebA-HQ.
    """

    url: str
    sha256: str
    about: str

    @property
    def filename(self) -> str:
        return self.url.rpartition("/")[2]


RELEASED = {
    "dic-celebahq": Released(
        f"{ZOO}dic_x8c48b6_g4_150k_CelebAHQ_20210611-5d3439ca.pth",
        "5d3439ca",
        "DIC, 4 steps, 68 landmarks, CelebA-HQ: 25.2319 dB, 0.7422 as published",
    ),
    "dicgan-celebahq": Released(
        f"{ZOO}dic_gan_x8c48b6_g4_500k_CelebAHQ_20210625-3b89a358.pth",
        "3b89a358",
        "DICGAN, 4 steps, 68 landmarks, CelebA-HQ: 23.6241 dB, 0.6721 as published",
    ),
}


def checkpoint_path(given: str | Path) -> Path:
    """The file of a checkpoint that is given by its path or by the name of released weights.

    Args:
        given: a path; or a name in `RELEASED`, unless a file is called so.

    Raises:
        FetchError: see `fetch`.
    """
    path = Path(given)
    return path if path.exists() or str(given) not in RELEASED else fetch(str(given))


def cache_folder() -> Path:
    """`$DIC_HOME`, else `dic-toolkit` in the user's cache folder."""
    if home := os.environ.get("DIC_HOME"):
        return Path(home)
    if sys.platform == "win32":
        caches = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        caches = Path.home() / "Library" / "Caches"
    else:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return caches / "dic-toolkit"


def fetch(name: str) -> Path:
    """The file of released weights, fetched if it is not there.

    Processes that ask for the same file wait for the first. An interrupted transfer is continued,
    by this call and by the next. The file appears under its name once its hash is right.

    Raises:
        FetchError: the server cannot be reached, `DIC_OFFLINE` is set, the transfer was interrupted
            repeatedly, the content has another hash, the folder cannot be written, or a file
            with another hash is there.
    """
    released = RELEASED[name]
    path = cache_folder() / released.filename
    if path.is_file():
        return _checked(released, path)
    if os.environ.get("DIC_OFFLINE", "") not in ("", "0"):
        raise FetchError(
            f"{name} is not in the cache, and DIC_OFFLINE is set; {_by_hand(released)}"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path, name):
            if not path.is_file():  # else another process has fetched it meanwhile
                _download(name, released, path)
    except OSError as error:
        where = error.filename or path
        reason = error.strerror or error
        raise FetchError(f"{where}: {reason}; DIC_HOME names another folder") from error
    return _checked(released, path)


def _locked(path: Path, name: str) -> FileLock:
    """A lock that ends with the process that holds it, however that ends."""
    from filelock import FileLock, Timeout

    lock = FileLock(f"{path}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"{name}: another process fetches it; waiting", file=sys.stderr)
        lock.acquire()
    return lock


def _checked(released: Released, path: Path) -> Path:
    if _hash(path).startswith(released.sha256):
        return path
    raise FetchError(
        f"{path}: not the released file: its SHA-256 does not begin with {released.sha256}; delete "
        f"it, and it is fetched again from {released.url}"
    )


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _by_hand(released: Released) -> str:
    path = cache_folder() / released.filename
    return f"or save {released.url} (SHA-256 {released.sha256}…) as {path}"


def _download(name: str, released: Released, path: Path) -> None:
    """Fetch to a temporary file, check it and rename it.

    Raises:
        FetchError: see `fetch`.
        OSError: the file cannot be written.
    """
    partial = path.with_name(f"{path.name}.part")
    reason = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE * 2 ** (attempt - 1))
        resumed = partial.exists()
        try:
            complete = _transfer(name, released.url, partial)
        except urllib.error.HTTPError as error:
            reason = f"{error.code} {error.reason}"
            if error.code < 500 and error.code not in (408, 416, 429):
                break
            if error.code == 416:  # what is there is no beginning of the file
                partial.unlink(missing_ok=True)
            continue
        except (
            urllib.error.URLError,
            http.client.HTTPException,
            ConnectionError,
            TimeoutError,
        ) as error:
            reason = str(getattr(error, "reason", None) or error or type(error).__name__)
            continue
        if not complete:
            reason = f"cut off after {partial.stat().st_size} bytes, which are kept"
            continue
        if _hash(partial).startswith(released.sha256):
            os.replace(partial, path)
            return
        partial.unlink()
        reason = f"wrong content: the SHA-256 does not begin with {released.sha256}"
        if not resumed:
            break
    raise FetchError(f"{name}: {reason}; {_by_hand(released)}")


def _transfer(name: str, url: str, partial: Path) -> bool:
    """Append what is missing of a file to what is there.

    Returns:
        whether the server sent all that it announced.
    """
    start = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
        if answer.status != http.HTTPStatus.PARTIAL_CONTENT:
            start = 0  # the server sends all of it
        announced = answer.headers.get("Content-Length")
        total = start + int(announced) if announced else None
        received = start
        with (
            partial.open("r+b" if start else "wb") as file,
            Progress(total=total, initial=start, unit="B", unit_scale=True, desc=name) as bar,
        ):
            file.seek(start)
            with suppress(http.client.IncompleteRead):
                while chunk := answer.read(CHUNK):
                    file.write(chunk)
                    received += len(chunk)
                    bar.update(len(chunk))
        return total is None or received == total


def main(arguments: list[str]) -> int:
    options = _parse(arguments)
    for name in options.names or RELEASED:
        released = RELEASED[name]
        if options.names:
            print(fetch(name))
            continue
        path = cache_folder() / released.filename
        state = str(path) if path.is_file() else f"not fetched yet, {released.url}"
        print(f"{name}\n  {released.about}\n  {state}")
    return 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(
        prog="python -m train.pretrained",
        description="List the released weights, or fetch some and print their paths. Commands that "
        "take a checkpoint take these names too.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(RELEASED)}")
    options = parser.parse_args(arguments)
    for name in options.names:
        if name not in RELEASED:
            parser.error(f"{name} is not among the released weights: {', '.join(RELEASED)}")
    return options


def cli() -> NoReturn:
    run(main, "train")


if __name__ == "__main__":
    cli()
