"""`python -m export.tensorrt`: build a TensorRT or TensorRT-RTX plan from an engine's ONNX file.

The precision is the graph's (networks are strongly typed). What differs between the two builders
is in `export.plan.flavour`. A plan is marked unverified, since it may be built where it cannot run:
PyTorch's results travel with it, to be compared where it is first loaded.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from dic.console import Parser, UserError, run
from dic.files import check_writable, write_together

if TYPE_CHECKING:
    from export.plan.flavour import PlanChoices

SUFFIXES = (".trt", ".plan", ".engine")
LEVELS = range(6)  # builder optimisation levels of both flavours


def main(arguments: list[str]) -> int:
    options = _parse(arguments)
    output = options.output
    if output.exists() and options.onnx.exists() and output.samefile(options.onnx):
        raise UserError(f"{output}: is the ONNX file; choose another output")
    for path in filter(None, (output, options.timing_cache)):
        if path.is_dir():
            raise UserError(f"{path}: is a folder; name a file in it")

    check_writable(output)

    from export.plan.flavour import PlanChoices

    choices = PlanChoices(
        batch=options.batch,
        workspace=options.workspace,
        optimization_level=options.optimization_level,
        tf32=options.tf32,
        timing_cache=options.timing_cache,
        version_compatible=options.version_compatible,
        hardware_compatible=options.hardware_compatible,
        compute_capability=tuple(options.compute_capability or ()),
        verbose=options.verbose,
    )
    build(options.onnx, output, options.flavour, choices)
    return 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    """The options and what is wrong with them: a table, and long as one."""
    parser = Parser(
        prog="python -m export.tensorrt",
        description="Build a TensorRT plan from an ONNX file that export.onnx wrote.",
    )
    parser.add_argument("onnx", type=Path, metavar="ONNX")
    parser.add_argument(
        "-o", "--output", type=Path, help="default: the ONNX file's name with .trt, here"
    )
    parser.add_argument(
        "--flavour",
        choices=("auto", "tensorrt", "tensorrt_rtx"),
        default="auto",
        help="which builder (default: tensorrt where it is installed, else tensorrt_rtx)",
    )
    parser.add_argument("--min-batch", type=int, default=1, metavar="N", help="default: 1")
    parser.add_argument(
        "--opt-batch", type=int, metavar="N", help="the batch to be fastest at (default: 8)"
    )
    parser.add_argument("--max-batch", type=int, metavar="N", help="default: 32")
    parser.add_argument(
        "--workspace", type=int, metavar="MIB", help="GPU memory that a layer may use for itself"
    )
    parser.add_argument(
        "--optimization-level",
        type=int,
        choices=LEVELS,
        metavar="0-5",
        help="how long to search for fast kernels (default: the builder's)",
    )
    parser.add_argument(
        "--tf32",
        action="store_true",
        help="let float32 products lose 13 bits on tensor cores; fp32 engines are then held to "
        "fp16's limits",
    )
    parser.add_argument(
        "--timing-cache", type=Path, metavar="FILE", help="reuse and keep kernel timings (tensorrt)"
    )
    parser.add_argument(
        "--version-compatible", action="store_true", help="for later TensorRT too (tensorrt)"
    )
    parser.add_argument(
        "--hardware-compatible",
        choices=("ampere_plus", "same_compute_capability"),
        help="for other GPUs too (tensorrt)",
    )
    parser.add_argument(
        "--compute-capability",
        nargs="+",
        metavar="N.N",
        help="the GPUs to build for: 8.6 12.0, or current (tensorrt_rtx; default: 8.0 and up)",
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="show the builder's log")
    options = parser.parse_args(arguments)
    least = options.min_batch
    most = options.max_batch or max(32, least, options.opt_batch or 0)
    opt = options.opt_batch or min(max(8, least), most)
    if not 1 <= least <= opt <= most:
        parser.error(
            f"--min-batch {least}, --opt-batch {opt} and --max-batch {most} must be at least 1 and "
            "in this order"
        )
    if options.workspace is not None and options.workspace < 1:
        parser.error("--workspace must be at least 1")
    options.batch = (least, opt, most)
    options.output = options.output or Path(options.onnx.with_suffix(".trt").name)
    if options.output.suffix not in SUFFIXES:
        parser.error(f"-o {options.output}: the file's name ends in {', '.join(SUFFIXES)}")
    return options


def build(source: Path, output: Path, flavour_name: str, choices: PlanChoices) -> None:
    """Write the plan of an ONNX engine, and beside it the JSON with its metadata.

    Raises:
        UserError: not an engine's ONNX file, no builder, or it cannot build; nothing is written.
    """
    from onnx.defs import onnx_opset_version

    from dic.engine_file import sidecar
    from export.engine_file import Kind, read_engine_file
    from export.plan.builder import PlanBuilder
    from export.plan.flavour import pick

    engine = read_engine_file(source)
    if engine.kind is not Kind.ONNX:
        raise UserError(f"{source}: is a {engine.kind.value} already; give the ONNX file")
    if not engine.is_ours:
        raise UserError(f"{source}: not a DIC engine; make one with python -m export.onnx")
    if (opset := engine.opset) > (newest := onnx_opset_version()):
        raise UserError(
            f"{source}: opset {opset} is newer than the installed onnx knows ({newest}); "
            "upgrade onnx and TensorRT, or export it anew"
        )
    facts = dict(engine.metadata)
    if choices.tf32 and facts["precision"] == "fp32":
        facts["export_error"] = _with_limits_of(facts["export_error"], "fp16")
    flavour = pick(flavour_name)
    flavour.refuse(choices)
    builder = PlanBuilder(flavour, source, choices)
    builder.say(f"{source}: {facts['precision']}, {facts['io']} I/O; building")
    plan = builder.build()
    described = facts | {
        "inputs": [asdict(tensor) for tensor in engine.inputs],
        "outputs": [asdict(tensor) for tensor in engine.outputs],
        "verified": "no",
        "plan": {
            "sha256": hashlib.sha256(plan).hexdigest(),
            "flavour": flavour.module,
            "version": flavour.version,
            "batch": choices.batch,
            "compute_capability": choices.compute_capability,
            "tf32": choices.tf32,
        },
    }
    text = json.dumps(described, indent=1) + "\n"
    files = {output: plan, sidecar(output): memoryview(text.encode())}
    if choices.timing_cache:
        files[choices.timing_cache] = builder.timings
    write_together(files)
    builder.say(
        f"wrote {output} ({len(plan) / 1e6:.1f} MB) and {sidecar(output).name}; unverified until a "
        "GPU has run it against PyTorch's results, which are in it"
    )


def _with_limits_of(export_error: str, precision: str) -> str:
    """What the runtime verifies a plan by, with the limits of a lower precision."""
    from export.choices import Precision
    from export.gate.limits import LIMITS

    facts = json.loads(export_error)
    facts["limits"] = LIMITS[Precision(precision)].times(facts.get("tolerance", 1.0)).finite()
    return json.dumps(facts)


def cli() -> NoReturn:
    run(main, "rtx")


if __name__ == "__main__":
    cli()
