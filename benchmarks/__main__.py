"""`python -m benchmarks`: what do I gain and what do I lose against PyTorch?"""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from runtime.console import Parser, UserError, check_writable, run
from runtime.engine import SHIPPED, EngineError
from train.console import UserError as TrainError

if TYPE_CHECKING:
    from benchmarks.accuracy import Strip
    from benchmarks.contenders import Contender
    from benchmarks.results import Named, Results
    from train.checkpoint import Checkpoint

# What `all` is made of, in its order.
PARTS = ("latency", "start", "profile", "accuracy", "steps")
BATCHES = [1, 2, 4, 8, 16, 32, 64]
FACES = 1000
STARTS = 5
DONE, WORSE = 0, 1
# MMEditing's, on its own test pictures of CelebA-HQ.
PUBLISHED = {
    "DIC, MMEditing, CelebA-HQ": (25.2319, 0.7422),
    "DICGAN, MMEditing, CelebA-HQ": (23.6241, 0.6721),
}


def main(arguments: list[str]) -> int:
    options = _parse(arguments)
    # PyTorch takes seconds to import; --help and usage errors need none of it.
    from benchmarks import compare, results, tables
    from train.checkpoint import load_checkpoint

    # What can be found wrong at once is, before minutes of work.
    old = results.read(options.compare) if options.compare else None
    for path in filter(None, (options.json, options.report and options.report / "report.md")):
        check_writable(path)
    checkpoint = load_checkpoint(options.reference)
    with ExitStack() as opened:
        measured, strip = measure(options, checkpoint, opened)
    if options.json:
        results.write(measured, options.json)
    if options.report:
        from benchmarks.report import write_report

        write_report(measured, strip, options.report)
        print(f"\nRead {options.report / 'report.html'}")
    if measured.missing:
        print("\nLeft out: " + "; ".join(measured.missing))
    if old is None:
        return DONE
    count = compare.compared(measured, old)
    if not count:
        raise UserError(
            f"{options.compare}: has no contender, batch or data in common with this run"
        )
    worse = compare.regressions(measured, old, options.threshold / 100)
    against = f"{options.compare} ({old.machine.date}, {old.machine.commit or 'no commit'})"
    for line in worse:
        print(f"worse: {line}")
    print(
        f"{count} figures compared with {against}: {tables.counted(len(worse), 'is', 'are')} worse"
    )
    return WORSE if worse else DONE


def measure(
    options: argparse.Namespace, checkpoint: Checkpoint, opened: ExitStack
) -> tuple[Results, Strip | None]:
    """Measure what was asked for, and print each table as soon as it is there."""
    from benchmarks import tables
    from benchmarks.accuracy import measure_accuracy
    from benchmarks.contenders import gather
    from benchmarks.data import from_files, synthetic
    from benchmarks.dial import measure_dial
    from benchmarks.footprint import measure_footprints
    from benchmarks.latency import measure_latency
    from benchmarks.machine import machine
    from benchmarks.operators import profile
    from benchmarks.results import VERSION, Results
    from benchmarks.roofline import measure_limits

    parts = PARTS if options.what == "all" else (options.what,)
    scored = "accuracy" in parts or "steps" in parts
    faces = None
    if scored and options.data:
        faces = from_files(options.data, options.landmarks or "", options.faces)
    here = machine()
    contenders, missing = gather(checkpoint, options.engine, options.device, options.peers, opened)
    network, engines = checkpoint.network, [one for one in contenders[1:] if not one.peer]
    device, landmarks = (
        contenders[0].device,
        any(one.engine is not None and one.engine.metadata.landmarks for one in engines),
    )
    for one in engines:
        assert one.engine is not None
        if one.engine.metadata.rest.get("checkpoint_sha256") != checkpoint.sha256:
            print(f"warning: {one.name} was not exported from {options.reference}", file=sys.stderr)
    found = Results(
        VERSION,
        here,
        {
            "file": options.reference.name,
            "sha256": checkpoint.sha256,
            "parameters": sum(p.numel() for p in network.parameters()),
            "training": dict(checkpoint.provenance),
        },
        [_named(one) for one in contenders],
        [f"{name}: {why}" for name, why in missing.items()],
    )
    strip = None
    if "latency" in parts or "profile" in parts:
        precisions = [one.precision for one in contenders]
        found = replace(found, limits=measure_limits(network, landmarks, device, precisions))
    if "latency" in parts:
        rows, left_out = measure_latency(contenders, options.batch, options.rounds, options.seconds)
        found = replace(found, latency=rows, missing=[*found.missing, *left_out])
        _print("Latency", tables.latency(found), *tables.latency_notes(found))
    if "start" in parts:
        sources = {contenders[0].name: ("pytorch", options.reference)}
        sources |= {one.name: ("engine", one.engine.path) for one in engines if one.engine}
        found = replace(found, footprints=measure_footprints(sources, device, options.starts))
        _print("Start and memory", tables.footprints(found))
    if "profile" in parts:
        for one in engines:
            assert one.engine is not None
            if not one.backend.startswith("ONNX Runtime"):
                found.missing.append(
                    f"a profile of {one.name}: ONNX Runtime has one, {one.backend} not"
                )
                continue
            found.operators[one.name] = profile(one.engine.path, [one.backend.split()[-1]])
            _print(f"Operators of {one.name}", tables.operators(found.operators[one.name]))
    if scored:
        faces = faces or synthetic(options.faces or FACES)
        scores, strip = measure_accuracy(network, device, contenders[1:], faces)
        published = PUBLISHED if options.published else {}
        found = replace(found, accuracy=scores, faces=faces.source, published=published)
        _print(f"Accuracy on {faces.source}", tables.accuracy(found))
    if "steps" in parts:
        assert engines[0].engine is not None
        dial = measure_dial(
            checkpoint, engines[0].engine, found.accuracy, options.rounds, options.seconds
        )
        found = replace(found, dial=dial)
        _print("Steps as a dial", tables.dial(found))
    return found, strip


def _named(one: Contender) -> Named:
    import json

    from benchmarks.results import Named

    size = round(one.engine.path.stat().st_size / 1e6, 1) if one.engine and not one.peer else None
    try:
        verified = json.loads(one.engine.metadata.rest["export_error"]) if one.engine else {}
    except (KeyError, ValueError):
        verified = {}
    return Named(one.name, one.backend, one.device, one.precision, one.peer, size, verified)


def _print(title: str, *parts: str) -> None:
    print("\n\n".join([f"\n{title}", *parts]), flush=True)


def _parse(arguments: list[str]) -> argparse.Namespace:
    """The options and what is wrong with them."""
    parser = Parser(
        prog="python -m benchmarks",
        description="What an engine gains and loses against the PyTorch reference, in one run: "
        "latency, start and memory, a profile, accuracy, and steps as a dial.",
    )
    add = parser.add_argument
    add("what", choices=(*PARTS, "all"))
    add(
        *("--engine", "-e"),
        type=Path,
        nargs="+",
        default=[SHIPPED],
        metavar="FILE",
        help="engines to measure (default: the shipped one)",
    )
    add(
        "--reference",
        type=Path,
        metavar="CKPT",
        help="the checkpoint they were exported from (default: the shipped one's)",
    )
    add("--device", default="auto", help="of the engines (default: %(default)s)")
    add(
        "--peers",
        action="store_true",
        help="measure what others make of the network beside them: PyTorch channels-last and "
        "compiled, ONNX Runtime and OpenVINO on a plain export; on GPUs fp16 and CUDA graphs too",
    )
    add("--json", type=Path, metavar="FILE", help="write the results (benchmarks/results.py)")
    add("--report", type=Path, metavar="DIR", help="write report.html, report.md and its pictures")
    add(
        "--compare",
        type=Path,
        metavar="OLD",
        help="a results file: tell what has become worse beyond noise, and leave with status 1",
    )
    add(
        "--threshold",
        type=float,
        default=5.0,
        metavar="PERCENT",
        help="of speed that may be lost (default: %(default)s)",
    )
    group = parser.add_argument_group("latency")
    add = group.add_argument
    add("--batch", type=int, nargs="+", default=BATCHES, metavar="N", help="(default: 1 … 64)")
    add("--rounds", type=int, default=30, help="timed runs at most (default: %(default)s)")
    add(
        "--seconds",
        type=float,
        default=60.0,
        help="for a batch size, after which no round but the first three begins; 0 is no limit "
        "(default: %(default)s)",
    )
    add("--starts", type=int, default=STARTS, metavar="N", help="(default: %(default)s)")
    group = parser.add_argument_group("accuracy")
    add = group.add_argument
    add("--data", metavar="DIR", help="aligned faces (default: synthetic ones, never trained on)")
    add("--landmarks", metavar="FILE", help="of --data, where they do not lie beside the pictures")
    add("--faces", type=int, metavar="N", help=f"(default: {FACES}, or all of --data)")
    add(
        "--published",
        action="store_true",
        help="--data is CelebA-HQ's test set: show MMEditing's published figures beside ours",
    )
    options = parser.parse_args(arguments)
    counts = [*options.batch, options.rounds, options.starts]
    if min([*counts, 1 if options.faces is None else options.faces]) < 1:
        parser.error("--batch, --rounds, --starts and --faces must be at least 1")
    if not (options.seconds >= 0 and 0 <= options.threshold < 100):
        parser.error("--seconds must be at least 0, --threshold a percentage")
    if not options.data and (options.landmarks or options.published):
        parser.error("--landmarks and --published go with --data")
    if options.reference is None:
        if options.engine != [SHIPPED]:
            parser.error("--reference CKPT is needed beside --engine")
        from train.checkpoint import SHIPPED_WEIGHTS

        options.reference = SHIPPED_WEIGHTS
    return options


def cli() -> NoReturn:
    run(main, "benchmarks", EngineError, TrainError)


if __name__ == "__main__":
    cli()
