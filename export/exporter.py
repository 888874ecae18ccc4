"""Export a checkpoint: build its graph, check it, add metadata, and write the ONNX file."""

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

USER_FACES = 16  # taken from a user's folder for the comparison with PyTorch
CALIBRATION_SEED = 7
BF16_OPSET = 22  # the first opset with bfloat16 convolutions and poolings
# Bytes; protobuf's limit for one message. The full-size network takes 88 MB.
PROTOBUF_LIMIT = 2**31 - 1
EXTERNAL_FROM = 1024  # bytes; smaller tensors (shapes, slopes) stay in the graph
PAGE = 4096  # bytes; external tensors start on page boundaries so that they can be memory-mapped


def say(line: str) -> None:
    """Print a line to standard error."""
    print(line, file=sys.stderr, flush=True)


def export(
    checkpoint: Checkpoint, signature: Signature, output: Path, choices: Choices | None = None
) -> Agreement:
    """Export a checkpoint to an ONNX file and check it against PyTorch (`export.gate`).

    Args:
        signature: inputs, outputs and number of steps.
        output: path of the ONNX file.
        choices: defaults to `Choices()`.

    Returns:
        the measured differences from PyTorch, also stored in the file's metadata.

    Raises:
        GateError: the graph disagrees with PyTorch; `output` is not touched.
        UserError: `output` cannot be written, faces cannot be read, or the network's outputs are
            NaN or infinite.
    """
    choices = choices or Choices()
    precision = choices.precision
    # The user's files are read first, so that errors in them show before minutes of work.
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
    say("3/4 comparing every block with float64, then ONNX Runtime on the pictures")
    embedded = None
    if choices.faces:  # a user's photographs must not be stored in the engine
        others = synthetic(SEED, SAMPLES).with_extremes()
        embedded = reference(checkpoint.network, others, signature.steps)
    agreement, limits = check(model, known, signature, precision, choices.tolerance, embedded)
    embedded = embedded or known.first(SAMPLES)
    say("4/4 writing")
    stamp(model, checkpoint, signature, choices, Checked(agreement, limits, known), embedded)
    write(model, output, choices.external_data)
    return agreement


@dataclass(frozen=True)
class Checked:
    """The gate's result.

    Attributes:
        agreement: the measured differences from PyTorch.
        limits: what the runtime verifies the engine by.
        known: PyTorch's outputs that the engine was compared with.
    """

    agreement: Agreement
    limits: Limits
    known: Reference


def build(network: DIC, signature: Signature, choices: Choices) -> onnx.ModelProto:
    """Build the graph for the chosen target and precision, without checking it.

    Raises:
        UserError: calibration faces cannot be read, or the graph is over 2 GB.
    """
    calibration = None
    if choices.precision is Precision.INT8:
        folder = choices.calibration
        calibration = (
            from_folder(folder, CALIBRATION) if folder else synthetic(CALIBRATION_SEED, CALIBRATION)
        )
    network = copy.deepcopy(network)
    if choices.target is Target.CPU:
        network = pack(network)
    if choices.precision is not Precision.FP32:
        network = lower(network, DTYPES[choices.precision])
    opset = BF16_OPSET if choices.precision is Precision.BF16 else OPSET
    # The quantiser needs every weight as an initializer, not computed by nodes when loading.
    fold = FOLDED if calibration is None else LARGEST_WEIGHT
    model = unroll(network, signature, opset, fold)
    if model.ByteSize() > PROTOBUF_LIMIT:
        raise UserError(
            "the network's graph is over 2 GB, protobuf's limit; use fewer channels or a lower "
            "precision"
        )
    if calibration is not None:
        model = quantised(model, feed(calibration.image, signature))
    return model


def stamp(
    model: onnx.ModelProto,
    checkpoint: Checkpoint,
    signature: Signature,
    choices: Choices,
    checked: Checked,
    embedded: Reference,
) -> None:
    """Set the model's `dic.*` metadata, in place: see `dic.engine_file.Metadata`.

    Args:
        embedded: pictures and reference outputs to store as samples.
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
        "samples": samples(embedded, signature, choices.precision),
    }
    onnx.helper.set_model_props(model, {METADATA_PREFIX + k: v for k, v in facts.items()})


def write(model: onnx.ModelProto, output: Path, external_data: bool = False) -> None:
    """Write an ONNX file, all of it or nothing.

    Args:
        external_data: store the weights in `NAME.data` next to it; `model` is then changed.

    Raises:
        UserError: a file cannot be written.
    """
    files: dict[Path, bytes | bytearray] = {}
    if external_data:
        weights = bytearray()
        for tensor in model.graph.initializer:
            if len(tensor.raw_data) >= EXTERNAL_FROM:
                weights += _moved(tensor, f"{output.name}.data", len(weights))
        files[output.with_name(f"{output.name}.data")] = weights
    write_together(files | {output: model.SerializeToString()})


def _moved(tensor: onnx.TensorProto, location: str, offset: int) -> bytes:
    """Turn a tensor into a reference to a file; return its bytes, padded to whole pages."""
    data = tensor.raw_data
    onnx.external_data_helper.set_external_data(tensor, location, offset, len(data))
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    return data + bytes(-len(data) % PAGE)
