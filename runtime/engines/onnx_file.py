"""What an ONNX file says of itself, read without ONNX, before something is picked to run it.

A file is a `ModelProto` in protobuf's wire format (onnx.proto); its metadata are its field 14.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from dic.engine_file import EngineError

METADATA_PROPS = 14  # of ModelProto, StringStringEntryProto each
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types


def read_metadata(path: Path) -> dict[str, str]:
    """The `metadata_props` of an ONNX file.

    Raises:
        EngineError: not an ONNX file, or cut off.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            found = {}
            for field, start, end in _fields(data, 0, len(data)):
                if field == METADATA_PROPS:
                    entry = {f: data[a:b].decode() for f, a, b in _fields(data, start, end)}
                    found[entry.get(1, "")] = entry.get(2, "")
            return found
    except OSError as error:
        raise EngineError(f"{path}: {error.strerror or error}") from error
    except (ValueError, IndexError) as error:  # mmap's for an empty file too
        raise EngineError(
            f"{path}: not an ONNX model that runs: damaged, cut off, or of another kind"
        ) from error


def _fields(data: mmap.mmap, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number and extent of each field of a message."""
    while at < end:
        key, at = _varint(data, at)
        kind = key & 7
        if kind == VARINT:
            start, (_, stop) = at, _varint(data, at)
        elif kind == BYTES:
            size, start = _varint(data, at)
            stop = start + size
        elif kind in (FIXED32, FIXED64):
            start, stop = at, at + (8 if kind == FIXED64 else 4)
        else:
            raise ValueError("no such wire type")
        if stop > end:
            raise ValueError("cut off")
        yield key >> 3, start, stop
        at = stop


def _varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 64, 7):
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("a number too long")
