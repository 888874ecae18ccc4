"""An engine from a checkpoint: its graph built, checked, stamped and written."""

from __future__ import annotations

import copy
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import onnx
import onnxruntime
import torch

from dic.console import UserError
from dic.engine_file import FORMAT_VERSION, METADATA_PREFIX
from dic.files import write_together
from dic.sizes import SCALE
from export.choices import Choices, Precision, Target
from export.gate.agreement import Agreement, Reference, reference
from export.gate.check import FACES, SAMPLES, SEED, check
from export.gate.limits import Limits
from export.gate.pictures import from_folder, synthetic
from export.gate.run import feed
from export.gate.samples import samples
from export.graph.interface import Signature
from export.graph.packed import pack
from export.graph.precision import DTYPES, lower
from export.graph.quantise import CALIBRATION, quantised
from export.graph.unroll import FOLDED, LARGEST_WEIGHT, OPSET, unroll
from train.checkpoint import Checkpoint
from train.model.network import DIC

USER_FACES = 16  # of a folder, to compare on
BF16_OPSET = 22  # the first whose convolutions and poolings may be bfloat16
# protobuf's limit on one message; the full-size network takes 88 MB.
PROTOBUF_LIMIT = 2**31 - 1
SMALL = 1024  # bytes of a tensor that stays in the graph: shapes and slopes
PAGE = 4096  # external weights begin at whole ones, so that they can be mapped


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


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
    drawn = None
    if choices.faces:  # a user's photographs do not travel with the engine
        others = synthetic(SEED, SAMPLES).with_extremes()
        drawn = reference(checkpoint.network, others, signature.steps)
    agreement, limits = check(model, known, signature, precision, choices.tolerance, drawn)
    carried = drawn or known.first(SAMPLES)
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
        "format_version": str(FORMAT_VERSION),
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
