"""Landmark files: what people have beside their faces, read and (`.pts`) written.

| suffix | content |
|---|---|
| `.pts` | one face, as iBUG 300-W writes it; its origin is (1, 1), ours (0, 0) |
| `.csv` | a column with the picture's name, then x and y columns; or OpenFace's output for one |
|        | picture (`x_0 … y_67`, of several faces the one of highest confidence) |
| `.json` | `{name: [[x, y], …]}`, `{name: {"landmarks": …, "bbox": …}}`, a list of such records |
|         | with `"image"`, or for one picture the landmarks alone |
| `.npz` | arrays `names` and `landmarks` (N, K, 2), perhaps `bbox` (N, 4); or an array a picture |
| `.pkl` | the DIC authors': `{name: {"landmark": …, "bbox": …}}` |

Coordinates are (x, y) pixels of the picture, a whole number is a pixel's centre; a box is
(left, top, right, bottom) as the authors cut by it: right and bottom are outside.
"""

from __future__ import annotations

import csv
import io
import json
import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dic.console import UserError

ALONE = ""  # the name under which a file of one picture holds its landmarks


class AnnotationError(UserError):
    """The landmarks cannot be understood; the message is one line and says why."""


@dataclass(frozen=True)
class Annotation:
    """Landmarks (K, 2) float32 of one picture, and its face's box where the file has one.

    Where one entry of many is no use, `fault` says why, and the others stay what they are.
    """

    landmarks: NDArray[np.float32]
    box: tuple[float, float, float, float] | None = None
    fault: str = ""


def read_annotations(source: str, data: bytes) -> dict[str, Annotation]:
    """Read a landmark file.

    Args:
        source: its name, whose suffix tells the format.
        data: its content.

    Returns:
        by picture name as the file gives it; under `ALONE` in a file of one picture.

    Raises:
        AnnotationError: another format, damaged, or not landmarks.
    """
    suffix = Path(source).suffix.lower()
    if suffix not in READERS:
        raise AnnotationError(f"{source}: landmarks are read from {', '.join(READERS)}")
    try:
        found = READERS[suffix](data)
    except AnnotationError as error:
        raise AnnotationError(f"{source}: {error}") from error
    except Exception as error:  # what a damaged file raises depends on where it is damaged
        raise AnnotationError(f"{source}: damaged, or no landmark file ({error})") from error
    if not found:
        raise AnnotationError(f"{source}: holds no landmarks")
    if all(annotation.fault for annotation in found.values()):
        name, annotation = next(iter(found.items()))
        raise AnnotationError(f"{source}: {name and name + ': '}{annotation.fault}")
    return found


def pts(landmarks: NDArray[np.floating[Any]]) -> bytes:
    """The content of a `.pts` file for (K, 2) landmarks."""
    rows = "\n".join(f"{x + 1:.4f} {y + 1:.4f}" for x, y in landmarks)
    return f"version: 1\nn_points: {len(landmarks)}\n{{\n{rows}\n}}\n".encode()


def boxed(landmarks: NDArray[np.floating[Any]], box: tuple[float, float, float, float]) -> bytes:
    """The content of a `.json` file for the (K, 2) landmarks and the box of one picture."""
    points = [[round(float(x), 4), round(float(y), 4)] for x, y in landmarks]
    return json.dumps({"landmarks": points, "bbox": list(box)}).encode()


def _annotation(landmarks: Any, box: Any = None) -> Annotation:
    points = np.asarray(landmarks, np.float32)
    if points.ndim == 1 and points.size % 2 == 0:
        points = points.reshape(-1, 2)
    if points.ndim != 2 or points.shape[1] != 2 or not len(points):
        raise AnnotationError(f"landmarks of shape {points.shape}, not K×2")
    if not np.isfinite(points).all():
        raise AnnotationError("a landmark is no finite number")
    if box is None:
        return Annotation(points)
    left, top, right, bottom = (float(edge) for edge in np.asarray(box, float).ravel())
    if not np.isfinite([left, top, right, bottom]).all():
        raise AnnotationError("a box is no finite number")
    return Annotation(points, (left, top, right, bottom))


def _one_of_many(landmarks: Any, box: Any = None) -> Annotation:
    try:
        return _annotation(landmarks, box)
    except (AnnotationError, TypeError, ValueError) as error:
        return Annotation(np.empty((0, 2), np.float32), fault=str(error))


def _read_pts(data: bytes) -> dict[str, Annotation]:
    text = data.decode("utf-8")
    body = re.search(r"\{([^{}]*)\}", text)
    if not body:
        raise AnnotationError("no { … } with points in it")
    points = np.array([line.split() for line in body[1].strip().splitlines()], np.float32)
    promised = re.search(r"n_points:\s*(\d+)", text)
    if promised and int(promised[1]) != len(points):
        raise AnnotationError(f"{len(points)} points where n_points says {promised[1]}")
    return {ALONE: _annotation(points - 1)}


def _read_csv(data: bytes) -> dict[str, Annotation]:
    rows = csv.reader(io.StringIO(data.decode("utf-8-sig")), skipinitialspace=True)
    head = [name.strip() for name in next(rows)]
    xy = _pairs_of_columns(head)
    if not xy:
        raise AnnotationError("no x and y columns in its first line")
    columns = [head.index(name) for pair in xy for name in pair]
    name_column = next((i for i, n in enumerate(head) if n.lower() in _NAME_COLUMNS), None)
    found: dict[str, Annotation] = {}
    confidences: dict[str, float] = {}
    for row in filter(None, rows):
        name = ALONE if name_column is None else row[name_column].strip()
        confidence = float(row[head.index("confidence")]) if "confidence" in head else 0.0
        if name in found and confidence <= confidences[name]:
            continue
        found[name] = _one_of_many([row[i] for i in columns])
        confidences[name] = confidence
    return found


_NAME_COLUMNS = ("image", "image_id", "image_name", "file", "filename", "file_name", "name", "path")


def _pairs_of_columns(head: list[str]) -> list[tuple[str, str]]:
    """`x_0, y_0` or `x0, y0`; where there are none, `lefteye_x, lefteye_y`; in the file's order.

    OpenFace's files have both kinds, and its landmarks are the first.
    """
    numbered = [(name, "y" + name[1:]) for name in head if re.fullmatch(r"x_?\d+", name)]
    named = [(name, name[:-1] + "y") for name in head if name.endswith("_x")]
    return [pair for pair in numbered or named if pair[1] in head]


def _read_json(data: bytes) -> dict[str, Annotation]:
    content = json.loads(data)
    if isinstance(content, dict) and "landmarks" in content:
        return {ALONE: _record(content)}
    if isinstance(content, dict):
        return {str(name): _record(entry) for name, entry in content.items()}
    if isinstance(content, list) and content and isinstance(content[0], dict):
        names = [next((e[k] for k in _NAME_COLUMNS if k in e), None) for e in content]
        if None in names:
            raise AnnotationError('a record without "image"')
        return {str(n): _record(e) for n, e in zip(names, content, strict=True)}
    return {ALONE: _annotation(content)}


def _record(entry: Any) -> Annotation:
    if not isinstance(entry, Mapping):
        return _one_of_many(entry)
    landmarks = entry.get("landmarks", entry.get("landmark"))
    if landmarks is None:
        return Annotation(np.empty((0, 2), np.float32), fault='an entry without "landmarks"')
    return _one_of_many(landmarks, entry.get("bbox"))


def _read_npz(data: bytes) -> dict[str, Annotation]:
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        if "landmarks" not in arrays:
            return {name: _one_of_many(arrays[name]) for name in arrays.files}
        landmarks = arrays["landmarks"]
        if "names" not in arrays:
            return {ALONE: _annotation(landmarks)}
        boxes = arrays["bbox"] if "bbox" in arrays else [None] * len(landmarks)
        rows = zip(arrays["names"], landmarks, boxes, strict=True)
        return {str(name): _one_of_many(points, box) for name, points, box in rows}


class _Dtype:
    """Stands in for numpy.dtype in a pickle: the name of a number type, nothing more."""

    def __init__(self, name: str, *_: Any) -> None:
        if not re.fullmatch(r"[fiub][1248]", name):
            raise AnnotationError(f"refused, an array of {name!r}; only plain numbers are read")
        self.name, self.order = name, "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = ">" if state[1] == ">" else "<"

    def array(self, data: Any) -> NDArray[Any]:
        return np.frombuffer(data, self.order + self.name)


class _Array:
    """Stands in for numpy.ndarray: takes the bytes of plain numbers, whatever else is refused."""

    values: NDArray[Any]

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, data = state
        if not isinstance(dtype, _Dtype) or not isinstance(data, bytes):
            raise AnnotationError("refused, an array of objects; only plain numbers are read")
        self.values = dtype.array(data).reshape(shape, order="F" if fortran else "C")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self.values, dtype)


def _scalar(dtype: _Dtype, data: bytes) -> float:
    return float(dtype.array(data)[0])


def _frombuffer(data: Any, dtype: _Dtype, shape: tuple[int, ...], order: str) -> NDArray[Any]:
    return dtype.array(data).reshape(shape, order="F" if order == "F" else "C")


def _latin1(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise AnnotationError(f"bytes in {encoding}")
    return text.encode("latin1")


class _PlainUnpickler(pickle.Unpickler):
    """Numbers, strings, containers and NumPy arrays of numbers; all else is refused.

    NumPy's own classes are not handed out either: a pickle may give them any state, and a crafted
    one makes them read memory where a number said to.
    """

    _stand_ins: ClassVar[dict[tuple[str, str], Any]] = {
        ("numpy", "dtype"): _Dtype,
        ("numpy", "ndarray"): _Array,
        ("multiarray", "_reconstruct"): lambda *_: _Array(),
        ("multiarray", "scalar"): _scalar,
        ("numeric", "_frombuffer"): _frombuffer,
        ("_codecs", "encode"): _latin1,  # how protocol 2 keeps bytes
        ("collections", "OrderedDict"): dict,
    }

    def find_class(self, module: str, name: str) -> Any:
        short = re.sub(r"^numpy\._?core\.", "", module)
        if (short, name) not in self._stand_ins:
            raise AnnotationError(
                f"refused, it would run {module}.{name}; only numbers, strings, containers and "
                "NumPy arrays are read"
            )
        return self._stand_ins[short, name]


def _read_pkl(data: bytes) -> dict[str, Annotation]:
    content = _PlainUnpickler(io.BytesIO(data), encoding="latin1").load()
    if not isinstance(content, Mapping):
        raise AnnotationError("holds no {picture: landmarks}")
    return {str(name): _record(entry) for name, entry in content.items()}


READERS: dict[str, Callable[[bytes], dict[str, Annotation]]] = {
    ".pts": _read_pts,
    ".csv": _read_csv,
    ".json": _read_json,
    ".npz": _read_npz,
    ".pkl": _read_pkl,
}
