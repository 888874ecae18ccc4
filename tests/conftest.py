"""Fixtures: tiny networks and engines, drawn faces, and commands."""

from __future__ import annotations

import os

# Two test processes share two cores, and tiny networks gain nothing by threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# The commands set this before they import ONNX Runtime; tests import it without them.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import contextlib
import importlib
import io
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dic.driver import has_driver
from export.exporter import export
from export.graph.interface import Io, Signature
from train.checkpoint import load_checkpoint, save_checkpoint
from train.data.synthetic import draw_faces
from train.model.network import DIC, NetworkConfig

# A shell lets what it runs in the background ignore Ctrl-C, and tests' processes would inherit it.
signal.signal(signal.SIGINT, signal.default_int_handler)

DATA = Path(__file__).parent / "data"
ROOT = Path(__file__).parent.parent
TINY = NetworkConfig(
    channels=4,
    groups=2,
    projection=2,
    fusion_blocks=1,
    hourglass_channels=8,
    hourglass_depth=2,
    steps=2,
)
# Settings that make any recipe on synthetic faces a run of seconds.
TINY_RUN = [
    "network.channels=4",
    "network.groups=2",
    "network.hourglass_channels=8",
    "network.hourglass_depth=2",
    "network.steps=2",
    "data.count=8",
    "data.validation=4",
    "batch_size=2",
    "iterations=6",
    "validate_every=3",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not has_driver():
        for item in items:
            if item.get_closest_marker("gpu"):  # and not the folder of this name
                item.add_marker(pytest.mark.skip(reason="no NVIDIA driver works here"))


Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained network in our own format, small enough for every test."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.pth"
    save_checkpoint(path, DIC(TINY), {"recipe": "test"})
    return path


@pytest.fixture
def tiny_network(tiny_checkpoint: Path) -> DIC:
    return load_checkpoint(tiny_checkpoint).network


@pytest.fixture(scope="session")
def tiny_engine(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny network as an ONNX engine with pictures in and out."""
    path = tmp_path_factory.mktemp("engine") / "tiny.onnx"
    export(load_checkpoint(tiny_checkpoint), Signature(Io.IMAGE, TINY.steps, True), path)
    return path


@pytest.fixture(scope="session")
def faces() -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """64 synthetic faces, (64, 128, 128, 3) uint8 and (64, 68, 2)."""
    return draw_faces(seed=99, count=64)


@pytest.fixture(scope="session")
def face_file(
    faces: tuple[NDArray[np.uint8], NDArray[np.float32]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("face") / "face.png"
    cv2.imwrite(str(path), faces[0][0][:, :, ::-1])
    return path


@pytest.fixture(scope="session")
def photo_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The astronaut with a face of about 24 pixels."""
    import skimage.data
    from PIL import Image

    path = tmp_path_factory.mktemp("photo") / "photo.png"
    Image.fromarray(skimage.data.astronaut()).resize((128, 128), Image.Resampling.BICUBIC).save(
        path
    )
    return path


@pytest.fixture(scope="session")
def command() -> Command:
    """Run `python -m …` as a user does, and see its exit status and output."""

    def call(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", *map(str, arguments)]
        return subprocess.run(
            line, capture_output=True, text=True, timeout=300, cwd=ROOT, **options
        )  # type: ignore[call-overload,no-any-return]

    return call


@pytest.fixture
def here() -> Command:
    """`python -m …` in this process: its `cli`, with its output, errors and exit status.

    A process needs seconds to import PyTorch. `command` starts one, for what only a process shows:
    signals, limits, closed streams, and that `python -m` leads to `cli` at all.
    """

    def call(module: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        name = f"{module}.__main__" if module in ("train", "benchmarks") else module
        cli = importlib.import_module(name).cli
        line = [name, *map(str, arguments)]
        before = signal.getsignal(signal.SIGTERM)
        out, errors = io.StringIO(), io.StringIO()
        try:
            with (
                mock.patch.object(sys, "argv", line),
                mock.patch.dict(os.environ),
                contextlib.chdir(ROOT),
                contextlib.redirect_stdout(out),
                contextlib.redirect_stderr(errors),
                pytest.raises(SystemExit) as left,
            ):
                cli()
        finally:
            signal.signal(signal.SIGTERM, before)
        status = left.value.code
        assert isinstance(status, int)
        return subprocess.CompletedProcess(line, status, out.getvalue(), errors.getvalue())

    return call


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """A machine with a simulated GPU (`tests/gpu/simulated`), which fails what leaks or breaks
    CUDA's rules. The user's cache is empty.
    """
    sys.path.append(str(Path(__file__).parent / "gpu"))
    try:
        from simulated import Machine, installed
    finally:
        sys.path.pop()
    from runtime.cuda import kernels
    from runtime.engines import gpu

    monkeypatch.setattr(gpu, "_GPUS", {})
    monkeypatch.setattr(kernels, "PLACES", (tmp_path,))  # no kernels but those of `fatbin`
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with installed(Machine()) as made:
        yield made
        made.finish()


@pytest.fixture
def fatbin(machine: Any, tmp_path: Path) -> Path:
    """The kernels, as far as the simulated GPU needs a file of them."""
    from runtime.cuda.kernels import FATBIN, report

    report.cache_clear()
    path = tmp_path / FATBIN
    path.touch()
    return path


@pytest.fixture
def infer(here: Command) -> Command:
    return partial(here, "runtime.infer")


def one_line_error(done: subprocess.CompletedProcess[str], status: int) -> str:
    """The error of a command that failed as it should: one line, no traceback."""
    assert done.returncode == status, f"status {done.returncode}: {done.stderr}"
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    return errors[0]
