"""Generated checkpoints: a short form of `python -m benchmarks.matrix checkpoints`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.formats.cell import Cell, Result
from benchmarks.formats.checkpoints.content import CHANGES, WRAPPERS, networks
from benchmarks.formats.checkpoints.files import FILES
from benchmarks.formats.checkpoints.judge import cells, judged
from benchmarks.formats.outcomes import CHECKPOINTS, outcomes
from train.model.network import DIC

STEP = 31  # of the combinations of types and wrappers; no divisor of the number of wrappers


def test_checkpoints_are_read_right_or_refused_by_name() -> None:
    found = list(cells(STEP, quick=True))
    assert not [str(cell) for cell in found if cell.result is Result.WRONG]
    assert {cell.axes["tensors"] for cell in found} >= {change.name for change in CHANGES}
    assert {cell.axes["wrapper"] for cell in found} >= {wrapper.name for wrapper in WRAPPERS}
    assert {cell.axes["file"] for cell in found} == {file.name for file in FILES if not file.slow}


@pytest.mark.parametrize(
    ("changed", "refused", "why"),
    [(1.5, "", "tensors differ"), (1.0, "damaged", "was read"), (0.0, "", "such file")],
)
def test_what_is_wrong_is_seen(changed: float, refused: str, why: str, tmp_path: Path) -> None:
    """Other weights than the file's, a file that should be refused, and an unexpected refusal."""
    network = networks()[0]
    path = tmp_path / "a.pth"
    if changed:
        torch.save(network.wrapped(network.tensors), path)
    loaded = DIC(network.config)
    loaded.load_state_dict({name: t * changed for name, t in network.tensors.items()})
    cell = judged(dict.fromkeys(CHECKPOINTS, "x"), path, loaded.state_dict(), refused)
    assert cell.result is Result.WRONG
    assert why in cell.detail


def test_outcomes_are_those_with_all_else_plain() -> None:
    plain = {axis: values[0] for axis, values in CHECKPOINTS.items()}
    found = [
        Cell(plain, Result.RIGHT),
        Cell({**plain, "wrapper": "a list"}, Result.REFUSED, "contains a list"),
        Cell({**plain, "tensors": "int8", "wrapper": "a list"}, Result.REFUSED, "other"),
    ]
    text = outcomes(found, "wrapper", CHECKPOINTS)
    assert text.splitlines()[2:] == ["| none | read |", "| a list | contains a list |"]
