"""`python -m export.onnx`: unroll a checkpoint's recurrence into one ONNX graph.

The file is put in place only after the ONNX checker has passed it and ONNX Runtime has agreed
with PyTorch on it. What the runtime needs to know travels in the file's metadata.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import onnx
import onnxruntime
import torch

from export.engine_io import Io, Signature, wrap
from export.parity import Parity, check
from train.checkpoint import Checkpoint, load_checkpoint
from train.console import Parser, UserError, run, whole_file
from train.network import DIC, SCALE

METADATA_PREFIX = "dic."
FORMAT_VERSION = 1
OPSET = 20
# protobuf's limit on one message; the full-size network takes 88 MB.
PROTOBUF_LIMIT = 2**31 - 1


def main(arguments: list[str]) -> int:
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
        "--io",
        choices=[io.value for io in Io],
        default=Io.IMAGE.value,
        help="uint8 pictures, or the network's normalised tensors (default: %(default)s)",
    )
    parser.add_argument(
        "--all-steps", action="store_true", help="give every step's face and heatmaps (--io tensor)"
    )
    parser.add_argument(
        "--no-landmarks", action="store_true", help="faces only; drops the last landmark pass"
    )
    options = parser.parse_args(arguments)
    if options.steps is not None and options.steps < 1:
        parser.error("--steps must be at least 1")
    if options.all_steps and options.io != Io.TENSOR.value:
        parser.error("--all-steps needs --io tensor")

    checkpoint = load_checkpoint(options.checkpoint, options.steps)
    signature = Signature(
        io=Io(options.io),
        steps=checkpoint.network.config.steps,
        landmarks=not options.no_landmarks,
        all_steps=options.all_steps,
    )
    say(f"{options.checkpoint}: {checkpoint.layout.value} layout, {checkpoint.network.config}")
    parity = export(checkpoint, signature, options.output)
    size = options.output.stat().st_size / 1e6
    say(
        f"wrote {options.output} ({size:.1f} MB); agrees with PyTorch within {parity.error:.2g} "
        f"(worst: {parity.output} at batch {parity.batch})"
    )
    return 0


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def export(checkpoint: Checkpoint, signature: Signature, output: Path) -> Parity:
    """Write the ONNX file of a checkpoint.

    Returns:
        the worst disagreement with PyTorch, also kept in the file's metadata.

    Raises:
        ParityError: the graph disagrees with PyTorch; `output` is left as it was.
        UserError: `output` cannot be written.
    """
    network = checkpoint.network
    say(f"unrolling {signature.steps} steps")
    model = unroll(network, signature)
    onnx.checker.check_model(model, full_check=True)
    say(f"{len(model.graph.node)} nodes; comparing with PyTorch")
    parity = check(model.SerializeToString(), network, signature)
    stamp(model, checkpoint, signature, parity)
    with whole_file(output) as file:
        file.write(model.SerializeToString())
    return parity


def unroll(network: DIC, signature: Signature) -> onnx.ModelProto:
    """Trace the recurrence into one graph with a dynamic batch; weights are stored once."""
    # The sample batch is 2: with 1, the exporter would take the batch for a constant.
    sample = signature.sample(2, torch.Generator().manual_seed(0))
    with _quiet():
        program = torch.onnx.export(
            wrap(network, signature),
            (sample,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[signature.input],
            output_names=list(signature.outputs),
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    # The exporter notes on every node which line of which file it came from: as large as a small
    # network's weights, and of the machine that it ran on.
    for part in (*model.graph.node, *model.graph.value_info, *model.graph.output, model.graph):
        del part.metadata_props[:]
    if model.ByteSize() > PROTOBUF_LIMIT:
        raise UserError("the network is over 2 GB, more than one ONNX file holds")
    return model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter narrates on stdout, in logs and in warnings about its own future."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "torch.export")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def stamp(
    model: onnx.ModelProto, checkpoint: Checkpoint, signature: Signature, parity: Parity
) -> None:
    """Write what the runtime and a later reader need to know into the file's metadata."""
    versions = {
        "torch": torch.__version__.split("+")[0],
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
    }
    error = {"max": parity.error, "output": parity.output, "batch": parity.batch}
    facts = {
        "format_version": str(FORMAT_VERSION),
        "steps": str(signature.steps),
        "precision": "fp32",
        "target": "gpu",  # the plain graph; rewriting for CPUs is another target
        "io": signature.io.value,
        "landmarks": str(checkpoint.network.config.landmarks if signature.landmarks else 0),
        "scale": str(SCALE),
        "checkpoint_sha256": checkpoint.sha256,
        "versions": json.dumps(versions),
        "export_error": json.dumps(error),
    }
    onnx.helper.set_model_props(model, {METADATA_PREFIX + k: v for k, v in facts.items()})


def cli() -> NoReturn:
    run(main)


if __name__ == "__main__":
    cli()
