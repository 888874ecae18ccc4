"""`python -m benchmarks`: speed, memory and accuracy of engines compared with PyTorch."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn

from dic.console import Parser, UserError, run
from dic.engine_file import EngineError, engine_files
from dic.outputs import check_outputs
from export import disable_telemetry
from runtime.engines.contract import SHIPPED

# The parts of `all`, in order: methods of `benchmarks.run.Run`.
PARTS = ("latency", "start", "profile", "accuracy", "steps")
# Of --report; its pictures are PNGs of fixed names.
REPORT_FILES = (
    *("report.html", "report.md", "results.json"),
    *("latency.png", "roofline.png", "steps.png", "errors.png", "faces.png"),
)
BATCHES = [1, 2, 4, 8, 16, 32, 64]
STARTS = 5
DONE, WORSE = 0, 1

# The largest values of options that are counts.
LARGEST = {"batch": 1024, "rounds": 1_000_000, "starts": 1000, "faces": 100_000, "steps": 64}


def main(arguments: list[str]) -> int:
    options = _parse(arguments)
    # PyTorch takes seconds to import; --help and usage errors need none of it.
    from benchmarks.report import compare, results, tables
    from benchmarks.run import Run
    from train.checkpoint import load_checkpoint

    # Files and options are checked before minutes of work.
    old = results.read(options.compare) if options.compare else None
    pages = [options.report / name for name in REPORT_FILES] if options.report else []
    engines = [file for engine in options.engine for file in engine_files(engine)]
    others = (options.reference, options.compare, options.data, options.landmarks)
    check_outputs(
        [*filter(None, [options.json]), *pages], [*engines, *map(Path, filter(None, others))]
    )
    checkpoint = load_checkpoint(options.reference, options.steps)
    if options.report:
        from benchmarks.report.pages import write_report
    with ExitStack() as opened:
        measurement = Run(options, checkpoint, opened)
        try:
            for part in options.what:
                getattr(measurement, part)()
        finally:  # keep what was measured before an error or Ctrl-C
            if options.json:
                results.write(measurement.results, options.json)
    measured = measurement.results
    if options.report:
        write_report(measured, measurement.strip, options.report)
        print(f"\nWrote {options.report / 'report.html'}")
    if measured.missing:
        print("\nLeft out: " + "; ".join(measured.missing))
    if old is None:
        return DONE
    count = compare.compared(measured, old)
    if not count:
        raise UserError(
            f"{options.compare}: no engine, batch size or data in common with this run; measure "
            "the same engines and batches, or compare with another file"
        )
    worse = compare.regressions(measured, old, options.threshold / 100)
    for line in compare.differences(measured, old):
        print(f"differs: {line}")
    against = f"{options.compare} ({old.machine.date}, {old.machine.commit or 'no commit'})"
    for line in worse:
        print(f"worse: {line}")
    print(
        f"{count} figures compared with {against}: {tables.counted(len(worse), 'is', 'are')} worse"
    )
    return WORSE if worse else DONE


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = Parser(
        prog="python -m benchmarks",
        description="Compare engines with the PyTorch reference: latency, start and memory, time "
        "by operator, accuracy, and quality by number of steps.",
    )
    parser.add_argument(
        "what", nargs="+", choices=(*PARTS, "all"), metavar="WHAT", help=f"{', '.join(PARTS)}; all"
    )
    _add_contender_options(parser)
    _add_result_options(parser)
    _add_part_options(parser)
    options = parser.parse_args(arguments)
    _validate(parser, options)
    return options


def _add_contender_options(parser: Parser) -> None:
    add = parser.add_argument
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
        help="the checkpoint that the engines were exported from (default: the shipped engine's)",
    )
    add(
        "--steps",
        type=int,
        metavar="N",
        help="steps of the reference (default: the checkpoint's, or 4)",
    )
    add("--device", default="auto", help="device of the engines (default: %(default)s)")
    add(
        "--peers",
        action="store_true",
        help="also measure other ways to run the network: PyTorch channels-last and compiled, ONNX "
        "Runtime and OpenVINO on a plain export; on GPUs also fp16 and CUDA graphs",
    )


def _add_result_options(parser: Parser) -> None:
    add = parser.add_argument
    add(
        "--json", type=Path, metavar="FILE", help="write the results (benchmarks/report/results.py)"
    )
    add("--report", type=Path, metavar="DIR", help="write report.html, report.md and its pictures")
    add(
        "--compare",
        type=Path,
        metavar="OLD",
        help="a results file: list what is worse now beyond noise, and exit with status 1 if "
        "anything is",
    )
    add(
        "--threshold",
        type=float,
        default=5.0,
        metavar="PERCENT",
        help="loss of speed that --compare accepts (default: %(default)s)",
    )


def _add_part_options(parser: Parser) -> None:
    """Add the options of single parts."""
    add = parser.add_argument_group("latency").add_argument
    add("--batch", type=int, nargs="+", default=BATCHES, metavar="N", help="(default: 1 … 64)")
    add(
        "--rounds",
        type=int,
        default=100,
        help="maximum number of timed runs (default: %(default)s)",
    )
    add(
        "--seconds",
        type=float,
        default=60.0,
        help="time per batch size after which no new round begins, except for the first three; "
        "0: no limit (default: %(default)s)",
    )
    add("--starts", type=int, default=STARTS, metavar="N", help="(default: %(default)s)")
    add = parser.add_argument_group("accuracy").add_argument
    add(
        "--data",
        metavar="DIR",
        help="aligned faces (default: synthetic faces that no recipe trains on)",
    )
    add("--landmarks", metavar="FILE", help="landmarks of --data (default: next to the pictures)")
    add("--faces", type=int, metavar="N", help="(default: 1000, or all of --data)")
    add(
        "--published",
        action="store_true",
        help="--data is CelebA-HQ's test set: add MMEditing's published figures",
    )


def _validate(parser: Parser, options: argparse.Namespace) -> None:
    """Check the options, expand `all`, and set the default of --reference."""
    for name, most in LARGEST.items():
        given = getattr(options, name)
        counts = given if isinstance(given, list) else [] if given is None else [given]
        if not all(1 <= count <= most for count in counts):
            parser.error(f"--{name} must be 1 to {most}")
    if not (options.seconds >= 0 and 0 <= options.threshold < 100):
        parser.error("--seconds must be at least 0, --threshold a percentage from 0 to below 100")
    if not options.data and (options.landmarks or options.published):
        parser.error("--landmarks and --published need --data")
    options.what = [part for part in PARTS if {part, "all"} & set(options.what)]
    if options.reference is None:
        if options.engine != [SHIPPED]:
            parser.error("--engine needs --reference CKPT, the checkpoint it was exported from")
        from train.checkpoint import SHIPPED_WEIGHTS

        options.reference = SHIPPED_WEIGHTS


def cli() -> NoReturn:
    disable_telemetry()
    run(main, "benchmarks", EngineError)


if __name__ == "__main__":
    cli()
