"""The matrix of checkpoints: layouts × types of tensors × wrappers, and files of other formats.

A network that is read must have, bit for bit, the weights that PyTorch's own `load_state_dict`
makes of the same tensors, and so computes the same. The layouts of others are held against the
outputs that their implementations gave (`tests/data`).
"""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.formats.cell import Cell, Result
from benchmarks.formats.checkpoints.content import (
    CHANGES,
    DATA,
    STEPS,
    WRAPPERS,
    Network,
    Tensors,
    float32,
    networks,
    probe,
)
from benchmarks.formats.checkpoints.files import FILES, File
from benchmarks.formats.outcomes import CHECKPOINTS
from dic.console import UserError
from train.checkpoint import load_checkpoint
from train.model.network import DIC

OUTPUTS = {"MMEditing": "dic_small_expected.npz", "the authors'": "dic_small_original_expected.npz"}
PLAIN = ("float32", "none", "torch.save")
TOLERANCE = 1e-4  # of outputs computed by other implementations
# Files that the command is given too; a process each.
COMMANDS = (
    "torch.save", "torch.save before 1.6", "safetensors", "a whole nn.Module", "TorchScript",
    "within gzip", "a web page", "Git LFS's pointer", "first 50%", "zeros in the middle",
    "a folder",
)  # fmt: skip


def cells(step: int = 1, quick: bool = False) -> Iterator[Cell]:
    """Every checkpoint of the matrix, made and read.

    Args:
        step: take every so manieth combination of types and wrappers.
        quick: leave out what starts processes, and files that are slow to make.
    """
    chosen = (number % step == 0 for number in itertools.count())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for network in networks():
            yield from _known_outputs(network, folder)
            yield from _contents(network, folder, chosen)
        network = networks()[1]
        for file in FILES:
            if not (quick and file.slow):
                yield _file(network, file, folder)
            if not quick and file.name in COMMANDS:
                yield _command(network, file, folder)


def _known_outputs(network: Network, folder: Path) -> Iterator[Cell]:
    """Whether a file of another project makes the network compute what that project's does."""
    if network.layout not in OUTPUTS:
        return
    path = folder / "known.pth"
    torch.save(network.wrapped(network.tensors), path)
    known = np.load(DATA / OUTPUTS[network.layout])
    with torch.no_grad():
        given = load_checkpoint(path).network(torch.from_numpy(known["lq"]), len(known["sr"]))
    off = max(
        float(np.abs(mine.numpy() - theirs).max())
        for kind, steps in (("sr", given.sr), ("heatmap", given.heatmaps))
        for mine, theirs in zip(steps, known[kind], strict=True)
    )
    axes = _axes(network.layout, "the project's own outputs", *PLAIN[1:])
    right = off <= TOLERANCE
    yield Cell(axes, Result.RIGHT if right else Result.WRONG, "" if right else f"off by {off:.2g}")


def _axes(*values: str) -> dict[str, str]:
    return dict(zip(CHECKPOINTS, values, strict=True))


def _contents(network: Network, folder: Path, chosen: Iterator[bool]) -> Iterator[Cell]:
    """All types in all wrappers, the project's own among them."""
    own = ("the project's own", network.wrapped, "")
    wrappers = [own, *((w.name, w.made, w.refused) for w in WRAPPERS)]
    path = folder / "content.pth"
    for change in CHANGES:
        changed = change.made(network.tensors)
        wanted = None if change.refused else _expected(network, changed, folder)
        for name, made, refused in wrappers:
            if not next(chosen):
                continue
            torch.save(made(changed), path)
            why = "|".join(filter(None, (change.refused, refused)))
            axes = _axes(network.layout, change.name, name, PLAIN[2])
            yield judged(axes, path, wanted, why)


def _expected(network: Network, changed: Tensors, folder: Path) -> Tensors:
    """The weights that PyTorch makes of tensors."""
    kept = {name: t for name, t in float32(changed).items() if name in network.tensors}
    path = folder / "expected.pth"
    if network.layout == "the authors'":  # whose names are held against outputs: `_known_outputs`
        torch.save(network.wrapped(kept), path)
        return load_checkpoint(path).network.state_dict()
    loaded = DIC(network.config)
    loaded.load_state_dict(kept)
    return loaded.state_dict()


def judged(axes: dict[str, str], path: Path, wanted: Tensors | None, refused: str) -> Cell:
    """Read a checkpoint and compare.

    Args:
        wanted: the network's weights; None if the file must be refused.
        refused: a pattern of the refusal's reason.
    """
    try:
        given = load_checkpoint(path).network.state_dict()
    except UserError as error:
        return judged_error(axes, str(error), path, refused)
    except Exception as error:
        return Cell(axes, Result.WRONG, f"{type(error).__name__}: {' '.join(str(error).split())}")
    if refused or wanted is None:
        return Cell(axes, Result.WRONG, "was read")
    off = [name for name in wanted if not torch.equal(given[name], wanted[name])]
    if off or len(given) != len(wanted):
        return Cell(axes, Result.WRONG, f"{len(off)} tensors differ, such as {off[:1]}")
    return Cell(axes, Result.RIGHT)


def judged_error(axes: dict[str, str], text: str, path: Path, refused: str) -> Cell:
    """Whether an error names the file and the reason, in one line."""
    reason = text.replace(f"{path}: ", "", 1)
    named = str(path) in text and "\n" not in text
    right = bool(refused and named and re.search(refused, reason))
    return Cell(axes, Result.REFUSED if right else Result.WRONG, reason)


def _file(network: Network, file: File, folder: Path) -> Cell:
    path = _saved(network, file, folder)
    wanted = None if file.refused else _expected(network, network.tensors, folder)
    return judged(_axes("files", *PLAIN[:2], file.name), path, wanted, file.refused)


def _saved(network: Network, file: File, folder: Path) -> Path:
    path = Path(tempfile.mkdtemp(dir=folder)) / f"ckpt{file.suffix}"
    file.save({"epoch": 3, "state_dict": network.tensors}, path)
    return path


def _command(network: Network, file: File, folder: Path) -> Cell:
    """The same by `python -m export.onnx`: its status, its one line, and what it writes."""
    path = _saved(network, file, folder)
    axes = _axes("export.onnx", *PLAIN[:2], file.name)
    engine = path.with_name("dic.onnx")
    line = [sys.executable, "-m", "export.onnx", str(path), "-o", str(engine)]
    options = ["--steps", str(STEPS), "--io", "tensor"]
    done = subprocess.run([*line, *options], capture_output=True, text=True, check=False)
    errors = [text for text in done.stderr.splitlines() if text.startswith("error: ")]
    if file.refused:
        if done.returncode != 2 or len(errors) != 1 or engine.exists():
            return Cell(axes, Result.WRONG, f"status {done.returncode}: {done.stderr[-300:]}")
        return judged_error(axes, errors[0].removeprefix("error: "), path, file.refused)
    if done.returncode:
        return Cell(axes, Result.WRONG, f"status {done.returncode}: {done.stderr[-300:]}")
    off = _engine_error(engine, network, folder)
    right = off <= TOLERANCE
    return Cell(axes, Result.RIGHT if right else Result.WRONG, "" if right else f"off by {off:.2g}")


def _engine_error(engine: Path, network: Network, folder: Path) -> float:
    """How far an engine's face is from PyTorch's, in ONNX Runtime without our runtime."""
    import onnxruntime

    session: Any = onnxruntime.InferenceSession(str(engine), providers=["CPUExecutionProvider"])
    name, output = session.get_inputs()[0].name, session.get_outputs()[0].name
    given = session.run([output], {name: probe().numpy()})[0]
    torch.save(network.wrapped(network.tensors), folder / "expected.pth")
    with torch.no_grad():
        wanted = load_checkpoint(folder / "expected.pth").network(probe(), STEPS).sr[-1].numpy()
    return float(np.abs(given - wanted).max())
