"""`python -m benchmarks`: what an engine gains and loses against PyTorch."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from runtime.console import Parser, UserError, run, write_whole
from runtime.engine import SHIPPED, Engine, EngineError
from runtime.load import load_engine
from train.console import UserError as TrainError

if TYPE_CHECKING:
    from benchmarks.accuracy import Accuracy
    from benchmarks.latency import Latency

JSON_VERSION = 1


def main(arguments: list[str]) -> int:
    parser = Parser(
        prog="python -m benchmarks",
        description="Latency and accuracy of engines beside the PyTorch reference, in one run.",
    )
    parser.add_argument("what", choices=("latency", "accuracy", "all"))
    parser.add_argument(
        *("--engine", "-e"),
        type=Path,
        nargs="+",
        default=[SHIPPED],
        metavar="FILE",
        help="engines to measure (default: the shipped one)",
    )
    parser.add_argument(
        "--reference",
        type=Path,
        metavar="CKPT",
        help="the checkpoint they were exported from (default: the shipped one's)",
    )
    parser.add_argument("--device", default="auto", help="of the engines (default: %(default)s)")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8], metavar="N")
    parser.add_argument("--rounds", type=int, default=15, help="timed runs (default: %(default)s)")
    parser.add_argument(
        "--faces", type=int, default=1000, help="for accuracy (default: %(default)s)"
    )
    parser.add_argument(
        "--peers",
        action="store_true",
        help="measure PyTorch channels-last, and OpenVINO on each engine's file, beside them (CPU)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there too")
    options = parser.parse_args(arguments)
    if min(*options.batch, options.rounds, options.faces) < 1:
        parser.error("--batch, --rounds and --faces must be at least 1")

    # PyTorch takes seconds to import; --help and usage errors need none of it.
    from train.checkpoint import SHIPPED_WEIGHTS, load_checkpoint

    if options.reference is None:
        if options.engine != [SHIPPED]:
            parser.error("--reference CKPT is needed beside --engine")
        options.reference = SHIPPED_WEIGHTS
    checkpoint = load_checkpoint(options.reference)
    engines = [load_engine(path, options.device) for path in options.engine]
    for engine in engines:
        if engine.metadata.rest.get("checkpoint_sha256") != checkpoint.sha256:
            print(
                f"warning: {engine.path} was not exported from {options.reference}", file=sys.stderr
            )
    results = measure(options, checkpoint.network, engines)
    results["training"] = dict(checkpoint.provenance)
    if options.json:
        write_whole(options.json, json.dumps(results, indent=1).encode())
    return 0


def measure(options: Any, network: Any, engines: Sequence[Engine]) -> dict[str, Any]:
    """Run what was asked for, print its tables, and return all of it for the JSON file."""
    from benchmarks.accuracy import measure_accuracy
    from benchmarks.latency import REFERENCE, as_engine, measure_latency, reference

    for engine in engines:
        if engine.metadata.io != "image":
            raise UserError(f"{engine.path}: only engines with --io image are compared")
        if engine.metadata.steps != network.config.steps:
            raise UserError(
                f"{engine.path}: unrolls {engine.metadata.steps} steps, the reference takes "
                f"{network.config.steps}"
            )
    landmarks = any(engine.metadata.landmarks for engine in engines)
    device = engines[0].device
    runs = {f"{REFERENCE} ({device})": reference(network, landmarks, device)}
    names = [engine.path.name for engine in engines]
    for engine in engines:
        alike = names.count(engine.path.name) > 1
        shown = engine.path if alike else engine.path.name
        runs[f"{shown} ({engine.device})"] = as_engine(engine)
    if options.peers:
        from benchmarks.peers import channels_last, openvino

        runs["PyTorch channels-last"] = channels_last(network, landmarks)
        runs |= {f"OpenVINO on {engine.path.name}": openvino(engine.path) for engine in engines}
    results: dict[str, Any] = {"version": JSON_VERSION, "machine": machine(engines)}
    results["machine"]["busy"] = warn_if_busy()
    if options.what != "accuracy":
        restores = {name: _faces_of(run) for name, run in runs.items()}
        latencies = measure_latency(restores, options.batch, options.rounds)
        print(latency_table(latencies), flush=True)
        results["latency"] = [asdict(row) for row in latencies]
    if options.what != "latency":
        earlier = {
            f"{REFERENCE}, after step {n}": reference(network, landmarks, device, n)
            for n in range(1, network.config.steps)
        }
        accuracies = measure_accuracy(runs, options.faces, earlier)
        print(accuracy_table(accuracies, options.faces), flush=True)
        results["accuracy"] = [asdict(row) for row in accuracies]
    return results


def _faces_of(run: Any) -> Any:
    return lambda image: run(image)["face"]


def machine(engines: Sequence[Engine], program: str = "benchmarks") -> dict[str, Any]:
    """What the figures were measured on, and by which command (`python -m program …`)."""
    import torch

    return {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "backends": sorted({engine.backend for engine in engines}),
        "command": " ".join([f"python -m {program}", *sys.argv[1:]]),
    }


def warn_if_busy() -> float:
    """The share of the processors that other work takes just now, 0..1; a word where it is much."""

    def taken() -> tuple[int, int]:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
        ticks = list(map(int, fields))
        return sum(ticks) - ticks[3] - ticks[4], sum(ticks)  # the two are idle and waiting

    try:
        busy, total = taken()
        time.sleep(0.5)
        busy_later, total_later = taken()
    except OSError:
        return 0.0
    share = (busy_later - busy) / max(1, total_later - total)
    if share > 0.25:
        print(
            f"warning: other work takes {share:.0%} of this machine; latencies will tell little",
            file=sys.stderr,
        )
    return share


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), "")


def latency_table(rows: Sequence[Latency]) -> str:
    """Medians; ratios against the reference of the same batch, which comes first."""
    cells = []
    base: dict[int, float] = {}
    for row in sorted(rows, key=lambda row: row.batch):
        base.setdefault(row.batch, row.median)
        cells.append(
            (
                row.name,
                str(row.batch),
                f"{base[row.batch] / row.median:.2f}×",
                f"{row.median:.1f}",
                f"{1000 * row.batch / row.median:.1f}",
            )
        )
    runs = len(rows[0].milliseconds)
    title = f"\nLatency, median of {runs} interleaved runs\n\n"
    return title + table(("", "batch", "speed", "ms", "faces/s"), cells)


def accuracy_table(rows: Sequence[Accuracy], faces: int) -> str:
    cells = [
        (
            row.name,
            f"{row.psnr:.2f}",
            f"{row.ssim:.4f}",
            "" if row.nme is None else f"{100 * row.nme:.1f}",
            "" if row.difference is None else str(row.difference),
        )
        for row in rows
    ]
    head = ("", "PSNR dB", "SSIM", "NME %", "largest difference, grey levels")
    return f"\nAccuracy on {faces} unseen synthetic faces\n\n" + table(head, cells)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, padded so that it reads as plain text too."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        first, *rest = (cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
        return "| " + " | ".join([first.strip().ljust(widths[0]), *rest]) + " |"

    rule = (
        "|" + "|".join("-" * (w + 1) + ("-" if i == 0 else ":") for i, w in enumerate(widths)) + "|"
    )
    return "\n".join([line(head), rule, *map(line, rows)])


def cli() -> NoReturn:
    run(main, "benchmarks", EngineError, TrainError)


if __name__ == "__main__":
    cli()
