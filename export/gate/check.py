"""The two questions of the gate, put to a graph."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import torch

from export.choices import Precision
from export.gate.agreement import (
    LAST_HEATMAP,
    LAST_SR,
    Agreement,
    Reference,
    compare,
    output_errors,
    run,
)
from export.gate.blocks import GateError, check_blocks, check_outputs
from export.gate.emulate import emulated, is_low
from export.gate.limits import LIMITS, Limits, drift_limits
from export.gate.run import Outputs
from export.graph.interface import Io, Signature
from train.model.network import Steps

SEED = 2020  # of the drawn faces
# How many, by what more of them find (benchmarks/NOTES.md). In float32 the blocks decide on one
# picture; the means that lower precisions are held to need more.
FACES = {Precision.FP32: 2, Precision.FP16: 16, Precision.BF16: 16, Precision.INT8: 16}
LEVELS = 10  # times what rounded pictures differ by here, they may elsewhere
SAMPLES = 4  # at most of them, with all that are no faces, go along with an engine


def check(
    model: onnx.ModelProto,
    known: Reference,
    signature: Signature,
    precision: Precision,
    tolerance: float = 1.0,
    carried: Reference | None = None,
) -> tuple[Agreement, Limits]:
    """Hold an ONNX model, run by ONNX Runtime on the CPU, against PyTorch.

    Half precisions are emulated (`export.gate.emulate`).

    Args:
        tolerance: times what is allowed.
        carried: what a runtime will verify the engine by; the first of `known` without it.

    Returns:
        how far it is off, and what a runtime is to hold it to elsewhere.

    Raises:
        GateError: beyond the limits, or an output of another shape; says where it begins.
    """
    runnable = emulated(model) if is_low(model) else model
    try:
        check_blocks(
            runnable, known.network, known.pictures.image[:1], signature, precision, tolerance
        )
        given = run(runnable, known.pictures, signature)
        _check_rounding(given, signature, tolerance)
        agreement = compare(given, known, precision)
        limits = LIMITS[precision]
        if precision is Precision.FP32:
            first = (output_errors(n, v[:1], known.only(0)) for n, v in given.items())
            limits = drift_limits(max(max(errors) for errors in first))
        excess = agreement.excess(limits.times(tolerance))
        if not excess:  # the samples alone too, which a runtime verifies the engine by
            if carried is None:
                kept = known.pictures.kept(SAMPLES)
                some = {name: value[kept] for name, value in given.items()}
                carried = known.first(SAMPLES)
            else:
                some = run(runnable, carried.pictures, signature)
            excess = compare(some, carried, precision).excess(limits.times(tolerance))
        if excess:
            raise GateError(f"every block is right, and yet: {excess}")
    except GateError as error:
        raise GateError(
            f"the exported graph differs from PyTorch: {error}; nothing was written "
            "(--tolerance N allows N times as much)"
        ) from error
    if precision is Precision.FP32:
        # Elsewhere only the rounded pictures can be compared, of which a network that leaves the
        # range of grey levels by far may turn a pixel from black to white by rounding.
        limits = replace(limits, error=max(limits.error, LEVELS * agreement.levels / 255))
    return agreement, limits.times(tolerance)


def _check_rounding(given: Outputs, signature: Signature, tolerance: float) -> None:
    """See that pictures and landmarks follow from the last blocks, on every picture.

    Raises:
        GateError: one does not.
    """
    if signature.io is not Io.IMAGE:
        return  # its outputs are these blocks
    sr = torch.from_numpy(given[LAST_SR]).double()
    maps = torch.from_numpy(given.get(LAST_HEATMAP, np.zeros((len(sr), 1, 1, 1)))).double()
    check_outputs(signature.outputs, given, Steps([sr], [maps]), tolerance)
