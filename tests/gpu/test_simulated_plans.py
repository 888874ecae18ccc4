"""Which plans are loaded, with which rights, and what TensorRT-RTX keeps of them."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from conftest import Command
from onnx import TensorProto
from simulated import Machine
from simulated.make import LIBRARIES, foreign_plan, make_plan

from dic.engine_file import EngineError
from export.plan.flavour import pick
from runtime.engines.load import load_engine

IMAGE = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"batch": ((1, 2, 4), (1, 8, 16))}, "it has 2 profiles, not 1"),
        ({"shape": ()}, "x0 is a scalar"),
        ({"shape": ("n", "m")}, "dynamic sizes besides the batch"),
        ({"kind": TensorProto.BFLOAT16}, "x0 is BF16"),
        ({"inputs": 2}, "it has 2 inputs and 1 outputs"),
        ({}, "its input is x0 float32"),
    ],
)
@pytest.mark.parametrize("module", LIBRARIES)
def test_foreign_plans_are_refused_in_one_line(
    module: str, changes: dict[str, object], why: str, machine: Machine, tmp_path: Path
) -> None:
    plan = foreign_plan(tmp_path / "other.trt", module, **changes)
    with pytest.raises(EngineError, match=why) as caught:
        load_engine(plan, "cuda")
    assert "\n" not in str(caught.value)


def test_a_plan_without_our_json_says_what_trusting_it_means(
    machine: Machine, tiny_engine: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plan = make_plan(tiny_engine, tmp_path / "bare.trt", sidecar=False)
    with load_engine(plan, "cuda") as engine:
        assert engine.metadata.precision == "unknown"
    assert "a plan is a program" in caplog.text


@pytest.mark.parametrize("ours", [True, False])
def test_host_code_runs_only_in_plans_that_we_built_so(
    ours: bool, machine: Machine, tiny_engine: Path, tmp_path: Path
) -> None:
    plan = make_plan(
        tiny_engine, tmp_path / "x.trt", "tensorrt", version_compatible=ours, host_code=True
    )
    if ours:
        load_engine(plan, "cuda").close()
        return
    with pytest.raises(EngineError, match="host code, which is not allowed"):
        load_engine(plan, "cuda")


def test_a_plan_for_another_gpu_or_version_says_so(
    machine: Machine, tiny_engine: Path, tmp_path: Path
) -> None:
    for changes, why in (
        ({"capability": (9, 0)}, "incompatible device"),
        ({"version": "9.1"}, "built with version 9.1"),
    ):
        plan = make_plan(tiny_engine, tmp_path / "x.trt", "tensorrt", **changes)
        with pytest.raises(EngineError, match=f"cannot load the plan .*{why}"):
            load_engine(plan, "cuda")


# TensorRT-RTX's own.


@pytest.fixture
def rtx(tiny_engine: Path, tmp_path: Path) -> Path:
    return make_plan(tiny_engine, tmp_path / "dic.trt")


def test_kernels_are_compiled_before_a_run_counts_and_once(rtx: Path, machine: Machine) -> None:
    for first in (True, False):
        machine.compilations = 0
        with load_engine(rtx, "cuda") as engine:
            engine.run({"image": IMAGE})
            assert machine.fallbacks == 0
            assert (machine.compilations > 0) is first
    machine.gpus[0].name = "Another GPU"
    with load_engine(rtx, "cuda"):
        assert machine.compilations > 0


def test_a_cache_that_is_damaged_or_not_the_users_is_not_read(
    rtx: Path, machine: Machine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    load_engine(rtx, "cuda").close()
    folder = tmp_path / "cache" / "dic-toolkit" / "tensorrt-rtx"
    (file,) = folder.iterdir()
    assert folder.stat().st_mode & 0o077 == 0
    for damage, why in (
        (lambda: file.write_bytes(b"?"), "kernels are compiled again"),
        (lambda: folder.chmod(0o777), "others may write"),
    ):
        damage()
        machine.compilations = 0
        load_engine(rtx, "cuda").close()
        assert machine.compilations > 0
        assert why in caplog.text


def test_a_home_that_cannot_be_written_costs_only_time(
    rtx: Path, machine: Machine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    (tmp_path / "cache").write_text("a file")
    load_engine(rtx, "cuda").close()
    assert "compiled kernels are not kept" in caplog.text


# Other commands about plans.


@pytest.mark.parametrize("module", LIBRARIES)
def test_inspect_reads_a_plan_without_loading_it(
    module: str, here: Command, machine: Machine, tiny_engine: Path, tmp_path: Path
) -> None:
    done = here("export.inspect", make_plan(tiny_engine, tmp_path / "x.trt", module))
    assert done.returncode == 0, done.stderr
    says = "yes, with TensorRT-RTX" if module == "tensorrt_rtx" else "unknown: built by 1.7.1"
    assert f"runs here: {says}" in done.stdout
    assert machine.allocations == 0


def test_the_builder_is_the_one_for_the_gpu(machine: Machine) -> None:
    for capability, module in (
        ((7, 5), "tensorrt_rtx"),
        ((8, 0), "tensorrt"),
        ((8, 9), "tensorrt_rtx"),
        ((9, 0), "tensorrt"),
        ((12, 1), "tensorrt_rtx"),
    ):
        machine.gpus[0].capability = capability
        assert pick("auto", builds=False).module == module
