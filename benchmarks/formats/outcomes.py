"""Tables of what becomes of each value of an axis, such as each wrapper, with the others plain."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from benchmarks.formats.cell import Cell, Result

Axes = Mapping[str, Collection[str]]  # the plain values of each axis

CHECKPOINTS: Axes = {
    "layout": ("MMEditing", "files"),
    "tensors": ("float32",),
    "wrapper": ("none",),
    "file": ("torch.save",),
}


def outcomes(cells: Iterable[Cell], axis: str, plain: Axes) -> str:
    """A table of an axis' values: read, or what the refusal says."""
    others = {name: values for name, values in plain.items() if name != axis}
    rows: dict[str, str] = {}
    for cell in cells:
        if all(cell.axes[name] in values for name, values in others.items()):
            said = {Result.RIGHT: "read", Result.REFUSED: cell.detail}.get(cell.result, "wrong")
            rows.setdefault(cell.axes[axis], said)
    lines = [(axis, "result"), ("---", "---"), *rows.items()]
    return "\n".join(f"| {name} | {said} |".replace("*", r"\*") for name, said in lines)
