"""Where faces are, from a file instead of a detector.

JSON, as `--landmarks` writes it (one document or a list of them), or of the form
`{"family.jpg": [[x, y, width, height], …]}`; or CSV, a face a line: the picture's name and 4 or
10 numbers. Four are the square around a face from hair to below the chin (of another shape, a
square about its middle); ten are five points x1,y1,…,x5,y5: the eye on the picture's left, the
other eye, the nose's tip, the corners of the mouth. Pictures go by their path, by its end
(`2019/beach.jpg`), or by their name alone, which then is of every picture of that name.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dic.console import UserError
from runtime.faces.crop import Crop, from_points

LARGEST = 1e6  # pixels; what is further out is a mistake


class Boxes:
    """The faces of pictures, by a file.

    Raises:
        UserError: the file cannot be read; names the line or the picture.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            text = path.read_text(encoding="utf-8-sig")  # Excel begins with a mark
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not a text file"
            raise UserError(f"{path}: {reason}") from error
        rows = _from_json if text.lstrip()[:1] in ("{", "[") else _from_csv
        self._found: dict[str, list[Crop]] = {}
        for where, name, numbers in rows(path, text):
            faces = self._found.setdefault(name, [])
            if numbers is not None:
                faces.append(_crop(f"{path}: {where}", numbers))

    def of(self, picture: Path, needed: bool) -> list[Crop]:
        """The faces of a picture; the entry with the longest end of its path counts.

        Args:
            needed: a picture of which the file says nothing is an error; otherwise it has no face.

        Raises:
            UserError: the file says nothing of it.
        """
        ends = (Path(*picture.parts[i:]).as_posix() for i in range(len(picture.parts)))
        for name in (str(picture), *ends):
            if name in self._found:
                return self._found[name]
        if needed:
            raise UserError(f"{picture}: {self._path} names no face in it")
        return []


Row = tuple[str, str, Sequence[Any] | None]  # where it stands, the picture, a face if any


def _from_csv(path: Path, text: str) -> Iterator[Row]:
    for number, row in enumerate(csv.reader(text.splitlines()), start=1):
        cells = [cell.strip() for cell in row]
        if not any(cells) or (number == 1 and not any(map(_numeric, cells[1:]))):  # a header
            continue
        yield f"line {number}", cells[0], cells[1:]


def _numeric(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _from_json(path: Path, text: str) -> Iterator[Row]:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise UserError(f"{path}: not JSON: {error}") from error
    try:
        if isinstance(content, dict) and "frames" in content:
            raise UserError(f"{path}: tells of a video; --boxes is for pictures")
        if isinstance(content, dict) and "faces" not in content:
            for name, boxes in content.items():
                yield name, name, None
                yield from ((name, name, list(box)) for box in boxes)
            return
        for document in content if isinstance(content, list) else [content]:
            name = str(document["image"])
            yield name, name, None
            for face in document["faces"]:
                yield name, name, [*face["box"], face.get("angle", 0)]
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not of a form that is read (runtime/jobs/boxes.py)") from error


def _crop(where: str, numbers: Sequence[Any]) -> Crop:
    try:
        values = [float(number) for number in numbers]
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: {list(numbers)} are no numbers") from error
    if not all(math.isfinite(value) and abs(value) <= LARGEST for value in values):
        raise UserError(f"{where}: {values} are no pixels")
    if len(values) == 10:
        points = np.array(values).reshape(5, 2)
        if np.ptp(points, axis=0).max() < 1:
            raise UserError(f"{where}: five points in one place")
        return from_points(points)
    if len(values) not in (4, 5):
        raise UserError(f"{where}: a face is 4 or 10 numbers, not {len(values)}")
    x, y, width, height, *turned = values
    if width < 1 or height < 1:
        raise UserError(f"{where}: {width:g}×{height:g} pixels are no square")
    side = max(width, height)
    if not turned and width == height and x == round(x) and y == round(y):
        return Crop(round(x), round(y), round(side))
    centre = np.array([x + width / 2 - 0.5, y + height / 2 - 0.5])
    return Crop.around(centre, side, angle=turned[0] if turned else 0.0)
