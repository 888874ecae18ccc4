"""What is read of each picture format, and why the rest is refused, as tables of measured cells."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from benchmarks.formats.cell import Cell, Result, grouped

HEAD = ("format", "files", "colours: bits (of PNM, white)", "alpha", "turned", "profile", "refused")
DAMAGE = "not a picture"
LARGE = "is larger than"


def read_formats(cells: Sequence[Cell]) -> str:
    """Formats of which at least one file is read."""
    rows = []
    for name, found in grouped(cells).items():
        right = [cell.axes for cell in found if cell.result is Result.RIGHT]
        if not right:
            continue
        bits: dict[str, list[str]] = {}
        for axes in right:
            bits.setdefault(axes["colours"], []).append(axes["depth"].removeprefix("white is "))
        colours = "; ".join(f"{colour}: {_listed(depths)}" for colour, depths in bits.items())
        turns = len({axes["orientation"] for axes in right})
        rows.append(
            [
                name,
                f"{len(right)} + {len(found) - len(right)}",
                colours,
                _listed(axes["alpha"] for axes in right),
                f"{turns} ways" if turns > 1 else "",
                _listed(axes["profile"] for axes in right),
                "; ".join(_reasons(found)),
            ]
        )
    return _table(HEAD, rows)


def refused_formats(cells: Sequence[Cell]) -> str:
    """Kinds of files of which none is read."""
    rows = [
        [name, found[0].detail]
        for name, found in grouped(cells).items()
        if all(cell.result is Result.REFUSED for cell in found)
    ]
    return _table(("file", "message"), rows)


def _listed(values: Iterable[str]) -> str:
    """Distinct values in order, without empty ones."""
    return ", ".join(dict.fromkeys(filter(None, values)))


def _reasons(cells: Iterable[Cell]) -> list[str]:
    """Why layouts are refused, without what to do; those that differ in a number are one."""
    numbers: dict[tuple[str, str], list[str]] = {}
    for cell in cells:
        reason = cell.detail.partition(";")[0]
        if cell.result is Result.REFUSED and not reason.startswith(DAMAGE) and LARGE not in reason:
            before, number, after = (*re.split(r"(\d+)", reason, maxsplit=1), "", "")[:3]
            alike = numbers.setdefault((before, after.replace(" bits", " bit")), [])
            alike += [] if number in alike else [number]
    return [
        before + ", ".join(sorted(listed, key=lambda number: (len(number), number))) + after
        for (before, after), listed in numbers.items()
    ]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table without padding: its cells are long."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
