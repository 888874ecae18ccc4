"""Objects in S3, Google Cloud Storage, Azure and others: listed, fetched and put by fsspec.

Which package speaks a protocol (s3fs, gcsfs, adlfs, …) and with which credentials is fsspec's and
that package's matter: their environment variables and files on each node.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path, PosixPath
from typing import Any

from dic.console import UserError
from runtime.jobs.paths import MEDIA, PATTERN, Source

# Stores where an object appears whole or not at all, as our files do. Others are only read.
WHOLE = frozenset(("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oss"))


class ObjectPath(PosixPath):
    """The path of an object, "s3:/bucket/key", whose text is its URL. No such file is local."""

    def __str__(self) -> str:
        return super().__str__().replace(":/", "://", 1)


def is_url(text: str) -> bool:
    return "://" in text


def place(text: str) -> Path:
    """The path of a file or an object."""
    return ObjectPath(text) if is_url(text) else Path(text)


def check_writable(folder: ObjectPath) -> None:
    """Check that objects can be written, as far as this is known without writing one.

    Raises:
        UserError: the protocol or the bucket is unknown, or its objects do not appear whole.
    """
    protocol, _, bucket = str(folder).partition("://")
    if protocol not in WHOLE:
        raise UserError(
            f"{folder}: results are written to files, or to one of "
            f"{' '.join(f'{name}://' for name in sorted(WHOLE))}; choose one of these"
        )
    bucket = f"{protocol}://{bucket.split('/')[0]}"
    with _one_line(bucket):
        store, path = _store(bucket)
        if not store.exists(path):
            raise FileNotFoundError


def sources(url: str, output: Path) -> list[Source]:
    """The pictures and videos that a URL stands for: an object, all below a folder, or a pattern.

    Args:
        output: a folder whose objects are results, and left out.

    Raises:
        UserError: there are none, or they cannot be listed.
    """
    pattern = any(sign in url for sign in PATTERN)
    with _one_line(url):
        store, path = _store(url)
        if pattern:
            names = store.glob(path)
        elif store.info(path)["type"] == "file":
            return [Source(ObjectPath(url), Path(ObjectPath(url).name), True)]
        else:
            names = store.find(path)
        paths = [ObjectPath(store.unstrip_protocol(name)) for name in sorted(names)]
    folder = ObjectPath(store.unstrip_protocol(path))
    found = []
    for object_ in paths:
        relative = Path(object_.name) if pattern else Path(*object_.relative_to(folder).parts)
        hidden = any(part.startswith(".") for part in relative.parts)
        media = object_.suffix.lower() in MEDIA
        if media and not hidden and (output == folder or not object_.is_relative_to(output)):
            found.append(Source(object_, relative, False))
    if not found:
        raise UserError(f"{url}: no pictures or videos there; give another place")
    return found


def present(folder: ObjectPath) -> set[Path]:
    """All objects below a folder; none if there is no such folder.

    Raises:
        UserError: they cannot be listed.
    """
    with _one_line(folder), contextlib.suppress(FileNotFoundError):
        store, path = _store(str(folder))
        return {ObjectPath(store.unstrip_protocol(name)) for name in store.find(path)}
    return set()


def fetch(source: ObjectPath, file: Path) -> None:
    """Copy an object to a file.

    Raises:
        UserError: it cannot be read.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with _one_line(source):
        store, path = _store(str(source))
        store.get_file(path, str(file))


def put(file: Path, target: ObjectPath) -> None:
    """Copy a file to an object, which appears whole or not at all.

    S3 shows a large one, sent in parts, when the last part is complete; of a worker that dies
    before that, it keeps parts which nobody sees, until the bucket's lifecycle rules remove them.

    Raises:
        UserError: it cannot be written.
    """
    with _one_line(target):
        store, path = _store(str(target))
        store.put_file(str(file), path)


def _store(url: str) -> tuple[Any, str]:
    """The file system of fsspec for a URL, which it keeps, and the path there."""
    from fsspec.core import url_to_fs

    # Listings are not kept: results appear while we work.
    return url_to_fs(url, use_listings_cache=False)


@contextlib.contextmanager
def _one_line(url: object) -> Iterator[None]:
    """Turn whatever a store's library raises into a UserError that names the URL."""
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(f"{url}: no such bucket, folder or object") from error
    except ImportError as error:  # "Install s3fs to access S3", from fsspec
        raise UserError(f"{url}: {error}; every node of the cluster needs it") from error
    except Exception as error:  # each library has its own
        first = next(iter(str(error).strip().splitlines()), "")
        raise UserError(f"{url}: {first or type(error).__name__}") from error
