"""Unrolling: a network's recurrence becomes one ONNX graph, checked before it is put in place."""

from __future__ import annotations

import contextlib
import copy
import enum
import io
import json
import logging
import sys
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import onnx
import onnx_ir
import onnxruntime
import onnxscript
import torch
from onnx_ir.passes import common as passes
from onnxscript.rewriter.rules.common import (
    fuse_pad_into_conv_rule,
    materialize_reshape_shape_rule,
    normalize_pad_format_conv_rule,
)

from export.engine_file import FORMAT_VERSION, METADATA_PREFIX
from export.engine_io import Signature, wrap
from export.gate.agreement import Agreement, Reference, reference
from export.gate.check import FACES, SAMPLES, SEED, check
from export.gate.limits import Limits, Precision
from export.gate.pictures import from_folder, synthetic
from export.gate.run import feed
from export.gate.samples import samples
from export.names import name_nodes
from export.packed import pack
from export.precision import DTYPES, lower
from export.quantise import CALIBRATION, quantised
from train.checkpoint import Checkpoint
from train.console import UserError, write_together
from train.network import DIC
from train.sizes import SCALE

USER_FACES = 16  # of a folder, to compare on
OPSET = 20  # what TensorRT 10.0 reads
BF16_OPSET = 22  # the first whose convolutions and poolings may be bfloat16
# protobuf's limit on one message; the full-size network takes 88 MB.
PROTOBUF_LIMIT = 2**31 - 1
# Numbers of the largest constant that is computed on: shapes, biases, Helen's 5×194 components.
# What repeats weights (`export.packed`) stays in the graph; engines compute it once, at their load.
FOLDED = 1000
LARGEST_WEIGHT = 10_000_000  # numbers, beyond those of any convolution
SMALL = 1024  # bytes of a tensor that stays in the graph: shapes and slopes
PAGE = 4096  # external weights begin at whole ones, so that they can be mapped


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class Target(enum.Enum):
    """What a graph is made for: GPU is the network as it is, CPU is rewritten (`export.packed`)."""

    GPU = "gpu"
    CPU = "cpu"


@dataclass(frozen=True)
class Choices:
    """What else decides what is written.

    Attributes:
        target: see `Target`.
        precision: what the graph computes in.
        faces: a folder of aligned faces to compare on; drawn ones without it.
        calibration: a folder of aligned faces that int8's ranges are taken from; drawn without it.
        tolerance: times the gate's limits.
        external_data: keep the weights in a file beside, `NAME.onnx.data`.
    """

    target: Target = Target.GPU
    precision: Precision = Precision.FP32
    faces: Path | None = None
    calibration: Path | None = None
    tolerance: float = 1.0
    external_data: bool = False


def export(
    checkpoint: Checkpoint, signature: Signature, output: Path, choices: Choices | None = None
) -> Agreement:
    """Write the ONNX file of a checkpoint.

    Returns:
        how far it is from PyTorch, also kept in the file's metadata.

    Raises:
        GateError: the graph disagrees with PyTorch; `output` is left as it was.
        UserError: `output` cannot be written, or faces cannot be read.
    """
    choices = choices or Choices()
    precision = choices.precision
    # What the user gave is read first, so that it fails before the work and not after.
    if choices.faces:
        faces = from_folder(choices.faces, USER_FACES)
    else:
        faces = synthetic(SEED, FACES[precision])
    say(f"1/4 unrolling {signature.steps} steps into one graph")
    model = build(checkpoint.network, signature, choices)
    onnx.checker.check_model(model, full_check=True)
    pictures = faces.with_extremes()
    say(f"2/4 {len(model.graph.node)} nodes; PyTorch on {len(pictures)} pictures")
    known = reference(checkpoint.network, pictures, signature.steps)
    say("3/4 every block beside its result in float64, then ONNX Runtime on the pictures")
    agreement, limits = check(model, known, signature, precision, choices.tolerance)
    if choices.faces:  # a user's photographs do not travel with the engine
        drawn = synthetic(SEED, SAMPLES).with_extremes()
        carried = reference(checkpoint.network, drawn, signature.steps)
    else:
        carried = known.first(SAMPLES)
    say("4/4 writing")
    stamp(model, checkpoint, signature, choices, Checked(agreement, limits, known), carried)
    write(model, output, choices.external_data)
    return agreement


@dataclass(frozen=True)
class Checked:
    """What the gate found: how far off, held to what, compared with what."""

    agreement: Agreement
    limits: Limits
    known: Reference


def build(network: DIC, signature: Signature, choices: Choices) -> onnx.ModelProto:
    """The graph of a network, rewritten and in the precision that was chosen; not yet checked."""
    calibration = None
    if choices.precision is Precision.INT8:
        folder = choices.calibration
        calibration = from_folder(folder, CALIBRATION) if folder else synthetic(7, CALIBRATION)
    network = copy.deepcopy(network).requires_grad_(False)  # traced faster than one to be trained
    if choices.target is Target.CPU:
        network = pack(network)
    if choices.precision is not Precision.FP32:
        network = lower(network, DTYPES[choices.precision])
    opset = BF16_OPSET if choices.precision is Precision.BF16 else OPSET
    # A quantiser takes weights, and not what will become weights.
    fold = FOLDED if calibration is None else LARGEST_WEIGHT
    model = unroll(network, signature, opset, fold)
    if model.ByteSize() > PROTOBUF_LIMIT:
        raise UserError("the network is over 2 GB, more than can be checked as one graph")
    if calibration is not None:
        model = quantised(model, feed(calibration.image, signature))
    return model


def unroll(
    network: DIC, signature: Signature, opset: int = OPSET, fold: int = FOLDED
) -> onnx.ModelProto:
    """Trace the recurrence into one graph with a dynamic batch; weights are stored once.

    Args:
        fold: numbers of the largest constant that is computed on.
    """
    # The sample batch is 2: with 1, the exporter would take the batch for a constant.
    sample = signature.sample(2, torch.Generator().manual_seed(0))
    with _quiet():
        program = torch.onnx.export(
            wrap(network, signature),
            (sample,),
            dynamo=True,
            opset_version=opset,
            input_names=[signature.input],
            output_names=list(signature.outputs),
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
            optimize=False,
        )
        assert program is not None
        _simplify(program.model, fold)
    model: onnx.ModelProto = program.model_proto
    name_nodes(model)
    # The exporter notes on every node which line of which file it came from: as large as a small
    # network's weights, and of the machine that it ran on.
    for part in (*model.graph.node, *model.graph.value_info, *model.graph.output, model.graph):
        del part.metadata_props[:]
    return model


def _simplify(model: onnx_ir.Model, fold: int) -> None:
    """What of onnxscript's optimiser changes such a graph.

    The whole of it tries every rule at every node, some in time that grows with the square of
    their number: half of an export's time, for what this does in half a second.
    """
    onnxscript.optimizer.inline(model)
    onnxscript.optimizer.fold_constants(
        model, input_size_limit=fold, output_size_limit=LARGEST_WEIGHT
    )
    rules = [
        materialize_reshape_shape_rule,  # engines then know all sizes but the batch
        normalize_pad_format_conv_rule,
        fuse_pad_into_conv_rule,
    ]
    onnxscript.rewriter.rewrite(model, rules)
    for cleaning in (
        passes.RemoveUnusedNodesPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.DeduplicateInitializersPass(),
        passes.CommonSubexpressionEliminationPass(),
        passes.RemoveUnusedNodesPass(),
        passes.OutputFixPass(),
        passes.NameFixPass(),
    ):
        cleaning(model)


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
    choices: Choices,
    checked: Checked,
    carried: Reference,
) -> None:
    """Write what the runtime and a later reader need to know into the file's metadata.

    Args:
        carried: pictures that go along.
    """
    versions = {
        "torch": torch.__version__.split("+")[0],
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
    }
    error = {
        **asdict(checked.agreement),
        "faces": len(checked.known.pictures.gt),
        "pictures": len(checked.known.pictures),
        "source": checked.known.pictures.source,
        "tolerance": choices.tolerance,
        "limits": checked.limits.finite(),
    }
    facts = {
        "format_version": FORMAT_VERSION,
        "steps": str(signature.steps),
        "precision": choices.precision.value,
        "target": choices.target.value,
        "io": signature.io.value,
        "landmarks": str(checkpoint.network.config.landmarks if signature.gives_landmarks else 0),
        "scale": str(SCALE),
        "checkpoint_sha256": checkpoint.sha256,
        "versions": json.dumps(versions),
        "export_error": json.dumps(error),
        "samples": samples(carried, signature, choices.precision),
    }
    onnx.helper.set_model_props(model, {METADATA_PREFIX + k: v for k, v in facts.items()})


def write(model: onnx.ModelProto, output: Path, external_data: bool = False) -> None:
    """Put a model in place, its weights in it or in `NAME.data` beside it; whole or not at all.

    Raises:
        UserError: it cannot be written.
    """
    files: dict[Path, bytes | bytearray] = {}
    if external_data:
        weights = bytearray()
        for tensor in model.graph.initializer:
            if len(tensor.raw_data) >= SMALL:
                weights += _moved(tensor, f"{output.name}.data", len(weights))
        files[output.with_name(f"{output.name}.data")] = weights
    write_together(files | {output: model.SerializeToString()})


def _moved(tensor: onnx.TensorProto, location: str, offset: int) -> bytes:
    """Make a tensor point into a file; gives what belongs there, padded to whole pages."""
    data = tensor.raw_data
    onnx.external_data_helper.set_external_data(tensor, location, offset, len(data))
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    return data + bytes(-len(data) % PAGE)
