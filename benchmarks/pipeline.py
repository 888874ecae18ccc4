"""`python -m benchmarks.pipeline`: measure the overhead of the runtime around an engine.

Aligned faces per second of the `runtime.infer` command, start-up included, and of the bare engine,
in interleaved rounds; the time of `--help` and of a first face; and memory over many runs.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import NoReturn

import numpy as np

from benchmarks.measure import statistics
from benchmarks.measure.machine import machine, resident
from benchmarks.report.markdown import table
from dic.console import Parser, UserError, run
from dic.cores import cores
from dic.engine_file import EngineError, engine_files
from dic.files import write_whole
from dic.outputs import check_outputs
from dic.progress import Progress
from dic.sizes import LQ_SIZE
from runtime.engines.batching import overlapped
from runtime.engines.contract import SHIPPED, Engine
from runtime.engines.load import load_engine
from runtime.pictures.encode import encode_picture
from runtime.pictures.picture import Picture
from train.data.synthetic import draw_faces

JSON_VERSION = 2
SEED = 5
BATCH = 8
RECORDS = 10  # memory readings, spread over the runs


def main(arguments: list[str]) -> int:
    parser = Parser(
        prog="python -m benchmarks.pipeline",
        description="Measure the runtime's overhead around an engine: throughput, start, memory.",
    )
    parser.add_argument("--engine", type=Path, default=SHIPPED, metavar="FILE")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--faces", type=int, default=200, help="(default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument(
        "--runs",
        type=int,
        default=10_000,
        help="runs over which memory is measured; 0: none (default: %(default)s)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results to FILE")
    options = parser.parse_args(arguments)
    if min(options.faces, options.rounds) < 1 or options.runs < 0:
        parser.error("--faces and --rounds must be at least 1, --runs at least 0")
    check_outputs(filter(None, [options.json]), engine_files(options.engine))
    here = machine("benchmarks.pipeline")
    with (
        load_engine(options.engine, options.device) as engine,
        load_engine(options.engine, options.device, lanes=cores()) as shared,
    ):
        if engine.metadata.io != "image" or (engine.max_batch or BATCH) < BATCH:
            raise UserError(
                f"{engine.path}: cannot be measured; give an engine exported with --io image that "
                f"takes batches of {BATCH}"
            )
        speed = _throughput(engine, shared, options)
        memory = _memory(engine, options.runs) if options.runs else []
    print(_report(speed, memory, options))
    if options.json:
        results = {
            "version": JSON_VERSION,
            "machine": asdict(here),
            "faces": options.faces,
            "seconds": speed,
            "runs": options.runs,
            "resident_megabytes": memory,
        }
        write_whole(options.json, json.dumps(results, indent=1).encode())
    return 0


def _throughput(engine: Engine, shared: Engine, options: Namespace) -> dict[str, list[float]]:
    """Seconds of each round, by task.

    Args:
        engine: uses all cores for one run; gets batches.
        shared: has one lane per core; gets single faces, like the command.
    """
    count, rounds = options.faces, options.rounds
    images, _ = draw_faces(SEED, count)
    lq = np.random.default_rng(SEED).integers(0, 256, (count, LQ_SIZE, LQ_SIZE, 3), dtype=np.uint8)
    singles, batches = (
        [{engine.inputs[0].name: lq[i : i + size]} for i in range(0, count, size)]
        for size in (1, BATCH)
    )
    infer = [sys.executable, "-m", "runtime.infer"]
    chosen = ["--engine", str(engine.path), "--device", options.device]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "in"
        for i, image in enumerate(images):
            write_whole(folder / f"{i:04}.png", encode_picture(Picture(image), ".png"))
        commands = {
            "command": [*infer, str(folder), "-o", f"{name}/out", *chosen],
            "help": [*infer, "--help"],
            "first face": [*infer, str(folder / "0000.png"), "-o", f"{name}/one.png", *chosen],
        }
        work: dict[str, Callable[[], object]] = {
            "batches": lambda: [engine.run(feed) for feed in batches],
            "lanes": lambda: list(overlapped(shared.run, singles, shared.lanes)),
            **{what: partial(_run, command) for what, command in commands.items()},
        }
        seconds: dict[str, list[float]] = {what: [] for what in work}
        for n in Progress(range(rounds + 1), desc="throughput", unit="round"):
            for what, do in work.items():
                began = time.perf_counter()
                do()
                if n:  # the first round warms up
                    seconds[what].append(time.perf_counter() - began)
    return seconds


def _run(command: list[str]) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        raise UserError(f"{' '.join(command[1:4])} failed: {reason}")


def _memory(engine: Engine, runs: int) -> list[float]:
    """Resident memory in megabytes, `RECORDS` readings over the runs after a warm-up."""
    lq = np.zeros((1, LQ_SIZE, LQ_SIZE, 3), np.uint8)
    found = []
    for n in Progress(range(runs + 1), desc="memory", unit="run"):
        engine.run({engine.inputs[0].name: lq})
        if n % max(1, runs // RECORDS) == 0:
            gc.collect()
            found.append(round(resident(), 1))
    return found


def _report(speed: dict[str, list[float]], memory: list[float], options: Namespace) -> str:
    count = options.faces
    medians = {what: float(np.median(taken)) for what, taken in speed.items()}
    labels = {
        "batches": f"bare engine, batches of {BATCH}, all cores",
        "lanes": "bare engine, one lane per core",
        "command": "runtime.infer, all faces",
        "first face": "runtime.infer, one face",
        "help": "runtime.infer --help",
    }
    rows = []
    for what, label in labels.items():
        rate, shares = "", ("", "")
        if what in ("batches", "lanes", "command"):
            rate = f"{count / medians[what]:.1f}"
            shares = _share(speed["batches"], speed[what]), _share(speed["lanes"], speed[what])
        rows.append((label, f"{medians[what]:.2f}", rate, *shares))
    text = f"\n{count} aligned faces, medians of {options.rounds} interleaved rounds\n\n"
    text += table(("", "s", "faces/s", "of batches", "of lanes"), rows)
    if memory:
        text += f"\n\nResident memory over {options.runs} runs, MB: "
        text += ", ".join(f"{value:.0f}" for value in memory)
    return text


def _share(bare: list[float], taken: list[float]) -> str:
    """The share of a bare engine's throughput that was reached, median over the rounds."""
    return f"{100 * statistics.median(statistics.ratios(bare, taken)):.0f} %"


def cli() -> NoReturn:
    run(main, "benchmarks", EngineError)


if __name__ == "__main__":
    cli()
