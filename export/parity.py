"""Does an ONNX file compute what PyTorch computes? Asked before the file is put in place."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from export.engine_io import Io, Signature, to_levels
from train.console import UserError
from train.data import normalise
from train.landmarks import decode
from train.network import DIC
from train.sizes import SR_SIZE

TOLERANCE = 1e-4  # on the normalised scale, where black to white is 1
BATCHES = (1, 2, 5)


class ParityError(UserError):
    """An exported graph and PyTorch disagree."""


@dataclass(frozen=True)
class Parity:
    """The worst disagreement found.

    Attributes:
        output: the name of the output in which it was found.
        error: the largest absolute difference. Of `face`: what rounding to grey levels does not
            explain, on the normalised scale. Of `landmarks`: as a share of the face's 128 pixels.
        batch: the batch size at which it was found.
    """

    output: str
    error: float
    batch: int


@torch.no_grad()
def check(model: bytes, network: DIC, signature: Signature, seed: int = 0) -> Parity:
    """Run an ONNX model in ONNX Runtime (CPU) against PyTorch at batches 1, 2 and 5.

    Args:
        model: serialised.

    Returns:
        the worst disagreement, within TOLERANCE.

    Raises:
        ParityError: beyond TOLERANCE, or an output of another shape; names output and batch.
    """
    # The same arithmetic in a layout in which PyTorch takes half the time.
    network = copy.deepcopy(network).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(seed)
    worst = Parity(signature.outputs[0], 0.0, BATCHES[0])
    for batch in BATCHES:
        sample = signature.sample(batch, generator)
        given = session.run(list(signature.outputs), {signature.input: sample.numpy()})
        for name, value, error in _errors(signature, network, sample, given):
            if not error <= TOLERANCE:  # a NaN fails too
                raise ParityError(
                    f"the exported graph differs from PyTorch: output {name!r} {value.shape} by "
                    f"{error:.3g} at batch {batch} (allowed {TOLERANCE:g}); nothing was written"
                )
            if error > worst.error:
                worst = Parity(name, error, batch)
    return worst


def _errors(
    signature: Signature, network: DIC, sample: torch.Tensor, given: list[NDArray[np.generic]]
) -> list[tuple[str, NDArray[np.generic], float]]:
    """Every output with its error. The expectations come from the network, not the wrapper."""
    lq = normalise(sample.numpy()) if signature.io is Io.IMAGE else sample
    steps = network(lq, signature.steps)
    expected = {f"sr_{i}": sr.numpy() for i, sr in enumerate(steps.sr)}
    expected |= {f"heatmap_{i}": maps.numpy() for i, maps in enumerate(steps.heatmaps)}
    expected["sr"] = steps.sr[-1].numpy()
    expected["scores"] = steps.heatmaps[-1].amax((2, 3)).numpy()
    errors = []
    for name, value in zip(signature.outputs, given, strict=True):
        if name == "face":
            levels = to_levels(steps.sr[-1]).permute(0, 2, 3, 1).numpy()
            error = _face_error(value, levels)
        elif name == "landmarks":
            error = _landmark_error(value, steps.heatmaps[-1].numpy())
        else:
            error = _largest_difference(value, expected[name])
        errors.append((name, value, error))
    return errors


def _largest_difference(a: NDArray[np.generic], b: NDArray[np.generic]) -> float:
    if a.shape != b.shape:
        return float("inf")
    return float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max())


def _face_error(face: NDArray[np.generic], levels: NDArray[np.float32]) -> float:
    """Rounding moves a value by up to half a grey level; what is beyond that is error."""
    return max(0.0, _largest_difference(face, levels) - 0.5) / 255


def _landmark_error(points: NDArray[np.generic], maps: NDArray[np.float32]) -> float:
    """Largest distance on an axis, leaving out landmarks whose peak is a tie.

    Where the three highest cells lie within twice the tolerance of one another, either order of
    them is right, and a decoded landmark may jump.
    """
    wanted, _ = decode(maps)
    if points.shape != wanted.shape:
        return float("inf")
    top = -np.sort(-maps.reshape(*maps.shape[:2], -1), axis=-1)[..., :3]
    decided = (-np.diff(top, axis=-1)).min(-1) > 2 * TOLERANCE
    distance = np.abs(points.astype(np.float64) - wanted)[decided]
    return float(distance.max(initial=0.0)) / SR_SIZE
