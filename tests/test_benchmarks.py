from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import DATA, TINY_RUN, Command, one_line_error

from benchmarks.__main__ import accuracy_table, latency_table, table
from benchmarks.accuracy import Accuracy, measure_accuracy
from benchmarks.latency import Latency, as_engine, measure_latency, reference
from benchmarks.peers import openvino
from export.engine_io import Io, Signature
from export.unroll import export
from runtime.console import UserError
from runtime.engine import EngineError
from runtime.load import load_engine
from train.checkpoint import load_checkpoint


def test_ratios_are_against_the_reference_of_the_same_batch() -> None:
    rows = [
        Latency("eager", 1, (10.0, 12.0, 11.0)),
        Latency("engine", 1, (5.0, 5.5, 90.0)),
        Latency("eager", 4, (40.0,)),
        Latency("engine", 4, (10.0,)),
    ]
    assert rows[1].median == 5.5
    lines = [line.split("|") for line in latency_table(rows).splitlines() if "engine" in line]
    assert [line[3].strip() for line in lines] == ["2.00×", "4.00×"]
    assert [line[5].strip() for line in lines] == ["181.8", "400.0"]


def test_tables_are_markdown() -> None:
    lines = table(("", "a"), [("x", "10"), ("long name", "2")]).splitlines()
    assert lines[1].replace("-", "") == "||:|"
    assert len({len(line) for line in lines}) == 1
    assert "0.5000" in accuracy_table([Accuracy("e", 25.0, 0.5, None, 3)], 10)


def test_a_fast_but_wrong_contender_is_no_contender() -> None:
    def right(image: np.ndarray) -> np.ndarray:
        return image

    def wrong(image: np.ndarray) -> np.ndarray:
        return image ^ 2

    with pytest.raises(UserError, match="wrong differs from right by 2"):
        measure_latency({"right": right, "wrong": wrong}, [1], rounds=1)
    rows = measure_latency({"right": right, "same": right}, [1, 2], rounds=3)
    assert [(row.name, row.batch, len(row.milliseconds)) for row in rows] == [
        ("right", 1, 3),
        ("same", 1, 3),
        ("right", 2, 3),
        ("same", 2, 3),
    ]


def test_accuracy_sees_the_truth(tiny_checkpoint: Path, tiny_engine: Path) -> None:
    network = load_checkpoint(tiny_checkpoint).network
    with load_engine(tiny_engine) as engine:
        runs = {"eager": reference(network), "engine": as_engine(engine)}
        first = {"step 1": reference(network, steps=1)}
        floor, step, eager, onnx = measure_accuracy(runs, 10, first)
    assert [floor.name, step.name] == ["bicubic", "step 1"]
    assert step.difference is None
    assert step.nme != eager.nme
    assert floor.psnr > 20
    assert eager.difference == 0
    assert onnx.difference is not None
    assert onnx.difference <= 1
    assert onnx.psnr == pytest.approx(eager.psnr, abs=0.01)
    assert onnx.nme == pytest.approx(eager.nme, rel=0.05)


def test_the_command(
    command: Command, tiny_checkpoint: Path, tiny_engine: Path, tmp_path: Path
) -> None:
    out = tmp_path / "results.json"
    common = ("--engine", tiny_engine, "--reference", tiny_checkpoint)
    done = command(
        "benchmarks", "all", *common, "--rounds", 2, "--faces", 4, "--batch", 1, 3, "--json", out
    )
    assert done.returncode == 0, done.stderr
    assert "PSNR dB" in done.stdout
    results = json.loads(out.read_text())
    assert results["version"] == 1
    assert len(results["latency"]) == 4
    assert results["accuracy"][0]["name"] == "bicubic"
    assert "benchmarks all" in results["machine"]["command"]


def test_peers_give_the_same_faces(
    command: Command, tiny_checkpoint: Path, tiny_engine: Path, tmp_path: Path
) -> None:
    out = tmp_path / "results.json"
    common = ("--engine", tiny_engine, "--reference", tiny_checkpoint, "--peers")
    done = command(
        "benchmarks", "all", *common, "--rounds", 1, "--faces", 3, "--batch", 2, "--json", out
    )
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(out.read_text())["accuracy"]}
    for name in ("PyTorch channels-last", f"OpenVINO on {tiny_engine.name}"):
        assert rows[name]["difference"] <= 1
    with pytest.raises(EngineError, match="is a checkpoint"):
        openvino(tiny_checkpoint)


def test_training_speed_is_measured_beside_a_plain_loop(command: Command, tmp_path: Path) -> None:
    out = tmp_path / "speed.json"
    run = ["benchmarks.training", "--recipe", "synthetic-demo", "--rounds", 2, "--json", out]
    done = command(*run, *TINY_RUN, "data.count=4", "precision=bf16")
    assert done.returncode == 0, done.stderr
    results = json.loads(out.read_text())
    assert "python -m benchmarks.training --recipe" in results["machine"]["command"]
    rows = results["training"]
    assert [row["name"] for row in rows] == [
        "plain eager loop, fp32",
        "this project's loop, fp32",
        "this project's loop, bf16",
    ]
    assert all(len(row["seconds"]) == 2 for row in rows)
    assert "iterations/s" in done.stdout
    bad = command("benchmarks.training", "--recipe", "synthetic-demo", "bach_size=3")
    assert "did you mean 'batch_size'" in one_line_error(bad, 2)


def test_command_errors_are_one_line(
    command: Command, tiny_checkpoint: Path, tiny_engine: Path, tmp_path: Path
) -> None:
    tensor = tmp_path / "tensor.onnx"
    export(load_checkpoint(tiny_checkpoint), Signature(Io.TENSOR, 2, True), tensor)
    engine, checkpoint = ("--engine", tiny_engine), ("--reference", tiny_checkpoint)
    cases = [
        (["speed", *engine, *checkpoint], "choose from"),
        (["all", *engine], "--reference CKPT is needed"),
        (["all", *engine, *checkpoint, "--rounds", "0"], "at least 1"),
        (["all", *engine, "--reference", tmp_path / "no.pth"], "No such file"),
        (["all", "--engine", tmp_path / "no.onnx", *checkpoint], "No such file"),
        (["all", "--engine", tensor, *checkpoint], "--io image"),
        (["all", *engine, "--reference", DATA / "dic_small_original.pth"], "steps"),
    ]
    for arguments, why in cases:
        assert why in one_line_error(command("benchmarks", *arguments), 2)


def test_the_demo_command(command: Command, tiny_engine: Path, tmp_path: Path) -> None:
    done = command("benchmarks.demo", "--engine", tiny_engine, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["comparison.png", "restored.png", "small.png"]
    assert "dB" in done.stdout
