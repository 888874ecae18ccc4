"""The GPU check on machines without a GPU: stages fail or are skipped with a reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import ROOT, Command, one_line_error

from benchmarks import gpu_check, gpu_parts
from benchmarks.gpu_check import FAILED, PASSED, SKIPPED, Check
from dic.driver import has_driver

without_gpu = pytest.mark.skipif(has_driver(), reason="tests machines without a GPU")


def stages(out: Path) -> dict[str, dict[str, str]]:
    return {stage["name"]: stage for stage in json.loads((out / "summary.json").read_text())}


@without_gpu
def test_stages_go_on_after_one_that_fails(
    command: Command, tiny_checkpoint: Path, tiny_engine: Path, tmp_path: Path
) -> None:
    out, work = tmp_path / "out", tmp_path / "work"
    work.mkdir()
    (work / "compact-fp32.onnx").write_bytes(tiny_engine.read_bytes())
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / "pycuda-0.tar.gz").write_bytes(b"nothing")
    line = ["benchmarks.gpu_check", "--out", out, "--work", work, "--wheels", tmp_path / "wheels"]
    line += ["--checkpoint", tiny_checkpoint]
    only = ["install", "plans", "load", "photographs", "endurance", "measure"]
    done = command(*line, "--only", *only)
    assert done.returncode == 1, done.stderr
    found = stages(out)
    assert found["install tensorrt_rtx"]["status"] == SKIPPED
    assert found["install pycuda-0.tar.gz"]["status"] == FAILED
    assert found["plan of compact-fp32.onnx"]["status"] == PASSED, "builds without a GPU"
    assert found["plan for 8.0"]["status"] == PASSED
    run = found["run compact-fp32.trt"]
    assert run["status"] == FAILED
    assert "no NVIDIA driver works here" in run["said"]
    assert "no CUDA provider" in found["run compact-fp32.onnx"]["said"]
    assert found["photographs"]["status"] == SKIPPED
    assert found["10000 runs"]["status"] == SKIPPED
    assert found["benchmarks compact"]["status"] == SKIPPED
    assert "| run compact-fp32.trt " in (out / "summary.md").read_text()
    assert "no NVIDIA driver works here" in (out / "log.txt").read_text()


def test_stages_have_timeouts(tmp_path: Path) -> None:
    import time

    check = Check(tmp_path, tmp_path, None, tmp_path / "no.pth", time.monotonic() + 60)
    assert not check.command("slow", ["sh", "-c", "echo begun; sleep 60"], 5.0)
    assert check.command("quick", ["echo", "answer: yes"], 30)
    assert not check.command("absent", ["/no/such/program"], 30)
    check.deadline = time.monotonic()
    assert not check.command("late", ["true"], 30)
    slow, quick, absent, late = check.stages
    assert "begun stopped after 5 s" in slow.said
    assert (quick.status, quick.said) == (PASSED, "answer: yes")
    assert "No such file" in absent.said
    assert (late.status, late.said) == (SKIPPED, "no time left")
    assert gpu_check._status(check.stages) == 1
    assert gpu_check._status([quick]) == 0
    assert gpu_check._status([slow, late]) == 2


def test_the_export_part(tiny_checkpoint: Path, tmp_path: Path) -> None:
    from runtime.engines.load import load_engine

    path = tmp_path / "compact-fp32.onnx"
    gpu_parts.part_export(str(tiny_checkpoint), str(path))
    with load_engine(path, "cpu") as engine:
        assert engine.metadata.precision == "fp32"
        assert engine.metadata.landmarks == 68


def test_wrong_calls_are_one_line(command: Command, tmp_path: Path) -> None:
    line = ("benchmarks.gpu_check", "--out", tmp_path / "out", "--work", tmp_path / "work")
    assert "is not a folder" in one_line_error(command(*line, "--wheels", tmp_path / "none"), 2)
    assert "invalid choice" in one_line_error(command(*line, "--only", "all"), 2)
    assert not (tmp_path / "out").exists()
    assert "gpu-check:" in (ROOT / "Makefile").read_text()
