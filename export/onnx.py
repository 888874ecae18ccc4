"""`python -m export.onnx`: export a checkpoint to ONNX, its recurrence unrolled into one graph.

The file is written only after it passes the ONNX checker and ONNX Runtime's outputs agree with
PyTorch's. Its metadata holds everything that the runtime needs.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NoReturn

from dic.console import Parser, UserError, importing, run
from dic.files import remove_partial_files
from dic.memory import Memory, add_memory_option
from dic.outputs import check_outputs
from export import disable_telemetry

ENGINES = (".onnx", ".trt", ".plan", ".engine")


def main(arguments: list[str]) -> int:
    options = _parse(arguments)
    source, output = options.checkpoint, options.output
    if source.suffix in ENGINES:
        raise UserError(f"{source}: is an engine already; give the checkpoint it was exported from")
    weights = output.with_name(f"{output.name}.data") if options.external_data else None
    read = filter(None, (source, options.faces, options.calibration))
    check_outputs(filter(None, (output, weights)), read)
    remove_partial_files(filter(None, (output, weights)))  # of an export that was killed

    # PyTorch takes seconds to import; --help and usage errors need none of it.
    with importing():
        import torch  # noqa: F401
    from export.choices import Choices, Precision, Target
    from export.exporter import export, say
    from export.graph.interface import Io, Signature
    from export.needs import needed_bytes
    from train.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(source, options.steps)
    signature = Signature(
        io=Io(options.io),
        steps=checkpoint.network.config.steps,
        landmarks=not options.no_landmarks,
        all_steps=options.all_steps,
    )
    choices = Choices(
        target=Target(options.target),
        precision=Precision(options.precision),
        faces=options.faces,
        calibration=options.calibration,
        tolerance=options.tolerance,
        external_data=options.external_data,
    )
    trained = checkpoint.trained_steps
    if trained is not None and signature.steps != trained:
        say(
            f"warning: {source} was trained with {trained} steps and is exported with "
            f"{signature.steps}"
        )
    say(f"{source}: {checkpoint.layout.value} layout, {checkpoint.network.config}")
    need = needed_bytes(checkpoint.network, signature.steps, choices.precision)
    with Memory.of(options.memory).taken(need, str(source), "raise --memory"):
        agreement = export(checkpoint, signature, output, choices)
    size = (output.stat().st_size + (weights.stat().st_size if weights else 0)) / 1e6
    written = f"{output} and {weights.name}" if weights else output
    say(f"wrote {written} ({size:.1f} MB); compared with PyTorch: {agreement}")
    return 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = Parser(
        prog="python -m export.onnx",
        description="Export a DIC checkpoint (ours, MMEditing's or the authors') to ONNX.",
    )
    parser.add_argument("checkpoint", type=Path, metavar="CKPT")
    _add_graph_options(parser)
    _add_check_options(parser)
    options = parser.parse_args(arguments)
    _validate(parser, options)
    return options


def _add_graph_options(parser: Parser) -> None:
    """Add the options that decide what is written."""
    add = parser.add_argument
    add("-o", "--output", type=Path, default=Path("dic.onnx"), help="default: %(default)s")
    add("--steps", type=int, metavar="N", help="default: the checkpoint's, or 4")
    add(
        "--precision",
        choices=("fp32", "fp16", "bf16", "int8"),
        default="fp32",
        help="precision that the graph computes in (default: %(default)s)",
    )
    add(
        "--target",
        choices=("gpu", "cpu"),
        default="gpu",
        help="gpu: the network as it is; cpu: an exact rewrite that is faster on CPUs "
        "(default: %(default)s)",
    )
    add(
        "--io",
        choices=("image", "tensor"),
        default="image",
        help="image: uint8 pictures; tensor: the network's normalised float32 tensors "
        "(default: %(default)s)",
    )
    add(
        "--all-steps",
        action="store_true",
        help="output every step's face and heatmaps (--io tensor)",
    )
    add(
        "--no-landmarks",
        action="store_true",
        help="output faces only; the last landmark pass is left out",
    )
    add_memory_option(add, "a larger network is refused")
    add("--external-data", action="store_true", help="store the weights in a file NAME.data")


def _add_check_options(parser: Parser) -> None:
    """Add the options of calibration and of the comparison with PyTorch."""
    add = parser.add_argument
    add(
        "--faces",
        type=Path,
        metavar="DIR",
        help="at least 16 aligned faces to compare with PyTorch on (default: synthetic faces)",
    )
    add(
        "--calibration",
        type=Path,
        metavar="DIR",
        help="at least 32 aligned faces to calibrate int8 with (default: synthetic faces)",
    )
    add(
        "--tolerance",
        type=float,
        default=1.0,
        metavar="N",
        help="multiply the allowed difference from PyTorch by N (default: 1)",
    )


def _validate(parser: Parser, options: argparse.Namespace) -> None:
    if options.steps is not None and options.steps < 1:
        parser.error("--steps must be at least 1")
    if options.all_steps and options.io != "tensor":
        parser.error("--all-steps needs --io tensor")
    if options.calibration and options.precision != "int8":
        parser.error("--calibration needs --precision int8")
    if options.output.suffix != ".onnx":
        parser.error(f"-o {options.output}: the file name must end in .onnx")
    if not 0 < options.tolerance < float("inf"):
        parser.error("--tolerance must be greater than 0 and finite")


def cli() -> NoReturn:
    disable_telemetry()
    run(main, "export")


if __name__ == "__main__":
    cli()
