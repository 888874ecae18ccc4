"""Unrolling: a network's recurrence becomes one ONNX graph, checked before it is put in place."""

from __future__ import annotations

import contextlib
import enum
import io
import json
import logging
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnxruntime
import torch

from export.engine_io import Signature, wrap
from export.packed import pack
from export.parity import Parity, check
from train.checkpoint import Checkpoint
from train.console import UserError, write_whole
from train.network import DIC
from train.sizes import SCALE

METADATA_PREFIX = "dic."
FORMAT_VERSION = 1
OPSET = 20
# protobuf's limit on one message; the full-size network takes 88 MB.
PROTOBUF_LIMIT = 2**31 - 1


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class Target(enum.Enum):
    """What a graph is made for: GPU is the network as it is, CPU is rewritten (`export.packed`)."""

    GPU = "gpu"
    CPU = "cpu"


def export(
    checkpoint: Checkpoint, signature: Signature, output: Path, target: Target = Target.GPU
) -> Parity:
    """Write the ONNX file of a checkpoint.

    Returns:
        the worst disagreement with PyTorch, also kept in the file's metadata.

    Raises:
        ParityError: the graph disagrees with PyTorch; `output` is left as it was.
        UserError: `output` cannot be written.
    """
    network = checkpoint.network
    say(f"unrolling {signature.steps} steps")
    model = unroll(pack(network) if target is Target.CPU else network, signature)
    onnx.checker.check_model(model, full_check=True)
    say(f"{len(model.graph.node)} nodes; comparing with PyTorch")
    parity = check(model.SerializeToString(), network, signature)
    stamp(model, checkpoint, signature, target, parity)
    write_whole(output, model.SerializeToString())
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
    model: onnx.ModelProto,
    checkpoint: Checkpoint,
    signature: Signature,
    target: Target,
    parity: Parity,
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
        "target": target.value,
        "io": signature.io.value,
        "landmarks": str(checkpoint.network.config.landmarks if signature.gives_landmarks else 0),
        "scale": str(SCALE),
        "checkpoint_sha256": checkpoint.sha256,
        "versions": json.dumps(versions),
        "export_error": json.dumps(error),
    }
    onnx.helper.set_model_props(model, {METADATA_PREFIX + k: v for k, v in facts.items()})
