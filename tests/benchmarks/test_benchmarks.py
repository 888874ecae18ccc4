"""The benchmark: its arithmetic, and the output of its commands; never the speed of a machine."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import DATA, ROOT, TINY_RUN, Command, one_line_error
from numpy.typing import NDArray
from PIL import Image

from benchmarks.contenders.gather import REFERENCE, Contender, as_engine, pytorch
from benchmarks.measure import data, operators, statistics
from benchmarks.measure.accuracy import Accuracy, measure_accuracy
from benchmarks.measure.footprint import measure_footprints
from benchmarks.measure.latency import FEWEST, Latency, measure_latency
from benchmarks.measure.machine import Machine
from benchmarks.measure.roofline import Limits, operations
from benchmarks.report import compare, markdown, results, tables
from benchmarks.report.results import VERSION, Named, Results
from dic.console import UserError
from dic.engine_file import EngineError
from dic.metrics import psnr
from export.exporter import export
from export.graph.flops import flops
from export.graph.interface import Io, Signature
from export.graph.unroll import unroll
from runtime.engines.load import load_engine
from train.checkpoint import load_checkpoint
from train.model.network import DIC

Faces = NDArray[np.uint8]


def contender(name: str, run: Callable[[Faces], Faces], **fields: object) -> Contender:
    return Contender(name, lambda image: {"face": run(image)}, "a test", "cpu", **fields)  # type: ignore[arg-type]


def latency(name: str, batch: int, milliseconds: list[float], base: list[float]) -> Latency:
    return Latency(name, batch, milliseconds, statistics.ratios(base, milliseconds))


MACHINE = Machine("system", "processor", 2, [], [], [], 0.0, {}, "abc", "2026-01-01", "command")


def run_of(*rows: Latency, scores: tuple[Accuracy, ...] = ()) -> Results:
    names = dict.fromkeys([*(row.name for row in rows), *(score.name for score in scores)])
    named = [Named(name, "a test", "cpu", "fp32", False) for name in names]
    return Results(VERSION, MACHINE, {}, named, latency=list(rows), accuracy=list(scores))


# Statistics


def test_percentiles_are_numpys_and_need_enough_values() -> None:
    values = list(np.random.default_rng(0).random(200))
    assert statistics.percentile(values, 90) == pytest.approx(np.percentile(values, 90))
    assert statistics.percentile(values[:100], 99) == pytest.approx(np.percentile(values[:100], 99))
    assert statistics.percentile(values[:99], 99) is None
    assert statistics.percentile(values[:10], 90) == pytest.approx(np.percentile(values[:10], 90))
    assert statistics.percentile(values[:9], 90) is None
    assert statistics.median([3.0, 1.0, 2.0]) == 2.0


def test_intervals_of_the_median_match_a_published_table() -> None:
    """Conover's table of the sign test: of 10 values, 2nd and 9th (97.9 %); of 6, 1st and 6th."""
    assert statistics.interval([float(n) for n in range(1, 11)]) == (2.0, 9.0)
    assert statistics.interval([5.0, 3.0, 1.0, 6.0, 2.0, 4.0]) == (1.0, 6.0)
    assert statistics.interval([1.0] * 5) is None


def test_intervals_have_their_confidence() -> None:
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(300):
        low, high = statistics.interval(list(rng.exponential(size=15))) or (0.0, 0.0)
        held += low <= np.log(2) <= high
    assert held / 300 >= 0.93, f"held {held / 300:.1%}"


def test_ratios_are_taken_round_by_round() -> None:
    assert statistics.ratios([10.0, 20.0], [5.0, 5.0]) == [2.0, 4.0]


def test_lower_needs_more_than_threshold_and_noise() -> None:
    old = [2.0, 2.1, 1.9, 2.05, 1.95, 2.0, 2.02]
    slower = [value * 0.7 for value in old]
    assert statistics.lower(slower, old, 0.05)
    assert not statistics.lower(old, slower, 0.05)
    assert not statistics.lower([value * 0.97 for value in old], old, 0.05), "within the threshold"
    noisy = [0.5, 3.0, 1.4, 2.2, 1.2, 2.6, 1.5]
    assert not statistics.lower(noisy, old, 0.05), "the median is lower, but the intervals overlap"


# Latency


def test_contenders_take_turns_and_warm_up() -> None:
    calls: list[str] = []

    def recorded(name: str) -> Callable[[Faces], Faces]:
        return lambda image: (calls.append(name), image)[1]

    rows, left_out = measure_latency(
        [contender("a", recorded("a")), contender("b", recorded("b"))], [1, 2], rounds=3
    )
    assert [(row.name, row.batch, len(row.milliseconds)) for row in rows] == [
        ("a", 1, 3),
        ("b", 1, 3),
        ("a", 2, 3),
        ("b", 2, 3),
    ]
    assert left_out == []
    # One untimed and one timed run each, in 2 warm-up and 3 timed rounds; the order alternates.
    assert "".join(calls) == "aabbbbaaaabbbbaaaabb" * 2
    assert all(s > 0 for row in rows for s in row.speed)
    assert rows[0].speed == [1.0, 1.0, 1.0]


def test_every_round_has_new_pictures() -> None:
    seen: list[bytes] = []
    measure_latency([contender("a", lambda x: (seen.append(x.tobytes()), x)[1])], [1], rounds=3)
    assert len(set(seen)) == 5
    assert all(len(set(picture)) > 100 for picture in seen)


def test_a_wrong_engine_is_an_error() -> None:
    right = contender("right", lambda image: image)
    wrong = contender("wrong", lambda image: image ^ 2)
    with pytest.raises(UserError, match="wrong differs from right by 2"):
        measure_latency([right, wrong], [1], rounds=1)
    measure_latency([right, replace(wrong, precision="fp16")], [1], rounds=1)
    measure_latency([right, wrong], [1], rounds=1, same=False)


def test_a_failing_contender_is_left_out_with_the_reason() -> None:
    def fails(image: Faces) -> Faces:
        if len(image) > 1:
            raise EngineError("out of\nmemory")
        return image

    able, unable = contender("able", lambda image: image), contender("unable", fails)
    rows, left_out = measure_latency([able, unable], [1, 2], rounds=1)
    assert [(row.name, row.batch) for row in rows] == [("able", 1), ("unable", 1), ("able", 2)]
    assert left_out == ["unable, batch 2: out of memory"]
    rows, left_out = measure_latency([unable, able], [1, 2], rounds=1)
    assert [(row.name, row.batch) for row in rows] == [("unable", 1), ("able", 1)]
    assert left_out == ["unable, batch 2: out of memory"], "the reference fails at a batch of 2"


def test_a_wrong_peer_is_left_out() -> None:
    right = contender("right", lambda image: image)
    wrong = contender("wrong", lambda image: image ^ 4, peer=True)
    rows, left_out = measure_latency([right, wrong], [1], rounds=2)
    assert [row.name for row in rows] == ["right"]
    assert "wrong, batch 1: differs from right by 4 grey levels" in left_out[0]


def test_slow_contenders_have_no_untimed_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.measure.latency.LONG", 0.01)
    calls: list[str] = []

    def slow(image: Faces) -> Faces:
        calls.append("s")
        time.sleep(0.02)
        return image

    (row,), _ = measure_latency([contender("slow", slow)], [1], rounds=3)
    assert len(calls) == 2 + 1 + 3, "one untimed run, before the first measured time"
    assert len(row.milliseconds) == 3


def test_a_time_limit_ends_the_rounds() -> None:
    slow = contender("slow", lambda image: (time.sleep(0.02), image)[1])
    (row,), _ = measure_latency([slow], [1], rounds=50, seconds=0.001)
    assert len(row.milliseconds) == FEWEST
    assert row.median >= 20


# The machine's limits, and operators under them


def test_shares_of_the_limit() -> None:
    limits = Limits("cpu", {"fp32": 200.0}, 40.0, 85.0)
    row = latency("engine", 2, [1000.0], [1000.0])
    assert limits.share(row, "cpu", "fp32") == pytest.approx(2 * 85 / 200)
    assert limits.share(row, "cpu", "int8") is None
    assert limits.share(row, "cuda:0", "fp32") is None


def test_operations_equal_the_graphs(tiny_network: DIC) -> None:
    for landmarks in (True, False):
        signature = Signature(Io.IMAGE, tiny_network.config.steps, landmarks)
        counted = sum(flops(unroll(tiny_network, signature)).values()) / 1e9
        assert operations(tiny_network, landmarks) == pytest.approx(counted, rel=0.01)


def test_operators_are_counted_by_hand() -> None:
    def event(dur: int, **args: object) -> dict[str, object]:
        return {"cat": "Node", "name": "n_kernel_time", "dur": dur, "args": args}

    conv = {
        "op_name": "Conv",
        "input_type_shape": [{"float": [1, 96, 32, 32]}, {"float": [96, 48, 3, 1]}],
        "output_type_shape": [{"float": [1, 96, 32, 32]}],
        "activation_size": "393216",
        "parameter_size": "55296",
        "output_size": "393216",
    }
    once = [event(9999, **conv), event(9999, op_name="Add")]  # of the first run, not counted
    run = [event(2000, **conv), event(1000, op_name="Add")]
    first, second = operators.summed(once + run + run, runs=2)
    assert first.kind == "Conv 3×1, 96→96 at 32×32, 2 groups"
    assert (first.calls, first.milliseconds) == (1, pytest.approx(2.0))
    flop = 2 * 96 * 32 * 32 * 48 * 3
    assert first.gflop == pytest.approx(flop / 1e9)
    assert first.rate == pytest.approx(flop / 2e-3 / 1e9)
    assert first.intensity == pytest.approx(flop / (393216 + 55296 + 393216))
    assert (second.kind, second.gflop, second.milliseconds) == ("Add", 0.0, pytest.approx(1.0))


def test_an_engine_is_profiled(tiny_engine: Path) -> None:
    found = operators.profile(tiny_engine, ["CPUExecutionProvider"])
    assert any(one.kind.startswith("Conv 3×3") for one in found)
    assert sum(one.calls for one in found) > 20
    times = [one.milliseconds for one in found]
    assert times == sorted(times, reverse=True)
    with pytest.raises(UserError, match="cannot load it for profiling"):
        operators.profile(DATA / "dic_small_original.pth", ["CPUExecutionProvider"])


def test_starts_are_whole_processes(
    tiny_engine: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_engine.parent)  # the process runs elsewhere
    relative = Path(tiny_engine.name)
    sources = {
        "engine": ("engine", relative, "cpu"),
        "eager": ("pytorch", tiny_checkpoint, "cpu"),
    }
    engine, eager = measure_footprints(sources, 1)
    assert 0 < engine.median < eager.median, "one of them imports PyTorch"
    assert 20 < engine.host_megabytes[0] < eager.host_megabytes[0]
    assert engine.gpu_megabytes == []
    with pytest.raises(UserError, match=r"engine: did not start: .*not an ONNX"):
        measure_footprints({"engine": ("engine", ROOT / "README.md", "cpu")}, 1)


# Accuracy


def test_accuracy_against_ground_truth_and_reference(
    tiny_checkpoint: Path, tiny_engine: Path
) -> None:
    network = load_checkpoint(tiny_checkpoint).network
    faces = data.synthetic(10)
    with load_engine(tiny_engine) as engine:
        one = Contender("engine", as_engine(engine), engine.backend, "cpu", engine=engine)
        rows, strip = measure_accuracy(network, "cpu", [one], faces)
    floor, first, eager, onnx = rows
    assert [row.step for row in rows] == [0, 1, 2, 2]
    assert [floor.name, first.name] == ["bicubic", f"{REFERENCE}, after step 1"]
    assert first.nme != eager.nme
    assert floor.psnr > 20
    assert eager.largest is None
    assert onnx.largest is not None
    assert onnx.largest <= 1
    assert sum(onnx.differences) == faces.gt.size
    assert onnx.psnr == pytest.approx(eager.psnr, abs=0.01)
    assert onnx.nme == pytest.approx(eager.nme, rel=0.05)
    assert list(strip.columns) == ["input", "bicubic", "step 1", "step 2", "engine", "truth"]
    np.testing.assert_array_equal(strip.columns["truth"][0], faces.gt[0])


def test_differences_are_counted(tiny_checkpoint: Path) -> None:
    network = load_checkpoint(tiny_checkpoint).network
    faces = data.synthetic(1)
    run = pytorch(network).run

    def spoiled(image: Faces) -> dict[str, Faces]:
        face = run(image)["face"].astype(int)
        face[:, 10, 10] += np.where(face[:, 10, 10] < 128, 3, -3)
        return {"face": face.astype(np.uint8)}

    rows, _ = measure_accuracy(network, "cpu", [Contender("off", spoiled, "", "cpu")], faces)
    off = rows[-1]
    assert off.differences == [faces.gt.size - 3, 0, 0, 3]
    assert off.largest == 3
    mse = 27 / faces.gt.size
    assert off.reference_psnr == pytest.approx(10 * np.log10(255**2 / mse))
    assert off.nme is None


def test_psnr_equals_the_released_evaluations() -> None:
    example = np.load(DATA / "metrics_example.npz")
    assert psnr(example["pred"], example["gt"]) == pytest.approx(float(example["psnr"]), abs=1e-4)


def test_faces_of_a_folder(faces: tuple[Faces, NDArray[np.float32]], tmp_path: Path) -> None:
    for n in range(3):
        Image.fromarray(faces[0][n]).save(tmp_path / f"{n}.png")
    (tmp_path / "9.png").write_bytes(b"nothing")
    bare = data.from_files(str(tmp_path), "", None)
    assert (len(bare), bare.points) == (3, None)
    np.testing.assert_array_equal(bare.gt, faces[0][:3])
    table = {f"{n}.png": faces[1][n].tolist() for n in range(3)}
    (tmp_path / "landmarks.json").write_text(json.dumps(table))
    known = data.from_files(str(tmp_path), "", 2)
    assert known.points is not None
    np.testing.assert_allclose(known.points, faces[1][:2], atol=1e-4)
    assert "2 faces of" in known.source
    for path in tmp_path.glob("[0-2].png"):
        path.unlink()
    (tmp_path / "landmarks.json").unlink()
    with pytest.raises(UserError, match="no faces that can be read"):
        data.from_files(str(tmp_path), "", None)


# Tables, comparisons, files


def test_ratios_are_against_the_reference_of_the_same_batch() -> None:
    one, four = [10.0, 12.0, 11.0], [40.0, 40.0, 40.0]
    found = run_of(
        latency(REFERENCE, 1, one, one),
        latency("engine", 1, [5.0, 4.0, 90.0], one),
        latency(REFERENCE, 4, four, four),
        latency("engine", 4, [10.0, 10.0, 10.0], four),
    )
    lines = [
        [cell.strip() for cell in line.split("|")]
        for line in tables.latency(found).splitlines()
        if "engine" in line
    ]
    assert [line[3] for line in lines] == ["2.00×", "4.00×"]
    assert [line[5] for line in lines] == ["5.0", "10.0"]
    assert [line[8] for line in lines] == ["200.0", "400.0"]
    assert any("No 95 % interval" in note for note in tables.latency_notes(found))


def test_engines_are_compared_with_the_fastest_peer() -> None:
    base = [10.0] * 3
    found = run_of(
        latency(REFERENCE, 1, base, base),
        latency("engine", 1, [2.0, 2.0, 4.0], base),
        latency("slow peer", 1, [8.0, 8.0, 8.0], base),
        latency("fast peer", 1, [3.0, 5.0, 6.0], base),
    )
    named = [replace(one, peer="peer" in one.name) for one in found.contenders]
    notes = " ".join(tables.latency_notes(replace(found, contenders=named)))
    assert "**1.50×** as fast as the fastest peer, fast peer." in notes, "1.5, 2.5, 1.5 by rounds"


def test_tables_are_markdown() -> None:
    lines = markdown.table(("", "a"), [("x", "10"), ("long name", "2")]).splitlines()
    assert lines[1].replace("-", "") == "||:|"
    assert len({len(line) for line in lines}) == 1


STEADY = [1.00, 1.01, 0.99, 1.02, 0.98, 1.00, 1.01]


def planted(slower: float = 1.0, psnr: float = 28.0, nme: float = 0.03) -> Results:
    base = [100 * value for value in STEADY]
    times = [slower * 50 * value for value in reversed(STEADY)]
    score = Accuracy("engine", 2, psnr, 0.8, nme, [1])
    rows = (latency(REFERENCE, 1, base, base), latency("engine", 1, times, base))
    return run_of(*rows, scores=(score,))


def test_planted_regressions_are_found() -> None:
    old = planted()
    assert compare.compared(old, old) == 2
    assert compare.regressions(planted(), old) == []
    assert compare.regressions(planted(slower=0.5), old) == [], "faster is not worse"
    assert compare.regressions(planted(slower=1.03), old) == [], "within the threshold"
    (line,) = compare.regressions(planted(slower=1.3), old)
    assert "engine, batch 1: 1.5" in line
    assert "was 2.0" in line
    assert compare.regressions(planted(slower=1.3), old, threshold=0.4) == []
    (line,) = compare.regressions(planted(psnr=27.9), old)
    assert "27.90 dB, was 28.00" in line
    (line,) = compare.regressions(planted(nme=0.04), old)
    assert "NME 4.00%, was 3.00%" in line
    elsewhere = replace(planted(slower=3.0), contenders=[])
    assert compare.regressions(elsewhere, old) == [], "the old engines are not among the new ones"
    assert compare.differences(old, old) == []
    moved = replace(old, machine=replace(MACHINE, cores=4))
    assert compare.differences(moved, old) == ["cores: 4, was 2"]
    other = replace(planted(psnr=20.0), faces="others")
    assert compare.regressions(other, old) == [], "accuracy on other faces is not compared"


def test_results_are_read_as_written(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    written = planted()
    results.write(written, path)
    assert results.read(path) == written
    for text, why in (
        (b"{", "not a results file"),
        (b'{"version": 1}', "results of version 1"),
        (json.dumps({"version": VERSION}).encode(), "not a results file: machine"),
    ):
        path.write_bytes(text)
        with pytest.raises(UserError, match=why):
            results.read(path)
    with pytest.raises(UserError, match="No such file"):
        results.read(tmp_path / "none.json")


# Commands


one_process = pytest.mark.xdist_group("whole")  # the run below is made once


@pytest.fixture(scope="module")
def whole(
    tiny_checkpoint: Path, tiny_engine: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """A run of all parts: its folder, and its standard output."""
    import subprocess
    import sys

    folder = tmp_path_factory.mktemp("run")
    line = [sys.executable, "-m", "benchmarks", "all", "--engine", str(tiny_engine)]
    # Only ONNX Runtime's CPU provider has a profiler; auto would choose OpenVINO.
    line += ["--device", "cpu"]
    line += ["--reference", str(tiny_checkpoint), "--batch", "1", "3", "--rounds", "3"]
    line += ["--faces", "4", "--starts", "1", "--report", str(folder / "report")]
    line += ["--json", str(folder / "run.json")]
    done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


@one_process
def test_all_parts_are_measured(whole: tuple[Path, str]) -> None:
    folder, output = whole
    found = results.read(folder / "run.json")
    assert [(row.name, row.batch) for row in found.latency] == [
        (REFERENCE, 1),
        ("tiny.onnx", 1),
        (REFERENCE, 3),
        ("tiny.onnx", 3),
    ]
    assert found.limits is not None
    assert found.limits.gflops["fp32"] > 1
    assert [row.name for row in found.footprints] == [REFERENCE, "tiny.onnx"]
    assert list(found.operators) == ["tiny.onnx"]
    assert found.accuracy[0].name == "bicubic"
    assert [one.steps for one in found.dial] == [1, 2]
    assert found.dial[1].psnr == found.accuracy[2].psnr
    assert "benchmarks all" in found.machine.command
    assert found.machine.versions["torch"]
    for title in (
        "Latency",
        "Start and memory",
        "Operators",
        "Accuracy",
        "Quality by number of steps",
    ):
        assert f"\n{title}" in output


@one_process
def test_the_report_is_self_contained(whole: tuple[Path, str]) -> None:
    report = whole[0] / "report"
    page = (report / "report.html").read_text()
    pictures = {path.name for path in report.glob("*.png")}
    names = ("latency", "roofline", "steps", "errors", "faces")
    assert pictures == {f"{name}.png" for name in names}
    sources = re.findall(r'src="([^"]*)"', page)
    assert len(sources) == len(pictures)
    for source in sources:
        kind, _, content = source.partition("base64,")
        assert kind == "data:image/png;"
        with Image.open(io.BytesIO(base64.b64decode(content))) as picture:
            assert min(picture.size) > 200
    assert page.count("<table>") >= 5
    assert "http" not in page
    assert (report / "results.json").read_bytes() == (whole[0] / "run.json").read_bytes()
    assert "tiny.onnx" in (report / "report.md").read_text()


@one_process
def test_a_slowdown_sets_the_exit_status(
    whole: tuple[Path, str],
    here: Command,
    tiny_checkpoint: Path,
    tiny_engine: Path,
    tmp_path: Path,
) -> None:
    run = results.read(whole[0] / "run.json")
    line = ["benchmarks", "latency", "--engine", tiny_engine, "--reference", tiny_checkpoint]
    line += ["--device", "cpu", "--batch", 1, "--rounds", 3, "--compare", tmp_path / "old.json"]
    for factor, status in ((100.0, 1), (0.01, 0)):
        rows = [replace(row, speed=[factor * s for s in row.speed]) for row in run.latency]
        results.write(replace(run, latency=rows), tmp_path / "old.json")
        done = here(*line)
        assert done.returncode == status, done.stderr
        assert ("worse: tiny.onnx, batch 1" in done.stdout) == bool(status)
        assert "1 figures compared" in done.stdout
    results.write(replace(run, latency=[]), tmp_path / "old.json")
    assert "in common" in one_line_error(here(*line), 2)


def test_peers_give_the_same_faces(
    command: Command, tiny_checkpoint: Path, tiny_engine: Path, tmp_path: Path
) -> None:
    """Without compilation, which takes a minute and fails on networks this small."""
    out = tmp_path / "results.json"
    common = ("--engine", tiny_engine, "--reference", tiny_checkpoint, "--peers")
    eager = {**os.environ, "TORCH_COMPILE_DISABLE": "1"}
    done = command("benchmarks", "accuracy", *common, "--faces", 3, "--json", out, env=eager)
    assert done.returncode == 0, done.stderr
    found = results.read(out)
    rows = {row.name: row for row in found.accuracy}
    peers = [one.name for one in found.contenders if one.peer]
    plain = ["ONNX Runtime on a plain export", "OpenVINO on a plain export"]
    assert {"PyTorch channels-last", "torch.compile", *plain} <= set(peers)
    for name in peers:
        assert rows[name].largest is not None
        assert rows[name].largest <= 1


def test_tensor_engines_are_measured(here: Command, tiny_checkpoint: Path, tmp_path: Path) -> None:
    tensor = tmp_path / "tensor.onnx"
    export(load_checkpoint(tiny_checkpoint), Signature(Io.TENSOR, 2, True, True), tensor)
    common = ("--engine", tensor, "--reference", tiny_checkpoint, "--json", tmp_path / "r.json")
    assert here("benchmarks", "accuracy", *common, "--faces", 3).returncode == 0
    row = results.read(tmp_path / "r.json").accuracy[-1]
    assert (row.name, row.largest) in {("tensor.onnx", 0), ("tensor.onnx", 1)}
    assert row.nme is not None


def test_training_speed_is_compared_with_a_plain_loop(here: Command, tmp_path: Path) -> None:
    out = tmp_path / "speed.json"
    run = ["benchmarks.training", "--recipe", "synthetic-demo", "--rounds", 2, "--json", out]
    done = here(*run, *TINY_RUN, "data.count=4", "precision=bf16")
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert "python -m benchmarks.training --recipe" in found["machine"]["command"]
    rows = found["training"]
    assert [row["name"] for row in rows] == [
        "plain eager loop, fp32",
        "this project's loop, fp32",
        "this project's loop, bf16",
    ]
    assert all(len(row["seconds"]) == 2 for row in rows)
    assert "iterations/s" in done.stdout
    bad = here("benchmarks.training", "--recipe", "synthetic-demo", "bach_size=3")
    assert "did you mean 'batch_size'" in one_line_error(bad, 2)


def test_command_errors_are_one_line(
    here: Command, tiny_checkpoint: Path, tiny_engine: Path, tmp_path: Path
) -> None:
    engine, checkpoint = ("--engine", tiny_engine), ("--reference", tiny_checkpoint)
    (tmp_path / "old.json").write_text("[]")
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / tiny_engine.name
    other.write_bytes(tiny_engine.read_bytes())
    cases = [
        (["speed", *engine, *checkpoint], "choose from"),
        (["all", *engine], "needs --reference CKPT"),
        (["all", *engine, *checkpoint, "--rounds", "0"], "--rounds must be 1 to"),
        (["all", *engine, *checkpoint, "--batch", "1", "99999999"], "--batch must be 1 to"),
        (["all", *engine, *checkpoint, "--seconds", "nan"], "at least 0"),
        (["all", *engine, *checkpoint, "--published"], "need --data"),
        (["all", *engine, "--reference", tmp_path / "no.pth"], "No such file"),
        (["all", "--engine", tmp_path / "no.onnx", *checkpoint], "No such file"),
        (["all", *engine, "--reference", DATA / "dic_small_original.pth"], "steps"),
        (["all", *engine, *checkpoint, "--compare", tmp_path / "old.json"], "not a results file"),
        (["all", *engine, *checkpoint, "--data", tmp_path / "none"], "neither a folder"),
        (["all", "--engine", tiny_engine, other, *checkpoint], "the same name"),
        (["all", *engine, *checkpoint, "--device", "tpu"], "use auto, cpu"),
    ]
    for arguments, why in cases:
        assert why in one_line_error(here("benchmarks", *arguments), 2)


def test_the_demo_command(command: Command, tiny_engine: Path, tmp_path: Path) -> None:
    done = command("benchmarks.demo", "--engine", tiny_engine, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["comparison.png", "restored.png", "small.png"]
    assert "dB" in done.stdout


@pytest.mark.gpu
def test_events_enclose_the_work_of_a_gpu(tiny_checkpoint: Path) -> None:
    """The time on the GPU grows with the batch size, and is part of the total time."""
    network = load_checkpoint(tiny_checkpoint).network
    one = pytorch(network, device="cuda:0")
    (small, large), _ = measure_latency([one], [1, 2048], rounds=5)
    for row in (small, large):
        assert len(row.gpu_milliseconds) == 5
        assert 0 < statistics.median(row.gpu_milliseconds) < 1.2 * row.median
    times = [statistics.median(row.gpu_milliseconds) for row in (small, large)]
    assert times[1] > 3 * times[0]
