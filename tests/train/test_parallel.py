"""Training on several processes gives the result of training on one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import gradients
import pytest
import torch
from conftest import ROOT, TINY_RUN, Command, one_line_error
from forked import FORKED, train_command

# The weights of the losses are the paper's.
LOSSES = ["align_weight=0.1", "peak_weight=0", "gan.start=0", "gan.feature_weight=0"]
SETTINGS = [*TINY_RUN, *LOSSES, "batch_size=4"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]

TRAIN = ["-m", "train", "--recipe", "synthetic-demo"]


def run(*arguments: str) -> None:
    paths = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
    done = subprocess.run(
        [*TORCHRUN, *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


def two_processes(folder: Path, *arguments: str, status: int = 0) -> str:
    """`python -m train` in two processes with the variables that torchrun sets; their messages."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    world = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "test"}
    world |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    running = []
    for rank in ("0", "1"):
        environment = world | {"RANK": rank, "LOCAL_RANK": rank}
        errors = folder / f"errors{rank}"
        process = FORKED.Process(target=train_command, args=(arguments, errors, environment))
        process.start()
        running.append((process, errors))
    for process, errors in running:
        process.join(120)
        assert process.exitcode == status, errors.read_text()
    return "".join(errors.read_text() for _, errors in running)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The gradients of the whole batch in one process."""
    out = tmp_path_factory.mktemp("alone") / "out.pth"
    gradients.main(str(out), *SETTINGS)
    content: dict[str, Any] = torch.load(out, weights_only=True)
    return content


def assert_same_gradients(alone: dict[str, Any], other: dict[str, Any]) -> None:
    """Assert that gradients differ by at most 1e-6, which is small relative to the gradients."""
    assert other["gradients"].keys() == alone["gradients"].keys()
    worst, largest = 0.0, 0.0
    for name, gradient in alone["gradients"].items():
        assert (gradient is None) == (other["gradients"][name] is None), name
        if gradient is not None:
            worst = max(worst, (gradient - other["gradients"][name]).abs().max().item())
            largest = max(largest, gradient.abs().max().item())
    assert largest > 1e-2, "the gradients are too small for this comparison"
    assert worst <= 1e-6, f"differ by {worst:.1e}, the largest is {largest:.1e}"


def test_two_processes_give_the_gradients_of_one_with_the_doubled_batch(
    alone: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "out.pth"
    run("tests/gradients.py", str(out), *SETTINGS)
    two = torch.load(out, weights_only=True)
    assert_same_gradients(alone, two)
    assert two["psnr"] == pytest.approx(alone["psnr"], abs=1e-3)


def test_accumulated_parts_give_the_gradients_of_the_whole_batch(
    alone: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "out.pth"
    gradients.main(str(out), *SETTINGS, "accumulate=2")
    assert_same_gradients(alone, torch.load(out, weights_only=True))


def test_two_processes_train_and_resume(tmp_path: Path) -> None:
    settings = [*TINY_RUN, "batch_size=4", "iterations=4", "validate_every=2"]
    line = [*TRAIN, "--out", str(tmp_path), "--resume", *settings]
    two_processes(tmp_path, *line[2:], "--max-iters", "2")
    two_processes(tmp_path, *line[2:])
    state = torch.load(tmp_path / "state.pth", weights_only=True)
    assert state["progressed"]["iteration"] == 4
    assert [entry["iteration"] for entry in state["progressed"]["log"]] == [2, 4]
    assert (tmp_path / "best.pth").exists()


def test_one_step_trains_in_two_processes(tmp_path: Path) -> None:
    """The block of the later steps then gets no gradients."""
    settings = [*TINY_RUN, "network.steps=1", "iterations=3"]
    two_processes(tmp_path, *TRAIN[2:], "--out", str(tmp_path), *settings)
    assert torch.load(tmp_path / "state.pth", weights_only=True)["progressed"]["iteration"] == 3


def test_an_error_of_the_first_process_is_printed_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    line = [*TRAIN[2:], "--out", str(tmp_path / "file" / "x"), *TINY_RUN]
    said = two_processes(tmp_path, *line, status=2)
    assert said.count("cannot be written") == 1, said


def test_a_batch_that_cannot_be_divided_is_refused(
    tmp_path: Path, here: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    line = ["train", *TRAIN[2:], "--out", tmp_path / "x", *TINY_RUN, "batch_size=3"]
    assert "batch_size 3 is not a multiple of 2 processes" in one_line_error(here(*line), 2)
    assert not (tmp_path / "x").exists()
