"""`python -m export.tensorrt`: build a TensorRT or TensorRT-RTX plan from an exported ONNX file.

Networks are strongly typed: the graph decides the precision. The differences between the two
builders are in `export.plan.flavour`. A plan may be built on a machine that cannot run it, so it is
marked unverified and carries PyTorch's reference outputs; the runtime compares its own with them
when it first loads the plan.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from dic.console import Parser, UserError, run
from dic.engine_file import engine_files, sidecar
from dic.files import write_together
from dic.outputs import check_outputs, repeated

if TYPE_CHECKING:
    from export.engine_file import EngineFile
    from export.plan.flavour import Flavour, PlanChoices

SUFFIXES = (".trt", ".plan", ".engine")
LARGEST_BATCH = 1024  # the runtime runs no larger ones
LARGEST_WORKSPACE = 2**20  # MiB
LEVELS = range(6)  # optimisation levels of both builders


def main(arguments: list[str]) -> int:
    options = _parse(arguments)
    output = options.output
    written = [output, sidecar(output), *filter(None, [options.timing_cache])]
    check_outputs(written, engine_files(options.onnx))
    if (same := repeated(written)) is not None:
        raise UserError(f"{same[1]}: would be written twice; choose another --timing-cache")

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
    parser = Parser(
        prog="python -m export.tensorrt",
        description="Build a TensorRT plan from an ONNX file that export.onnx wrote.",
    )
    parser.add_argument("onnx", type=Path, metavar="ONNX")
    parser.add_argument(
        "-o", "--output", type=Path, help="default: the ONNX file's name with .trt, here"
    )
    _add_builder_options(parser)
    _add_compatibility_options(parser)
    parser.add_argument("-v", "--verbose", action="store_true", help="show the builder's log")
    options = parser.parse_args(arguments)
    _validate(parser, options)
    return options


def _add_builder_options(parser: Parser) -> None:
    """Add the options that both builders have."""
    add = parser.add_argument
    add(
        "--flavour",
        choices=("auto", "tensorrt", "tensorrt_rtx"),
        default="auto",
        help="the builder; tensorrt is for data-centre GPUs (compute capability 8.0, 9.0, 10.0), "
        "tensorrt_rtx for GeForce and RTX cards (7.5, 8.6, 8.9, 12.0, 12.1) (default: the one for "
        "this machine's GPU if it is installed, else the other; without a GPU, tensorrt_rtx)",
    )
    add("--min-batch", type=int, default=1, metavar="N", help="default: 1")
    add("--opt-batch", type=int, metavar="N", help="the batch size to optimise for (default: 8)")
    add("--max-batch", type=int, metavar="N", help="default: 32")
    add(
        "--workspace",
        type=int,
        metavar="MIB",
        help="limit on the workspace memory of a layer on the GPU",
    )
    add(
        "--optimization-level",
        type=int,
        choices=LEVELS,
        metavar="0-5",
        help="how long to search for fast kernels (default: the builder's)",
    )
    add(
        "--tf32",
        action="store_true",
        help="allow TF32, which drops 13 bits of float32's mantissa on tensor cores; fp32 plans "
        "are then verified with fp16's limits",
    )


def _add_compatibility_options(parser: Parser) -> None:
    """Add the options that only one builder has."""
    add = parser.add_argument
    add(
        "--timing-cache",
        type=Path,
        metavar="FILE",
        help="read and write kernel timings (tensorrt)",
    )
    add(
        "--version-compatible",
        action="store_true",
        help="run on later TensorRT versions too (tensorrt)",
    )
    add(
        "--hardware-compatible",
        choices=("ampere_plus", "same_compute_capability"),
        help="run on other GPUs too (tensorrt)",
    )
    add(
        "--compute-capability",
        nargs="+",
        metavar="N.N",
        help="GPUs to build for: 8.6 12.0, or current (tensorrt_rtx; default: 8.0 and up)",
    )


def _validate(parser: Parser, options: argparse.Namespace) -> None:
    """Check the options, and set the defaults that depend on others: `batch` and `output`."""
    least = options.min_batch
    opt, most = options.opt_batch, options.max_batch
    if most is None:
        most = max(32, least, opt or 0)
    if opt is None:
        opt = min(max(8, least), most)
    if not 1 <= least <= opt <= most:
        parser.error(
            f"--min-batch {least}, --opt-batch {opt} and --max-batch {most} must be at least 1 and "
            "in ascending order"
        )
    if most > LARGEST_BATCH:
        parser.error(f"--max-batch {most}: must be at most {LARGEST_BATCH}")
    if options.workspace is not None and not 1 <= options.workspace <= LARGEST_WORKSPACE:
        parser.error(f"--workspace must be 1 to {LARGEST_WORKSPACE} MiB")
    options.batch = (least, opt, most)
    options.output = options.output or Path(options.onnx.with_suffix(".trt").name)
    if options.output.suffix not in SUFFIXES:
        parser.error(f"-o {options.output}: the file name must end in {', '.join(SUFFIXES)}")


def build(source: Path, output: Path, flavour_name: str, choices: PlanChoices) -> None:
    """Build a plan from an ONNX file and write it with its metadata, `NAME.json`.

    Args:
        flavour_name: "tensorrt", "tensorrt_rtx" or "auto", see `export.plan.flavour.pick`.

    Raises:
        UserError: `source` was not written by `export.onnx`, no builder is installed, or the build
            fails; nothing is written.
    """
    from onnx.defs import onnx_opset_version

    from export.engine_file import Kind, read_engine_file
    from export.plan.builder import PlanBuilder
    from export.plan.flavour import pick
    from export.plan.layers import check_precision

    engine = read_engine_file(source)
    if engine.kind is not Kind.ONNX:
        raise UserError(f"{source}: is a {engine.kind.value} already; give the ONNX file")
    if not engine.is_ours:
        raise UserError(f"{source}: not a DIC engine; make one with python -m export.onnx")
    if (opset := engine.opset) > (newest := onnx_opset_version()):
        raise UserError(
            f"{source}: opset {opset} is newer than the installed onnx supports ({newest}); "
            "upgrade onnx and TensorRT, or export the checkpoint again"
        )
    facts = engine.metadata
    flavour = pick(flavour_name)
    flavour.refuse(choices)
    builder = PlanBuilder(flavour, source, choices)
    builder.say(f"{source}: {facts['precision']}, {facts['io']} I/O; building")
    plan = builder.build()
    check_precision(source, facts["precision"], builder.layers)
    builder.say(f"{source}: layers: {', '.join(f'{n} {t}' for t, n in builder.layers.items())}")
    if flavour.is_rtx and facts["precision"] == "int8":
        builder.say(
            "TensorRT-RTX quantises weights of matrix products only; these convolutions may "
            "compute in float, so measure before you choose int8"
        )
    text = plan_description(engine, plan, flavour, choices)
    files = {output: plan, sidecar(output): memoryview(text.encode())}
    if choices.timing_cache:
        files[choices.timing_cache] = builder.timings
    write_together(files)
    builder.say(
        f"wrote {output} ({len(plan) / 1e6:.1f} MB) and {sidecar(output).name}; unverified until "
        "it is loaded on a GPU and compared with PyTorch's reference outputs, which it carries"
    )


def plan_description(
    engine: EngineFile, plan: bytes | memoryview, flavour: Flavour, choices: PlanChoices
) -> str:
    """Return the content of the JSON file beside a plan.

    Args:
        engine: the ONNX file that it was built from.
    """
    facts = dict(engine.metadata)
    if choices.tf32 and facts["precision"] == "fp32":
        facts["export_error"] = _with_limits_of(facts["export_error"], "fp16")
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
            "version_compatible": choices.version_compatible,
        },
    }
    return json.dumps(described, indent=1) + "\n"


def _with_limits_of(export_error: str, precision: str) -> str:
    """Replace the limits in a plan's `export_error` JSON by those of a lower precision."""
    from export.choices import Precision
    from export.gate.limits import LIMITS

    facts = json.loads(export_error)
    facts["limits"] = LIMITS[Precision(precision)].times(facts.get("tolerance", 1.0)).finite()
    return json.dumps(facts)


def cli() -> NoReturn:
    run(main, "rtx")


if __name__ == "__main__":
    cli()
