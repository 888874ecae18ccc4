"""Reading an ONNX file's metadata, and which files hold its weights, without the onnx package.

The file is a `ModelProto` in protobuf's wire format (onnx.proto).
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from dic.engine_file import EngineError

# Fields: ModelProto.metadata_props and .graph, GraphProto.initializer, TensorProto.external_data.
METADATA_PROPS, GRAPH, INITIALIZER, EXTERNAL_DATA = 14, 7, 5, 13
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # protobuf wire types


def read_metadata(path: Path) -> dict[str, str]:
    """Read the `metadata_props` of an ONNX file as a dictionary.

    Raises:
        EngineError: the file is unreadable, truncated, or not an ONNX file, or a file with its
            weights is missing.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            entries = {}
            for field, start, end in _fields(data, 0, len(data)):
                if field == METADATA_PROPS:
                    key, value = _entry(data, start, end)
                    entries[key] = value
                elif field == GRAPH:
                    _check_weights(path, data, start, end)
            return entries
    except OSError as error:
        raise EngineError(f"{path}: {error.strerror or error}") from error
    except (ValueError, IndexError) as error:  # mmap raises ValueError for an empty file
        raise EngineError(
            f"{path}: not an ONNX model, or a damaged or truncated one; export it again"
        ) from error


def _entry(data: mmap.mmap, start: int, end: int) -> tuple[str, str]:
    """Key and value of a StringStringEntryProto."""
    entry = {field: data[a:b].decode() for field, a, b in _fields(data, start, end)}
    return entry.get(1, ""), entry.get(2, "")


def _check_weights(path: Path, data: mmap.mmap, start: int, end: int) -> None:
    """Check that the files are there that a graph's weights are in; raises EngineError."""
    for field, first, last in _fields(data, start, end):
        if field != INITIALIZER:
            continue
        for kind, a, b in _fields(data, first, last):
            key, name = _entry(data, a, b) if kind == EXTERNAL_DATA else ("", "")
            if key == "location" and not (path.parent / name).is_file():
                raise EngineError(
                    f"{path.parent / name}: No such file; copy it too, it holds the weights of "
                    f"{path.name}"
                )


def _fields(data: mmap.mmap, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Field number, start and end offset of each field of the message at `at` to `end`."""
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
            raise ValueError("unknown wire type")
        if stop > end:
            raise ValueError("truncated field")
        yield key >> 3, start, stop
        at = stop


def _varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    """The variable-length integer at an offset, and the offset after it."""
    value = 0
    for shift in range(0, 64, 7):
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("varint longer than 64 bits")
