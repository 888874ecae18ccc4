"""The matrix of picture files."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.formats.cell import Cell


def cells() -> Iterator[Cell]:
    """Every picture file of the matrix, made and read."""
    yield from ()
