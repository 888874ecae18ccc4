"""The gate: an engine is put in place only where it agrees with PyTorch, on 64 faces.

What may differ depends on the precision. float32 must be equal up to rounding. Lower ones must be
as good: as near to the true faces, in dB of PSNR, and with the landmarks in the same places.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray

from export.blocks import boundaries, computed
from export.emulate import LOW, emulated
from export.engine_io import Io, Signature, to_levels
from export.faces import Faces
from export.limits import LIMITS, UNLIMITED, Limits, Precision
from train.console import UserError
from train.data import denormalise, normalise
from train.landmarks import decode
from train.metrics import landmark_error, psnr
from train.network import DIC, Steps
from train.progress import Progress

FACES = 64
SAMPLES = 8  # of them, which an engine carries
SEED = 2020  # of the synthetic ones
Outputs = dict[str, NDArray[Any]]


# How far a block may be off, as a share of its largest value, by what a precision explains.
BLOCK_TOLERANCE = {
    Precision.FP32: 1e-5,
    Precision.FP16: 1e-2,
    Precision.BF16: 5e-2,
    Precision.INT8: 2e-1,
}


class GateError(UserError):
    """An engine and PyTorch disagree."""


@dataclass(frozen=True)
class Agreement:
    """How far an engine is from PyTorch; see `Limits`.

    Attributes:
        error: the largest difference, and `output`, the name of the output that has it. Of `face`
            it is what rounding to grey levels does not explain.
        psnr: the engine's PSNR against the true faces, dB, and `psnr_loss`, how much PyTorch's
            is higher.
        landmarks: mean distance from PyTorch's; 0 where the engine gives none.
    """

    error: float
    output: str
    psnr: float
    psnr_loss: float
    landmarks: float

    def excess(self, limits: Limits) -> str:
        """What is beyond the limits, to be read; empty where nothing is. A NaN is beyond."""
        if math.isinf(self.error):
            return f"output {self.output!r} is of another shape, or not all numbers"
        found = []
        if not self.error <= limits.error:
            found.append(f"output {self.output!r} by {self.error:.3g} (allowed {limits.error:g})")
        if not self.psnr_loss <= limits.psnr:
            found.append(f"PSNR by {self.psnr_loss:.3g} dB (allowed {limits.psnr:g})")
        if not self.landmarks <= limits.landmarks:
            found.append(f"landmarks by {self.landmarks:.3g} px (allowed {limits.landmarks:g})")
        return ", ".join(found)

    def __str__(self) -> str:
        change = round(-self.psnr_loss, 4) + 0.0  # + 0.0: no -0.0000
        return (
            f"largest difference {self.error:.2g}, PSNR {change:+.4f} dB, "
            f"landmarks {self.landmarks:.3f} px"
        )


@dataclass(frozen=True)
class Reference:
    """What PyTorch makes of the faces.

    Attributes:
        network: unrewritten, in float32.
        steps: of all faces, in order.
    """

    network: DIC
    faces: Faces
    steps: Steps

    def first(self, count: int) -> Reference:
        """Of the first faces only."""
        faces = Faces(self.faces.gt[:count], self.faces.image[:count], self.faces.source)
        steps = Steps(*([x[:count] for x in kind] for kind in self.steps))
        return Reference(self.network, faces, steps)


@torch.no_grad()
def reference(network: DIC, faces: Faces, steps: int) -> Reference:
    """Run the network as it is on every face."""
    # The same arithmetic in a layout in which PyTorch takes half the time.
    fast = copy.deepcopy(network).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    parts: list[Steps] = []
    with Progress(total=len(faces), desc="PyTorch", unit="face", leave=False) as bar:
        for face in faces.image:
            parts.append(fast(normalise(face[None]), steps))
            bar.update()
    if not all(torch.isfinite(x).all() for part in parts for x in (*part.sr, *part.heatmaps)):
        raise UserError("the network gives numbers that are none (NaN or infinite): train it anew")
    sr = [torch.cat(step) for step in zip(*(part.sr for part in parts), strict=True)]
    maps = [torch.cat(step) for step in zip(*(part.heatmaps for part in parts), strict=True)]
    return Reference(network, faces, Steps(sr, maps))


def _batches(count: int) -> Iterator[slice]:
    """Batches of 5 and 2, in which one that was baked into a graph shows, and then of 1: on CPUs
    the full-size network takes longer in batches.
    """
    start = 0
    for size in itertools.chain((5, 2), itertools.repeat(1)):
        if start >= count:
            return
        yield slice(start, min(start + size, count))
        start += size


def check(
    model: onnx.ModelProto,
    known: Reference,
    signature: Signature,
    precision: Precision,
    tolerance: float = 1.0,
) -> Agreement:
    """Hold an ONNX model, run by ONNX Runtime on the CPU, against PyTorch.

    Half precisions are emulated (`export.emulate`).

    Args:
        tolerance: times the limits.

    Raises:
        GateError: beyond the limits, or an output of another shape; says where it begins.
    """
    runnable = emulated(model) if _is_low(model) else model
    given = _run(runnable, known.faces, signature)
    limits = LIMITS[precision].times(tolerance)
    agreement = compare(given, known)
    # The first faces alone too: the samples that a runtime verifies the engine by.
    some = compare({name: value[:SAMPLES] for name, value in given.items()}, known.first(SAMPLES))
    excess = agreement.excess(limits) or some.excess(limits)
    if excess:
        where = first_divergence(runnable, known, signature, precision)
        raise GateError(
            f"the exported graph differs from PyTorch: {excess}; {where}; nothing was written "
            "(--tolerance N allows N times as much)"
        )
    return agreement


def _is_low(model: onnx.ModelProto) -> bool:
    casts = (a for n in model.graph.node if n.op_type == "Cast" for a in n.attribute)
    return any(a.name == "to" and a.i in LOW for a in casts)


def _run(model: onnx.ModelProto, faces: Faces, signature: Signature) -> Outputs:
    run = session(model)
    parts = []
    with Progress(total=len(faces), desc="ONNX Runtime", unit="face", leave=False) as bar:
        for some in _batches(len(faces)):
            parts.append(run({signature.input: feed(faces.image[some], signature)}))
            bar.update(some.stop - some.start)
    return {name: np.concatenate([part[name] for part in parts]) for name in signature.outputs}


def session(model: onnx.ModelProto) -> Callable[[Outputs], Outputs]:
    """A function of a model, by ONNX Runtime on the CPU."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # it warns of initializers that it could fold
    opened = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in opened.get_outputs()]
    return lambda given: dict(zip(names, opened.run(names, given), strict=True))


def feed(image: NDArray[np.uint8], signature: Signature) -> NDArray[np.generic]:
    """Faces (B, 16, 16, 3) as an engine takes them."""
    return image if signature.io is Io.IMAGE else normalise(image).numpy()


def compare(given: Outputs, known: Reference) -> Agreement:
    """An engine's outputs for all faces beside PyTorch's. See `Agreement`."""
    steps, gt = known.steps, known.faces.gt
    errors = {name: _error(name, value, steps) for name, value in given.items()}
    # An output of another shape or with a NaN is infinitely far off, and nothing more is measured.
    output = max(errors, key=errors.__getitem__)
    if math.isinf(errors[output]):
        return Agreement(errors[output], output, math.nan, math.nan, math.nan)
    # Of engines that give every step, the step that lost most.
    losses = []
    distances = [0.0]
    for name, value in given.items():
        if name == "face" or name.startswith("sr"):
            face = value if name == "face" else denormalise(torch.from_numpy(value))
            ours = _mean_psnr(face, gt)
            losses.append((_mean_psnr(denormalise(steps.sr[_step(name)]), gt) - ours, ours))
        if name == "landmarks" or name.startswith("heatmap"):
            points = value if name == "landmarks" else decode(value)[0]
            distances.append(landmark_error(points, decode(steps.heatmaps[_step(name)].numpy())[0]))
    loss, ours = max(losses)
    return Agreement(errors[output], output, ours, loss, max(distances))


def _step(name: str) -> int:
    """The index of an output's step: of `sr_1` 1, of `sr` or `face` the last."""
    return int(name.rpartition("_")[2]) if "_" in name else -1


def _mean_psnr(faces: NDArray[np.uint8], gt: NDArray[np.uint8]) -> float:
    """In dB; a face without any error counts as 120."""
    return float(np.mean([min(psnr(f, truth), 120.0) for f, truth in zip(faces, gt, strict=True)]))


def _error(name: str, value: NDArray[np.generic], steps: Steps) -> float:
    """Largest difference of an output; infinite where the shape differs, or it has a NaN."""
    if name == "face":
        levels = to_levels(steps.sr[-1]).permute(0, 2, 3, 1).numpy()
        # Rounding moves a value by up to half a grey level; what is beyond that is error.
        return max(0.0, _largest(value, levels) - 0.5) / 255
    if name == "landmarks":  # measured by distance; only whether there are any is looked at here
        wanted = (len(steps.sr[-1]), steps.heatmaps[-1].shape[1], 2)
        return 0.0 if value.shape == wanted and np.isfinite(value).all() else UNLIMITED
    if name == "scores":
        return _largest(value, steps.heatmaps[-1].amax((2, 3)).numpy())
    of = steps.sr if name.startswith("sr") else steps.heatmaps
    return _largest(value, of[_step(name)].numpy())


def _largest(a: NDArray[Any], b: NDArray[Any]) -> float:
    if a.shape != b.shape or not np.isfinite(a).all():
        return UNLIMITED
    return float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max())


def first_divergence(
    model: onnx.ModelProto, known: Reference, signature: Signature, precision: Precision
) -> str:
    """Where a model first differs from PyTorch by more than its precision explains, to be read.

    Compares the result of every block of every step (`export.blocks`) on the first face.
    """
    places = boundaries(model)
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    del probed.graph.output[:]
    probed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in places.values())
    image = known.faces.image[:1]
    given = session(probed)({signature.input: feed(image, signature)})
    wanted = computed(known.network, normalise(image), signature.steps)
    shares: dict[str, float] = {}
    for place, tensor in places.items():
        value = given[tensor].astype(np.float64)
        if place not in wanted or wanted[place].shape != value.shape:
            continue  # the packed network merges what is not compared then
        truth = wanted[place].double().numpy()
        share = float(np.abs(value - truth).max() / max(np.abs(truth).max(), 1e-30))
        step, block = place
        where = f"step {step}, {block}" if step else block
        if not share <= BLOCK_TOLERANCE[precision]:
            return f"it begins at {where}, off by {share:.2g} of its largest value"
        shares[where] = share
    if not shares:
        return "where it begins cannot be told: the graph's nodes carry no names of blocks"
    where = max(shares, key=shares.__getitem__)
    return (
        "every block is within what the precision explains (worst: "
        f"{where}, off by {shares[where]:.2g} of its largest value), so it begins after them or "
        "adds up"
    )
