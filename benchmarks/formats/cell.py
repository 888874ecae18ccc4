"""One cell of a matrix of files: what the file is, and what became of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from benchmarks.report.markdown import table


class Result(StrEnum):
    """What became of a file."""

    RIGHT = "right"
    REFUSED = "refused"
    WRONG = "wrong"


@dataclass(frozen=True)
class Cell:
    """One file of a matrix.

    Attributes:
        axes: its value on each axis, in order; the first names the group that tables show, such as
            {"format": "PNG", "layout": "grey, 16 bits"}.
        result: right: as a second decoder or the specification has it. Refused: by an error that
            names the reason, with the right exit status. Wrong: anything else.
        detail: of a refused file, the error without the file's name; of a wrong one, the
            difference.
    """

    axes: Mapping[str, str]
    result: Result
    detail: str = ""

    def __str__(self) -> str:
        return ", ".join(filter(None, self.axes.values())) + (f": {self.detail}" if self.detail else "")

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Cell:
        """A cell from its JSON."""
        return cls(content["axes"], Result(content["result"]), content["detail"])

    def content(self) -> dict[str, Any]:
        """The cell's JSON."""
        return asdict(self)


def counts(groups: Mapping[str, Iterable[Cell]], name: str) -> str:
    """A table of how many cells of each group are right, refused and wrong.

    Args:
        groups: the rows' cells by name.
        name: of what the groups are.
    """
    rows = []
    for group, cells in groups.items():
        found = Counter(cell.result for cell in cells)
        numbers = (found.total(), found[Result.RIGHT], found[Result.REFUSED], found[Result.WRONG])
        rows.append([group, *(f"{number:,}" for number in numbers)])
    return table([name, "files", "right", "refused by name", "wrong"], rows)


def grouped(cells: Iterable[Cell]) -> dict[str, list[Cell]]:
    """Cells by their value on the first axis."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(next(iter(cell.axes.values())), []).append(cell)
    return groups
