"""`python -m benchmarks`: what do I gain and what do I lose against PyTorch?"""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn

from dic.console import Parser, UserError, run
from dic.console import UserError as TrainError
from dic.engine_file import EngineError
from dic.files import check_writable
from runtime.engines.contract import SHIPPED

# What `all` is made of, in its order: methods of `benchmarks.run.Run`.
PARTS = ("latency", "start", "profile", "accuracy", "steps")
BATCHES = [1, 2, 4, 8, 16, 32, 64]
STARTS = 5
DONE, WORSE = 0, 1


def main(arguments: list[str]) -> int:
    options = _parse(arguments)
    # PyTorch takes seconds to import; --help and usage errors need none of it.
    from benchmarks.report import compare, results, tables
    from benchmarks.run import Run
    from train.checkpoint import load_checkpoint

    # What can be found wrong at once is, before minutes of work.
    old = results.read(options.compare) if options.compare else None
    for path in filter(None, (options.json, options.report and options.report / "report.md")):
        check_writable(path)
    checkpoint = load_checkpoint(options.reference, options.steps)
    if options.report:
        from benchmarks.report.pages import write_report
    with ExitStack() as opened:
        whole = Run(options, checkpoint, opened)
        try:
            for part in options.what:
                getattr(whole, part)()
        finally:  # what was measured is kept, whatever stops the rest
            if options.json:
                results.write(whole.found, options.json)
    measured = whole.found
    if options.report:
        write_report(measured, whole.strip, options.report)
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
    """The options and what is wrong with them: a table, and long as one."""
    parser = Parser(
        prog="python -m benchmarks",
        description="What an engine gains and loses against the PyTorch reference, in one run: "
        "latency, start and memory, a profile, accuracy, and steps as a dial.",
    )
    add = parser.add_argument
    add("what", nargs="+", choices=(*PARTS, "all"), metavar="WHAT", help=f"{', '.join(PARTS)}; all")
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
    add("--steps", type=int, metavar="N", help="of the reference (default: as its file says, or 4)")
    add("--device", default="auto", help="of the engines (default: %(default)s)")
    add(
        "--peers",
        action="store_true",
        help="measure what others make of the network beside them: PyTorch channels-last and "
        "compiled, ONNX Runtime and OpenVINO on a plain export; on GPUs fp16 and CUDA graphs too",
    )
    add(
        "--json",
        type=Path,
        metavar="FILE",
        help="write the results (benchmarks/report/results.py)",
    )
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
    add("--rounds", type=int, default=100, help="timed runs at most (default: %(default)s)")
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
    add("--faces", type=int, metavar="N", help="(default: 1000, or all of --data)")
    add(
        "--published",
        action="store_true",
        help="--data is CelebA-HQ's test set: show MMEditing's published figures beside ours",
    )
    options = parser.parse_args(arguments)
    counts = [*options.batch, options.rounds, options.starts]
    counts += [count for count in (options.faces, options.steps) if count is not None]
    if min(counts) < 1:
        parser.error("--batch, --rounds, --starts, --faces and --steps must be at least 1")
    if not (options.seconds >= 0 and 0 <= options.threshold < 100):
        parser.error("--seconds must be at least 0, --threshold a percentage")
    if not options.data and (options.landmarks or options.published):
        parser.error("--landmarks and --published go with --data")
    options.what = [part for part in PARTS if {part, "all"} & set(options.what)]
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
