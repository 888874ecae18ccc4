"""`python -m benchmarks.fuzz`: mutated files for everything that reads files.

Each input must end in a result or in an error that names its fault, within 10 s and 1 GiB. The
inputs of a seed are always the same; those that end otherwise are kept as files.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from benchmarks.fuzzing.kinds import KINDS
from benchmarks.fuzzing.workers import Work, fuzz
from benchmarks.report.markdown import table
from benchmarks.report.rows import check_parts, write_rows
from dic.console import Parser, run
from dic.cores import cores
from dic.outputs import check_outputs
from dic.progress import Progress

KEPT = Path("fuzz-findings")


def summary(rows: list[dict[str, Any]]) -> str:
    """The results as a table."""
    head = ["files", "inputs", "read", "refused by name", "findings"]
    return table(
        head,
        [
            [
                row["kind"],
                *(f"{n:,}" for n in (row["inputs"], row["read"], sum(row["refused"].values()))),
                str(len(row["findings"])),
            ]
            for row in rows
        ],
    )


def main(arguments: list[str]) -> int:
    parser = Parser(
        prog="python -m benchmarks.fuzz",
        description="Read mutated files of each kind, and report those that end in neither a "
        "result nor an error that names the fault.",
    )
    add = parser.add_argument
    add("kinds", nargs="*", metavar="KIND", help=f"{', '.join(KINDS)} (default: all)")
    add("--engine", type=Path, required=True, metavar="FILE", help="a small ONNX engine")
    add("--checkpoint", type=Path, required=True, metavar="CKPT", help="a small one")
    add("--inputs", type=int, default=10_000, metavar="N", help="of each kind (default: 10000)")
    add(
        "--minutes",
        type=float,
        default=math.inf,
        metavar="N",
        help="for each kind; fewer inputs are read if they take longer (default: no limit)",
    )
    add("--seed", type=int, default=0, metavar="N", help="default: 0")
    add("--workers", type=int, default=cores(), metavar="N", help="default: the CPU cores")
    add("--kept", type=Path, default=KEPT, metavar="DIR",
        help="where the inputs of findings are kept (default: %(default)s)")  # fmt: skip
    add("--json", type=Path, metavar="FILE",
        help="write the results as JSON; those of other kinds in FILE are kept")  # fmt: skip
    options = parser.parse_args(arguments)
    check_parts(parser, options.kinds, KINDS)
    if min(options.inputs, options.workers) < 1:
        parser.error("--inputs and --workers must be at least 1")
    check_outputs(filter(None, [options.json]), [options.engine, options.checkpoint])
    rows = []
    for name in options.kinds or KINDS:
        work = Work(name, options.engine, options.checkpoint, options.seed)
        with Progress(total=options.inputs, desc=name, unit="input") as bar:
            limit = options.minutes * 60
            found = fuzz(work, options.inputs, options.workers, bar.update, options.kept, limit)
        rows.append(asdict(found))
        for line in found.findings:
            print(f"{name} {line}")
        if options.json:
            write_rows(options.json, options.seed, "kinds", "kind", rows, KINDS)
    print(summary(rows))
    return 1 if any(row["findings"] for row in rows) else 0


def cli() -> NoReturn:
    run(main, "benchmarks")


if __name__ == "__main__":
    cli()
