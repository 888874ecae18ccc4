"""`python -m export.onnx`: unroll a checkpoint's recurrence into one ONNX graph.

The file is put in place only after the ONNX checker has passed it and ONNX Runtime has agreed
with PyTorch on it. What the runtime needs to know travels in the file's metadata.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NoReturn

from dic.console import Parser, UserError, importing, run
from dic.files import check_writable

ENGINES = (".onnx", ".trt", ".plan", ".engine")


def main(arguments: list[str]) -> int:
    options = _parse(arguments)
    source, output = options.checkpoint, options.output
    if output.is_dir():
        raise UserError(f"{output}: is a folder; name a file in it")
    if output.exists() and source.exists() and output.samefile(source):
        raise UserError(f"{output}: is the checkpoint; choose another output")

    if source.suffix in ENGINES:
        raise UserError(f"{source}: is an engine already; give the checkpoint it was made from")
    check_writable(output)

    # PyTorch takes seconds to import; --help and usage errors need none of it.
    with importing():
        import torch  # noqa: F401
    from export.choices import Choices, Precision, Target
    from export.exporter import export, say
    from export.graph.interface import Io, Signature
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
        say(f"warning: {source} was trained with {trained} steps, and gets {signature.steps}")
    say(f"{source}: {checkpoint.layout.value} layout, {checkpoint.network.config}")
    agreement = export(checkpoint, signature, output, choices)
    beside = output.with_name(f"{output.name}.data") if choices.external_data else None
    size = (output.stat().st_size + (beside.stat().st_size if beside else 0)) / 1e6
    named = f"{output} and {beside.name}" if beside else output
    say(f"wrote {named} ({size:.1f} MB); beside PyTorch: {agreement}")
    return 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    """The options and what is wrong with them: a table, and long as one."""
    parser = Parser(
        prog="python -m export.onnx",
        description="Unroll a DIC checkpoint (ours, MMEditing's or the authors') into ONNX.",
    )
    parser.add_argument("checkpoint", type=Path, metavar="CKPT")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("dic.onnx"), help="default: %(default)s"
    )
    parser.add_argument("--steps", type=int, metavar="N", help="default: the checkpoint's, or 4")
    parser.add_argument(
        "--precision",
        choices=("fp32", "fp16", "bf16", "int8"),
        default="fp32",
        help="what the graph computes in (default: %(default)s)",
    )
    parser.add_argument(
        "--target",
        choices=("gpu", "cpu"),
        default="gpu",
        help="the network as it is, or rewritten, exactly, into what CPUs compute fast "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--io",
        choices=("image", "tensor"),
        default="image",
        help="uint8 pictures, or the network's normalised tensors (default: %(default)s)",
    )
    parser.add_argument(
        "--all-steps", action="store_true", help="give every step's face and heatmaps (--io tensor)"
    )
    parser.add_argument(
        "--no-landmarks", action="store_true", help="faces only; drops the last landmark pass"
    )
    parser.add_argument(
        "--faces",
        type=Path,
        metavar="DIR",
        help="at least 16 aligned faces to compare with PyTorch on (default: drawn ones)",
    )
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="DIR",
        help="at least 32 aligned faces to take int8's ranges from (default: drawn ones)",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=1.0,
        metavar="N",
        help="let the engine differ from PyTorch by N times what its precision may (default: 1)",
    )
    parser.add_argument(
        "--external-data", action="store_true", help="keep the weights in NAME.data beside"
    )
    options = parser.parse_args(arguments)
    if options.steps is not None and options.steps < 1:
        parser.error("--steps must be at least 1")
    if options.all_steps and options.io != "tensor":
        parser.error("--all-steps needs --io tensor")
    if options.calibration and options.precision != "int8":
        parser.error("--calibration needs --precision int8")
    if options.output.suffix != ".onnx":
        parser.error(f"-o {options.output}: the file's name ends in .onnx")
    if not 0 < options.tolerance < float("inf"):
        parser.error("--tolerance must be over 0")
    return options


def cli() -> NoReturn:
    run(main, "export")


if __name__ == "__main__":
    cli()
