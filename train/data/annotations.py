"""Landmark files: reading all common formats, writing `.pts` and `.json`.

| suffix | content |
|---|---|
| `.pts` | one face in the format of iBUG 300-W; its origin is (1, 1), ours is (0, 0) |
| `.csv` | a column of picture names, then x and y columns; or OpenFace's output for one picture |
|        | (`x_0 … y_67`; of several faces, the one with the highest confidence) |
| `.json` | `{name: [[x, y], …]}`, `{name: {"landmarks": …, "bbox": …}}`, a list of such records |
|         | with `"image"`, or only the landmarks of one picture |
| `.npz` | arrays `names`, `landmarks` (N, K, 2) and optionally `bbox` (N, 4); or one array (K, 2) |
|        | per picture |
| `.pkl` | the DIC authors' format: `{name: {"landmark": …, "bbox": …}}` |

Coordinates are (x, y) pixels of the picture, with integers at pixel centres. A box is (left, top,
right, bottom) as in the authors' code: right and bottom are exclusive.
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

UNNAMED = ""  # key of the landmarks in a file of one picture, which gives no name


class AnnotationError(UserError):
    """Invalid landmarks. The message is one line and says why."""


@dataclass(frozen=True)
class Annotation:
    """The landmarks of one picture.

    Attributes:
        landmarks: (K, 2) float32, (x, y) pixels of the picture.
        box: (left, top, right, bottom) of the face in pixels, if the file has one.
        fault: why this entry of a table is invalid; empty if it is valid. Other entries of the
            table are unaffected.
    """

    landmarks: NDArray[np.float32]
    box: tuple[float, float, float, float] | None = None
    fault: str = ""


def read_annotations(source: str, data: bytes) -> dict[str, Annotation]:
    """Read a landmark file.

    Args:
        source: its name; the suffix determines the format.
        data: its content.

    Returns:
        the annotations by picture name as given in the file; a file of one picture has the single
        key `UNNAMED`.

    Raises:
        AnnotationError: unsupported format, damaged file, or no valid landmarks.
    """
    suffix = Path(source).suffix.lower()
    if suffix not in READERS:
        raise AnnotationError(
            f"{source}: not a landmark file; the supported formats are {', '.join(READERS)}"
        )
    try:
        annotations = READERS[suffix](data)
    except AnnotationError as error:
        raise AnnotationError(f"{source}: {error}") from error
    except Exception as error:  # a damaged file can raise anything, depending on the damage
        reason = " ".join(str(error).split())
        raise AnnotationError(f"{source}: damaged, or not a landmark file ({reason})") from error
    if not annotations:
        raise AnnotationError(f"{source}: contains no landmarks")
    if all(annotation.fault for annotation in annotations.values()):
        name, annotation = next(iter(annotations.items()))
        raise AnnotationError(f"{source}: {name and name + ': '}{annotation.fault}")
    return annotations


def encode_pts(landmarks: NDArray[np.floating[Any]]) -> bytes:
    """Return the content of a `.pts` file with (K, 2) landmarks."""
    rows = "\n".join(f"{x + 1:.4f} {y + 1:.4f}" for x, y in landmarks)
    return f"version: 1\nn_points: {len(landmarks)}\n{{\n{rows}\n}}\n".encode()


def encode_json(
    landmarks: NDArray[np.floating[Any]], box: tuple[float, float, float, float]
) -> bytes:
    """Return the content of a `.json` file with the (K, 2) landmarks and the box of one picture."""
    points = [[round(float(x), 4), round(float(y), 4)] for x, y in landmarks]
    return json.dumps({"landmarks": points, "bbox": list(box)}).encode()


def _annotation(landmarks: Any, box: Any = None) -> Annotation:
    points = np.asarray(landmarks, np.float32)
    if points.ndim == 1 and points.size % 2 == 0:
        points = points.reshape(-1, 2)
    if points.ndim != 2 or points.shape[1] != 2 or not len(points):
        raise AnnotationError(f"landmarks of shape {points.shape}, not K×2")
    if not np.isfinite(points).all():
        raise AnnotationError("a landmark is NaN or infinite")
    if box is None:
        return Annotation(points)
    left, top, right, bottom = (float(edge) for edge in np.asarray(box, float).ravel())
    if not np.isfinite([left, top, right, bottom]).all():
        raise AnnotationError("a box is NaN or infinite")
    return Annotation(points, (left, top, right, bottom))


def _table_entry(landmarks: Any, box: Any = None) -> Annotation:
    """Return one annotation of a table; if invalid, its `fault` is set instead of raising."""
    try:
        return _annotation(landmarks, box)
    except (AnnotationError, TypeError, ValueError) as error:
        return Annotation(np.empty((0, 2), np.float32), fault=str(error))


def _read_pts(data: bytes) -> dict[str, Annotation]:
    text = data.decode("utf-8")
    body = re.search(r"\{([^{}]*)\}", text)
    if not body:
        raise AnnotationError("contains no { … } block of points")
    points = np.array([line.split() for line in body[1].strip().splitlines()], np.float32)
    declared = re.search(r"n_points:\s*(\d+)", text)
    if declared and int(declared[1]) != len(points):
        raise AnnotationError(f"{len(points)} points, but n_points is {declared[1]}")
    return {UNNAMED: _annotation(points - 1)}


def _read_csv(data: bytes) -> dict[str, Annotation]:
    rows = csv.reader(io.StringIO(data.decode("utf-8-sig")), skipinitialspace=True)
    head = [name.strip() for name in next(rows)]
    xy = _pairs_of_columns(head)
    if not xy:
        raise AnnotationError("no x and y columns in the first line")
    columns = [head.index(name) for pair in xy for name in pair]
    name_column = next((i for i, n in enumerate(head) if n.lower() in _NAME_COLUMNS), None)
    annotations: dict[str, Annotation] = {}
    confidences: dict[str, float] = {}
    for row in filter(None, rows):
        name = UNNAMED if name_column is None else row[name_column].strip()
        confidence = float(row[head.index("confidence")]) if "confidence" in head else 0.0
        if name in annotations and confidence <= confidences[name]:
            continue
        annotations[name] = _table_entry([row[i] for i in columns])
        confidences[name] = confidence
    return annotations


_NAME_COLUMNS = ("image", "image_id", "image_name", "file", "filename", "file_name", "name", "path")


def _pairs_of_columns(head: list[str]) -> list[tuple[str, str]]:
    """Return the (x, y) column names of the landmarks, in the order of the file.

    Columns are numbered (`x_0, y_0` or `x0, y0`), or else named (`lefteye_x, lefteye_y`). Files
    from OpenFace have both; there, the numbered ones are the landmarks.
    """
    numbered = [(name, "y" + name[1:]) for name in head if re.fullmatch(r"x_?\d+", name)]
    named = [(name, name[:-1] + "y") for name in head if name.endswith("_x")]
    return [pair for pair in numbered or named if pair[1] in head]


def _read_json(data: bytes) -> dict[str, Annotation]:
    content = json.loads(data)
    if isinstance(content, dict) and "landmarks" in content:
        return {UNNAMED: _record(content)}
    if isinstance(content, dict):
        return {str(name): _record(entry) for name, entry in content.items()}
    if isinstance(content, list) and content and isinstance(content[0], dict):
        names = [next((e[k] for k in _NAME_COLUMNS if k in e), None) for e in content]
        if None in names:
            raise AnnotationError('a record without "image"')
        return {str(n): _record(e) for n, e in zip(names, content, strict=True)}
    return {UNNAMED: _annotation(content)}


def _record(entry: Any) -> Annotation:
    if not isinstance(entry, Mapping):
        return _table_entry(entry)
    landmarks = entry.get("landmarks", entry.get("landmark"))
    if landmarks is None:
        return Annotation(np.empty((0, 2), np.float32), fault='an entry without "landmarks"')
    return _table_entry(landmarks, entry.get("bbox"))


def _read_npz(data: bytes) -> dict[str, Annotation]:
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        if "landmarks" not in arrays:
            return {name: _table_entry(arrays[name]) for name in arrays.files}
        landmarks = arrays["landmarks"]
        if "names" not in arrays:
            return {UNNAMED: _annotation(landmarks)}
        boxes = arrays["bbox"] if "bbox" in arrays else [None] * len(landmarks)
        rows = zip(arrays["names"], landmarks, boxes, strict=True)
        return {str(name): _table_entry(points, box) for name, points, box in rows}


class _Dtype:
    """Replaces numpy.dtype when unpickling: holds the name and byte order of a numeric type."""

    def __init__(self, name: str, *_: Any) -> None:
        if not re.fullmatch(r"[fiub][1248]", name):
            raise AnnotationError(f"refused, an array of {name!r}; only numeric arrays are read")
        self.name, self.order = name, "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = ">" if state[1] == ">" else "<"

    def array(self, data: Any) -> NDArray[Any]:
        return np.frombuffer(data, self.order + self.name)


class _Array:
    """Replaces numpy.ndarray when unpickling: accepts raw bytes of numbers, refuses all else."""

    values: NDArray[Any]

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, data = state
        if not isinstance(dtype, _Dtype) or not isinstance(data, bytes):
            raise AnnotationError("refused, an array of objects; only numeric arrays are read")
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
    """Accepts numbers, strings, containers and NumPy arrays of numbers; refuses all else.

    NumPy's classes are replaced by the ones above: a crafted pickle can set their state so that
    numbers are interpreted as object pointers.
    """

    _replacements: ClassVar[dict[tuple[str, str], Any]] = {
        ("numpy", "dtype"): _Dtype,
        ("numpy", "ndarray"): _Array,
        ("multiarray", "_reconstruct"): lambda *_: _Array(),
        ("multiarray", "scalar"): _scalar,
        ("numeric", "_frombuffer"): _frombuffer,
        ("_codecs", "encode"): _latin1,  # protocol 2 stores bytes as Latin-1 text
        ("collections", "OrderedDict"): dict,
    }

    def find_class(self, module: str, name: str) -> Any:
        short = re.sub(r"^numpy\._?core\.", "", module)
        if (short, name) not in self._replacements:
            raise AnnotationError(
                f"refused, it would run {module}.{name}; only numbers, strings, containers and "
                "NumPy arrays are read"
            )
        return self._replacements[short, name]


def _read_pkl(data: bytes) -> dict[str, Annotation]:
    content = _PlainUnpickler(io.BytesIO(data), encoding="latin1").load()
    if not isinstance(content, Mapping):
        raise AnnotationError("contains no {picture: landmarks} mapping")
    return {str(name): _record(entry) for name, entry in content.items()}


READERS: dict[str, Callable[[bytes], dict[str, Annotation]]] = {
    ".pts": _read_pts,
    ".csv": _read_csv,
    ".json": _read_json,
    ".npz": _read_npz,
    ".pkl": _read_pkl,
}
