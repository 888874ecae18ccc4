"""Face positions read from a file instead of a detector (`--boxes`).

Three formats, coordinates in pixels:

- JSON written by `--landmarks`: one document or a list of documents.
- JSON of the form `{"family.jpg": [[x, y, width, height], …]}`.
- CSV with one face per line: the picture's name, then 4 or 10 numbers.

Four numbers are x, y, width, height of the square from the hair to below the chin; a rectangle is
replaced by the square of its longer side with the same centre. Ten are five points x1,y1,…,x5,y5:
the eye on the picture's left, the other eye, the tip of the nose, and the corners of the mouth.

A picture is named by its path, by the end of its path (`2019/beach.jpg`), or by its file name,
which then applies to every picture with that name.
"""

from __future__ import annotations

import csv
import math
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dic.console import UserError
from dic.documents import parse_json
from dic.files import open_regular
from runtime.faces.crop import Crop, from_points

LARGEST = 1e6  # pixels; larger coordinates are treated as errors


class Boxes:
    """The faces of pictures, read from a file.

    Raises:
        UserError: the file cannot be read, or is malformed; names the line or the picture.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with open_regular(path) as file:
                text = file.read().decode("utf-8-sig")  # Excel writes a byte order mark
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not a text file; save it as UTF-8"
            raise UserError(f"{path}: {reason}") from error
        rows = _from_json if text.lstrip()[:1] in ("{", "[") else _from_csv
        self._faces: dict[str, list[Crop]] = {}
        for where, name, numbers in rows(path, text):
            faces = self._faces.setdefault(_normal(name), [])
            if numbers is not None:
                faces.append(_crop(f"{path}: {where}", numbers))

    def of(self, picture: Path, needed: bool) -> list[Crop]:
        """The faces of a picture, from the entry that matches the longest end of its path.

        Args:
            picture: its path.
            needed: raise an error if the file has no entry for the picture, instead of returning
                no faces.

        Raises:
            UserError: there is no entry and `needed` is true.
        """
        name = self._entry(picture)
        if name is not None:
            return self._faces[name]
        if needed:
            raise UserError(
                f"{picture}: has no entry in {self._path}; add one, or leave out --boxes"
            )
        return []

    def check(self, pictures: Sequence[Path]) -> None:
        """Check that the file is about these pictures.

        Raises:
            UserError: it has an entry for none of several pictures.
        """
        if len(pictures) > 1 and all(self._entry(picture) is None for picture in pictures):
            known = next(iter(self._faces), "no picture")
            raise UserError(
                f"{self._path}: has no entry for any of the {len(pictures)} pictures, such as "
                f"{pictures[0]}; its first entry is for {known}"
            )

    def _entry(self, picture: Path) -> str | None:
        """The name of the entry that matches the longest end of a path."""
        ends = (Path(*picture.parts[i:]).as_posix() for i in range(len(picture.parts)))
        names = (_normal(name) for name in (str(picture), *ends))
        return next((name for name in names if name in self._faces), None)


def _normal(name: str) -> str:
    """A file name as it is compared: macOS decomposes accents, other systems do not."""
    return unicodedata.normalize("NFC", name)


# Location in the file (for messages), name of the picture, and a face's numbers; None in place of
# the numbers adds a picture without a face.
Row = tuple[str, str, Sequence[Any] | None]


def _from_csv(path: Path, text: str) -> Iterator[Row]:
    try:
        rows = list(csv.reader(text.splitlines()))
    except csv.Error as error:
        raise UserError(f"{path}: not valid CSV ({error}); correct it") from error
    for number, row in enumerate(rows, start=1):
        cells = [cell.strip() for cell in row]
        header = number == 1 and not any(map(_numeric, cells[1:]))
        if header or not any(cells):
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
        content = parse_json(text)
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error}); correct it") from error
    try:
        if isinstance(content, dict) and "frames" in content:
            raise UserError(f"{path}: describes a video; --boxes supports pictures only")
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
        raise UserError(
            f"{path}: unexpected JSON structure; see 'Where faces are' in docs/photos.md"
        ) from error


def _crop(where: str, numbers: Sequence[Any]) -> Crop:
    """The crop of a face given by 4 numbers, 5 (the fifth an angle in degrees) or 10."""
    try:
        values = [float(number) for number in numbers]
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{where}: {list(numbers)} must all be numbers") from error
    if not all(math.isfinite(value) and abs(value) <= LARGEST for value in values):
        raise UserError(
            f"{where}: {values} must be finite pixel coordinates of at most {LARGEST:,.0f}"
        )
    if len(values) == 10:
        points = np.array(values).reshape(5, 2)
        if np.ptp(points, axis=0).max() < 1:
            raise UserError(f"{where}: the five points must not coincide")
        return from_points(points)
    if len(values) not in (4, 5):
        raise UserError(
            f"{where}: a face needs 4 or 10 numbers, separated by commas; got {len(values)}"
        )
    x, y, width, height, *angles = values
    if width < 1 or height < 1:
        raise UserError(
            f"{where}: width and height must be at least 1 pixel, got {width:g}×{height:g}"
        )
    side = max(width, height)
    if not angles and width == height and x == round(x) and y == round(y):
        return Crop(round(x), round(y), round(side))
    centre = np.array([x + width / 2 - 0.5, y + height / 2 - 0.5])
    return Crop.around(centre, side, angle=angles[0] if angles else 0.0)
