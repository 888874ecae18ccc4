"""`python -m benchmarks.export_memory`: the memory that exports take, beside their bounds.

Each checkpoint is exported in a process of its own. The peak is what the export took beside the
loaded network, which is what `export.onnx --memory` reserves.
"""

from __future__ import annotations

import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NoReturn

from benchmarks.report.markdown import table
from benchmarks.report.rows import read_kept
from dic.console import Parser, UserError, run
from dic.files import write_json
from dic.memory import resident
from dic.outputs import check_outputs

PRECISIONS = ("fp32", "fp16", "bf16", "int8")
KEYS = ("network", "steps", "precision")  # of a row, by which it replaces an older one
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def measured(path: Path, precision: str) -> dict[str, Any]:
    """Export a checkpoint in this process.

    Returns:
        a row: the bound and the peak, in bytes.

    Raises:
        UserError: the export fails.
    """
    from export.choices import Choices, Precision
    from export.exporter import export
    from export.graph.interface import Io, Signature
    from export.needs import needed_bytes
    from train.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(path)
    network, steps = checkpoint.network, checkpoint.network.config.steps
    choices = Choices(precision=Precision(precision))
    need = needed_bytes(network, steps, choices.precision)
    before = resident()
    CLEAR.write_text("5")  # proc(5): the peak begins anew
    with tempfile.TemporaryDirectory() as folder:
        export(checkpoint, Signature(Io.IMAGE, steps, True), Path(folder) / "dic.onnx", choices)
    lines = STATUS.read_text().splitlines()
    peak = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    weights = sum(p.numel() * p.element_size() for p in network.parameters())
    return {
        "network": path.stem,
        "weights": weights,
        "steps": steps,
        "precision": precision,
        "need": need,
        "took": peak - before,
    }


def summary(rows: list[dict[str, Any]]) -> str:
    """The results as a table."""
    head = ["network", "weights, MB", "steps", "precision", "bound, MB", "peak, MB", "bound/peak"]
    shown = [
        [
            row["network"],
            f"{row['weights'] / 1e6:.1f}",
            str(row["steps"]),
            row["precision"],
            f"{row['need'] / 1e6:.0f}",
            f"{row['took'] / 1e6:.0f}",
            f"{row['need'] / row['took']:.2f}",
        ]
        for row in rows
    ]
    return table(head, shown)


def main(arguments: list[str]) -> int:
    parser = Parser(
        prog="python -m benchmarks.export_memory",
        description="Compare the memory that exports take with the bounds that they reserve.",
    )
    add = parser.add_argument
    add("checkpoints", nargs="+", type=Path, metavar="CKPT")
    add("--precision", nargs="+", choices=PRECISIONS, default=PRECISIONS, help="default: all")
    add("--json", type=Path, metavar="FILE",
        help="write the results as JSON; those of other networks in FILE are kept")  # fmt: skip
    options = parser.parse_args(arguments)
    check_outputs(filter(None, [options.json]), options.checkpoints)
    if not CLEAR.exists():
        raise UserError("benchmarks.export_memory needs Linux's /proc")
    rows: list[dict[str, Any]] = read_kept(options.json).get("exports", [])
    found = {tuple(row[key] for key in KEYS): row for row in rows}
    for path in options.checkpoints:
        for precision in options.precision:
            with ProcessPoolExecutor(1, get_context("spawn")) as pool:
                row = pool.submit(measured, path, precision).result()
            found[tuple(row[key] for key in KEYS)] = row
            if options.json:
                write_json(options.json, {"exports": list(found.values())})
    print(summary(list(found.values())))
    return 1 if any(row["took"] > row["need"] for row in found.values()) else 0


def cli() -> NoReturn:
    run(main, "benchmarks")


if __name__ == "__main__":
    cli()
