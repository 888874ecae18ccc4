"""`python -m benchmarks.matrix`: generated files of every layout that a format has.

Each file is encoded by something that is not ours, and must be read as a second decoder or the
specification has it, or be refused by an error that names the reason.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

from benchmarks.formats.cell import Cell, Result, counts, grouped
from benchmarks.formats.outcomes import Axes, outcomes
from benchmarks.report.rows import check_parts, read_kept
from dic.console import Parser, run
from dic.files import write_json
from dic.outputs import check_outputs
from dic.progress import Progress


@dataclass(frozen=True)
class Kind:
    """Files of one kind.

    Attributes:
        cells: makes, reads and judges one file after the other.
        libraries: the distributions on which the results depend.
    """

    cells: Callable[[], Iterator[Cell]]
    libraries: tuple[str, ...]


def _pictures() -> Iterator[Cell]:
    from benchmarks.formats.pictures.judge import cells

    return cells()


def _videos() -> Iterator[Cell]:
    from benchmarks.formats.videos.cells import cells

    return cells()


def _checkpoints() -> Iterator[Cell]:
    from benchmarks.formats.checkpoints.judge import cells

    return cells()


# Imported when measured: tables of results need none of the libraries that make files.
KINDS: dict[str, Kind] = {
    "pictures": Kind(_pictures, ("pyvips-binary", "opencv-python-headless", "pillow", "tifffile")),
    "videos": Kind(_videos, ("av", "imageio-ffmpeg")),
    "checkpoints": Kind(_checkpoints, ("torch", "safetensors", "onnxruntime")),
}


def measured(name: str) -> dict[str, Any]:
    """All cells of a kind, with the versions of the libraries; those that are wrong are printed."""
    kind, cells = KINDS[name], []
    with Progress(desc=name, unit="file") as bar:
        for cell in kind.cells():
            cells.append(cell.content())
            bar.update()
            if cell.result is Result.WRONG:
                bar.say(f"{name}: {cell}")
    versions = {library: metadata.version(library) for library in kind.libraries}
    return {"versions": versions, "cells": cells}


def cells_of(content: Mapping[str, Any], name: str) -> list[Cell]:
    """The cells of a kind in a results file."""
    return [Cell.of(cell) for cell in content["kinds"][name]["cells"]]


def summary(content: Mapping[str, Any]) -> str:
    """How many files of each kind are right, refused and wrong, as a table."""
    return counts({name: cells_of(content, name) for name in content["kinds"]}, "kind")


def by_group(name: str) -> Callable[[bytes], str]:
    """What makes a table of a kind's groups, such as formats, of a results file."""

    def made(data: bytes) -> str:
        groups = grouped(cells_of(json.loads(data), name))
        return counts(groups, next(iter(next(iter(groups.values()))[0].axes)))

    return made


def shown(name: str, table: Callable[[Sequence[Cell]], str]) -> Callable[[bytes], str]:
    """What makes a table of a kind's cells from a results file."""
    return lambda data: table(cells_of(json.loads(data), name))


def by_outcome(name: str, axis: str, plain: Axes) -> Callable[[bytes], str]:
    """What makes a table of what becomes of each value of an axis, of a results file."""
    return lambda data: outcomes(cells_of(json.loads(data), name), axis, plain)


def main(arguments: list[str]) -> int:
    parser = Parser(
        prog="python -m benchmarks.matrix",
        description="Read generated files of every layout, and report those that are neither read "
        "right nor refused by name.",
    )
    add = parser.add_argument
    add("kinds", nargs="*", metavar="KIND", help=f"{', '.join(KINDS)} (default: all)")
    add("--json", type=Path, metavar="FILE",
        help="write the results as JSON; those of other kinds in FILE are kept")  # fmt: skip
    options = parser.parse_args(arguments)
    check_parts(parser, options.kinds, KINDS)
    check_outputs(filter(None, [options.json]), [])
    found = {name: measured(name) for name in options.kinds or KINDS}
    kept = read_kept(options.json).get("kinds", {})
    content = {
        "kinds": {name: found.get(name) or kept[name] for name in KINDS if name in found | kept}
    }
    if options.json:
        write_json(options.json, content)
    print(summary({"kinds": found}))
    wrong = (cell["result"] == Result.WRONG for kind in found.values() for cell in kind["cells"])
    return 1 if any(wrong) else 0


def cli() -> NoReturn:
    run(main, "benchmarks")


if __name__ == "__main__":
    cli()
