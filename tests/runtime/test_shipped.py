"""The engine in the package: what it is, and that it does what its record says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from conftest import Command

from benchmarks.contenders.gather import Contender, as_engine
from benchmarks.measure.accuracy import measure_accuracy
from benchmarks.measure.data import synthetic
from runtime.engines.contract import SHIPPED
from runtime.engines.load import load_engine
from train.checkpoint import SHIPPED_WEIGHTS, load_checkpoint

RECORD = SHIPPED.with_suffix(".json")
MOST_BYTES = 30_000_000
FACES = 16  # the record is of 1,000; the asked-for margins hold on both


def test_it_is_small_and_comes_from_the_shipped_weights() -> None:
    assert SHIPPED.stat().st_size <= MOST_BYTES
    weights = load_checkpoint(SHIPPED_WEIGHTS)
    with load_engine() as engine:
        assert engine.metadata.rest["checkpoint_sha256"] == weights.sha256
        assert engine.metadata.steps == weights.network.config.steps
        assert engine.metadata.landmarks == 68


def test_its_record_tells_how_it_was_made_and_what_it_reaches() -> None:
    record = json.loads(RECORD.read_text())
    training = record["reference"]["training"]
    assert training["recipe"]["name"] == "dic-photoreal-tuned"
    assert training["iteration"] == training["recipe"]["iterations"]
    assert training["seconds"] > 0
    assert "accuracy" in record["machine"]["command"]
    floor, *steps, last, engine = record["accuracy"]
    assert floor["name"] == "bicubic"
    assert_meets_figures(
        floor["psnr"], [s["psnr"] for s in (*steps, last)], engine["psnr"], engine["nme"]
    )


def test_it_does_what_its_record_says() -> None:
    network = load_checkpoint(SHIPPED_WEIGHTS).network
    with load_engine(device="cpu") as engine:
        one = Contender("engine", as_engine(engine), engine.backend, "cpu")
        (floor, *rows, shipped), _ = measure_accuracy(network, "cpu", [one], synthetic(FACES))
    assert shipped.largest is not None
    assert shipped.largest <= 1
    assert shipped.nme is not None
    steps = [row.psnr for row in rows]
    assert_meets_figures(floor.psnr, steps, shipped.psnr, shipped.nme, most=0.06)


def assert_meets_figures(
    floor: float, steps: list[float], psnr: float, nme: float, most: float = 0.05
) -> None:
    """At least 3 dB over bicubic, no step worse than the one before, 0.2 dB in all, and the NME."""
    assert psnr - floor >= 3, f"{psnr - floor:.2f} dB over bicubic"
    assert steps == sorted(steps), f"PSNR falls: {steps}"
    assert steps[-1] - steps[0] >= 0.2, f"the last step gains {steps[-1] - steps[0]:.2f} dB"
    assert nme <= most, f"NME {100 * nme:.2f} %"


def test_infer_takes_it_without_being_told(
    command: Command, face_file: Path, tmp_path: Path
) -> None:
    shutil.copy(face_file, tmp_path / "grandma.png")
    done = command("runtime.infer", tmp_path / "grandma.png", "-o", tmp_path / "sharp.png", "-v")
    assert done.returncode == 0, done.stderr
    assert "dic-photoreal.onnx" in done.stderr
    assert (tmp_path / "sharp.png").exists()
