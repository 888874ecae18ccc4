"""Compare a graph's outputs with PyTorch's, on faces and on pictures that are not faces."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from dic.console import UserError
from dic.landmarks import decode
from dic.metrics import mean_psnr, rms
from dic.progress import Progress
from dic.sizes import HEATMAP_SIZE
from export.choices import Precision
from export.gate.limits import TIE_MARGIN, Limits
from export.gate.pictures import Pictures
from export.gate.run import Outputs, feed, session
from export.graph.interface import Signature, step_of
from export.graph.names import boundaries
from export.graph.packed import pack
from train.data.pairs import denormalise, normalise
from train.model.network import DIC, Steps, enlarged

PEAK_RADIUS = 3  # cells; the training target is a Gaussian with a sigma of 1 cell
# Upper bound on the tie margin of the second and third cell, as a share of the peak's height. Such
# a tie moves a landmark by 2 pixels only, so a few of them change the mean distance little.
LARGEST_SECOND_TIE = 1e-2
LAST_SR, LAST_HEATMAP = "last sr", "last heatmap"


@dataclass(frozen=True)
class Agreement:
    """Measured differences between an engine and PyTorch, in the units of `Limits`.

    Attributes:
        error: the largest over all outputs and pictures; of faces and landmarks, before rounding.
            Infinite if an output has another shape, or values that are NaN or infinite.
        output: the name of the output with that error.
        psnr: the engine's PSNR against the ground truth, dB.
        psnr_loss: PyTorch's PSNR minus the engine's, dB.
        landmarks: mean distance from PyTorch's; 0 if the engine has no landmarks.
        levels: the largest over all pictures.
    """

    error: float
    output: str
    psnr: float
    psnr_loss: float
    landmarks: float
    levels: float

    def excess(self, limits: Limits) -> str:
        """The differences that exceed the limits, as text; NaN exceeds. Empty if none does."""
        if math.isinf(self.error):
            return f"output {self.output!r} has another shape, or NaN or infinite values"
        parts = (
            (f"output {self.output!r} by", self.error, limits.error, " of its largest value"),
            ("PSNR by", self.psnr_loss, limits.psnr, " dB"),
            ("landmarks by", self.landmarks, limits.landmarks, " px"),
            ("a picture by", self.levels, limits.levels, " grey levels"),
        )
        return ", ".join(
            f"{what} {value:.3g}{unit} (allowed {limit:.3g})"
            for what, value, limit, unit in parts
            if not value <= limit
        )

    def __str__(self) -> str:
        change = round(-self.psnr_loss, 4) + 0.0  # + 0.0 turns -0.0 into 0.0
        return (
            f"difference {self.error:.2g}, PSNR {change:+.4f} dB, landmarks {self.landmarks:.3f} px"
        )


@dataclass(frozen=True)
class Reference:
    """PyTorch's results for a set of pictures.

    Attributes:
        network: the network in float32, not packed.
        pictures: its inputs, N of them.
        steps: per step, faces (N, 3, 128, 128) and heatmaps (N, K, 32, 32), in the same order.
    """

    network: DIC
    pictures: Pictures
    steps: Steps

    def first(self, faces: int) -> Reference:
        """The same reference with only the first `faces` faces."""
        kept = self.pictures.kept(faces)
        steps = Steps(*([x[kept] for x in kind] for kind in self.steps))
        return Reference(self.network, self.pictures.first(faces), steps)

    def only(self, index: int) -> Steps:
        """The results for one picture."""
        return Steps(*([x[index : index + 1] for x in kind] for kind in self.steps))


@torch.no_grad()
def reference(network: DIC, pictures: Pictures, steps: int) -> Reference:
    """Run the network on every picture, packed and in channels-last layout for speed.

    Raises:
        UserError: an output is NaN or infinite.
    """
    packed = pack(network) if network.config.projection > 1 else copy.deepcopy(network)
    fast = packed.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    parts: list[Steps] = []
    with Progress(total=len(pictures), desc="PyTorch", unit="picture", leave=False) as bar:
        for image in pictures.image:
            parts.append(fast(normalise(image[None]), steps))
            bar.update()
    if not all(torch.isfinite(x).all() for part in parts for x in (*part.sr, *part.heatmaps)):
        raise UserError("the network's outputs are NaN or infinite; retrain it")
    sr = [torch.cat(step) for step in zip(*(part.sr for part in parts), strict=True)]
    maps = [torch.cat(step) for step in zip(*(part.heatmaps for part in parts), strict=True)]
    return Reference(network, pictures, Steps(sr, maps))


def run(model: onnx.ModelProto, pictures: Pictures, signature: Signature) -> Outputs:
    """Run a graph on all pictures, in batches of different sizes.

    Returns:
        its outputs by name, and as `LAST_SR` and `LAST_HEATMAP` the last step's face and heatmaps
        before rounding and decoding (heatmaps only if the graph computes them).
    """
    places = boundaries(model)
    probes = {}
    for name, block in ((LAST_SR, "conv_last"), (LAST_HEATMAP, "hour_glass/last")):
        if (signature.steps, block) in places:
            probes[name] = places[signature.steps, block]
    call = session(model, [*probes.values()])
    parts = []
    with Progress(total=len(pictures), desc="ONNX Runtime", unit="picture", leave=False) as bar:
        for some in _batches(len(pictures)):
            part = call({signature.input: feed(pictures.image[some], signature)})
            for name, tensor in probes.items():
                part[name] = part[tensor]
            if LAST_SR in part:
                part[LAST_SR] = part[LAST_SR] + enlarged(normalise(pictures.image[some])).numpy()
            parts.append(part)
            bar.update(some.stop - some.start)
    names = [*signature.outputs, *probes]
    return {name: np.concatenate([part[name] for part in parts]) for name in names}


def _batches(count: int) -> Iterator[slice]:
    """Batches of 1, 3, 1, 1, … pictures.

    The batch of 3 fails if the graph has a fixed batch size. The rest runs one by one: on CPUs the
    full-size network is slower in batches.
    """
    start = 0
    for size in itertools.chain((1, 3), itertools.repeat(1)):
        if start >= count:
            return
        yield slice(start, min(start + size, count))
        start += size


def compare(given: Outputs, known: Reference, precision: Precision = Precision.FP32) -> Agreement:
    """Compare an engine's outputs with PyTorch's.

    Args:
        given: outputs for all pictures of `known`, as returned by `run`.
        precision: the engine's, for `clear_peaks`.
    """
    pictures, steps = known.pictures, known.steps
    faces = len(pictures.gt)
    errors = {name: max(output_errors(name, value, steps)) for name, value in given.items()}
    # With an output of another shape, or NaN or infinite values, nothing else can be measured.
    output = max(errors, key=errors.__getitem__)
    if math.isinf(errors[output]):
        return Agreement(errors[output], output, *[math.nan] * 4)
    # If every step is an output, the worst step counts.
    losses = []
    distances = [0.0]
    levels = np.zeros(len(pictures))
    for name, value in given.items():
        sr, maps = steps.sr[step_of(name)], steps.heatmaps[step_of(name)].numpy()
        if name == "face" or name.startswith("sr"):
            face = value if name == "face" else denormalise(torch.from_numpy(value))
            expected = denormalise(sr)
            psnr = mean_psnr(face[:faces], pictures.gt)
            losses.append((mean_psnr(expected[:faces], pictures.gt) - psnr, psnr))
            levels = np.maximum(levels, rms(face, expected))
        if name == "landmarks" or name.startswith("heatmap"):
            points = value if name == "landmarks" else decode(value)[0]
            distances.append(_distance(points[:faces], maps[:faces], precision))
    loss, psnr = max(losses)
    return Agreement(errors[output], output, psnr, loss, max(distances), float(levels.max()))


def clear_peaks(maps: NDArray[np.float32], precision: Precision) -> NDArray[np.bool_]:
    """Which heatmaps have a clear peak, so that rounding does not change the decoded landmark.

    Heights are measured over the median. No cell more than `PEAK_RADIUS` away from the highest one
    may reach half its height, and neither the highest and second-highest cell nor the second and
    third (which decide where the landmark is shifted to) may tie, see `TIE_MARGIN`.

    Args:
        maps: (..., K, 32, 32).
        precision: the engine's.

    Returns:
        (..., K) bool.
    """
    flat = maps.reshape(*maps.shape[:-2], -1)
    third, second, peak = np.moveaxis(np.sort(flat, axis=-1)[..., -3:], -1, 0)
    place, cell = flat.argmax(-1)[..., None], np.arange(flat.shape[-1])
    columns = abs(cell % HEATMAP_SIZE - place % HEATMAP_SIZE)
    rows = abs(cell // HEATMAP_SIZE - place // HEATMAP_SIZE)
    away = np.where(np.maximum(rows, columns) > PEAK_RADIUS, flat, -np.inf).max(-1)
    height = peak - np.median(flat, axis=-1)
    tie = TIE_MARGIN[precision] * height
    result: NDArray[np.bool_] = (
        (peak - away > height / 2)
        & (peak - second > tie)
        & (second - third > np.minimum(tie, LARGEST_SECOND_TIE * height))
    )
    return result


def output_errors(name: str, value: NDArray[Any], steps: Steps) -> list[float]:
    """The error of an output, see `Limits.error`.

    Returns:
        one error per picture; or one number for all, 0 for faces and landmarks (compared
        elsewhere), infinite if the shape differs or values are NaN or infinite.
    """
    sr, maps = steps.sr[step_of(name)], steps.heatmaps[step_of(name)]
    if name in ("face", "landmarks"):  # rounded: `compare` uses LAST_SR and distances instead
        size = (*sr.shape[2:], 3) if name == "face" else (maps.shape[1], 2)
        right = value.shape == (len(sr), *size) and np.isfinite(value).all()
        return [0.0 if right else math.inf]
    if name == "scores":
        exact = maps.amax((2, 3))
    else:
        exact = sr if name == LAST_SR or name.startswith("sr") else maps
    if value.shape != tuple(exact.shape) or not np.isfinite(value).all():
        return [math.inf]
    scale = exact.abs().flatten(1).amax(1).clamp(min=1e-30).double().numpy()
    return list(rms(value, exact.double().numpy()) / scale)


def _distance(points: NDArray[Any], maps: NDArray[np.float32], precision: Precision) -> float:
    """Mean distance of landmarks from those of heatmaps with a clear peak; 0 if there are none."""
    kept = clear_peaks(maps, precision)
    distances = np.linalg.norm(points - decode(maps)[0], axis=-1)[kept]
    return float(distances.mean()) if distances.size else 0.0
