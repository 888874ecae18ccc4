"""Is an engine as good as PyTorch, on faces and on pictures that are none?"""

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
from dic.metrics import mean_psnr
from dic.progress import Progress
from dic.sizes import HEATMAP_SIZE
from export.choices import Precision
from export.gate.limits import TIES, Limits
from export.gate.pictures import Pictures
from export.gate.run import Outputs, feed, session
from export.graph.interface import Signature
from export.graph.names import boundaries
from export.graph.packed import pack
from train.data.pairs import denormalise, normalise
from train.model.network import DIC, Steps, enlarged

PEAK_REACH = 3  # cells; a landmark's target is a Gaussian of width 1
SMALL_TIE = 1e-2  # two pixels one way or the other, which means may hold some of
LAST_SR, LAST_HEATMAP = "last sr", "last heatmap"


@dataclass(frozen=True)
class Agreement:
    """How far an engine is from PyTorch; units are those of `Limits`.

    Attributes:
        error: of the output and the picture that are furthest off, and `output`, its name. Faces
            and landmarks are compared before they are rounded.
        psnr: the engine's PSNR against the true faces, dB, and `psnr_loss`, how much PyTorch's
            is higher.
        landmarks: mean distance from PyTorch's; 0 where the engine gives none.
        levels: of the picture that is furthest off.
    """

    error: float
    output: str
    psnr: float
    psnr_loss: float
    landmarks: float
    levels: float

    def excess(self, limits: Limits) -> str:
        """What is beyond the limits, to be read; empty where nothing is. A NaN is beyond."""
        if math.isinf(self.error):
            return f"output {self.output!r} is of another shape, or not all numbers"
        parts = (
            (f"output {self.output!r} by", self.error, limits.error, " of its scale"),
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
        change = round(-self.psnr_loss, 4) + 0.0  # + 0.0: no -0.0000
        return (
            f"difference {self.error:.2g}, PSNR {change:+.4f} dB, landmarks {self.landmarks:.3f} px"
        )


@dataclass(frozen=True)
class Reference:
    """What PyTorch makes of pictures.

    Attributes:
        network: unrewritten, in float32.
        steps: of all pictures, in order.
    """

    network: DIC
    pictures: Pictures
    steps: Steps

    def first(self, faces: int) -> Reference:
        """With fewer faces; all else stays."""
        kept = self.pictures.kept(faces)
        steps = Steps(*([x[kept] for x in kind] for kind in self.steps))
        return Reference(self.network, self.pictures.first(faces), steps)

    def only(self, index: int) -> Steps:
        """Of one picture."""
        return Steps(*([x[index : index + 1] for x in kind] for kind in self.steps))


@torch.no_grad()
def reference(network: DIC, pictures: Pictures, steps: int) -> Reference:
    """Run the network on every picture.

    In the form in which PyTorch is fastest: that its blocks are right is not asked here.

    Raises:
        UserError: it gives numbers that are none.
    """
    packed = pack(network) if network.config.projection > 1 else copy.deepcopy(network)
    fast = packed.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    parts: list[Steps] = []
    with Progress(total=len(pictures), desc="PyTorch", unit="picture", leave=False) as bar:
        for image in pictures.image:
            parts.append(fast(normalise(image[None]), steps))
            bar.update()
    if not all(torch.isfinite(x).all() for part in parts for x in (*part.sr, *part.heatmaps)):
        raise UserError("the network gives NaN or infinite values: retrain it")
    sr = [torch.cat(step) for step in zip(*(part.sr for part in parts), strict=True)]
    maps = [torch.cat(step) for step in zip(*(part.heatmaps for part in parts), strict=True)]
    return Reference(network, pictures, Steps(sr, maps))


def run(model: onnx.ModelProto, pictures: Pictures, signature: Signature) -> Outputs:
    """A graph's outputs for all pictures, in batches of several sizes.

    Returns:
        its outputs, and as `LAST_SR` and `LAST_HEATMAP` the last step's results before they become
        pictures and landmarks (the latter where the graph computes them).
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
    """A picture alone, then 3 at once, in which a batch that was baked into a graph shows (it is
    traced with 2), and then one by one: on CPUs the full-size network takes longer in batches.
    """
    start = 0
    for size in itertools.chain((1, 3), itertools.repeat(1)):
        if start >= count:
            return
        yield slice(start, min(start + size, count))
        start += size


def compare(given: Outputs, known: Reference, precision: Precision = Precision.FP32) -> Agreement:
    """An engine's outputs for all pictures, as `run` gives them, beside PyTorch's.

    Args:
        precision: decides which landmarks lie somewhere (`TIES`).
    """
    pictures, steps = known.pictures, known.steps
    faces = len(pictures.gt)
    errors = {name: max(output_errors(name, value, steps)) for name, value in given.items()}
    # An output of another shape or with a NaN is infinitely far off, and nothing more is measured.
    output = max(errors, key=errors.__getitem__)
    if math.isinf(errors[output]):
        return Agreement(errors[output], output, *[math.nan] * 4)
    # Of engines that give every step, the step that lost most.
    losses = []
    distances = [0.0]
    off = np.zeros(len(pictures))
    for name, value in given.items():
        sr, maps = steps.sr[_step(name)], steps.heatmaps[_step(name)].numpy()
        if name == "face" or name.startswith("sr"):
            face = value if name == "face" else denormalise(torch.from_numpy(value))
            wanted = denormalise(sr)
            ours = mean_psnr(face[:faces], pictures.gt)
            losses.append((mean_psnr(wanted[:faces], pictures.gt) - ours, ours))
            off = np.maximum(off, _rms(face, wanted))
        if name == "landmarks" or name.startswith("heatmap"):
            points = value if name == "landmarks" else decode(value)[0]
            distances.append(_distance(points[:faces], maps[:faces], precision))
    loss, ours = max(losses)
    return Agreement(errors[output], output, ours, loss, max(distances), float(off.max()))


def decided(maps: NDArray[np.float32], precision: Precision) -> NDArray[np.bool_]:
    """(..., K): which landmarks of heatmaps (..., K, 32, 32) lie somewhere.

    Their peak stands alone: no cell away from it is half as high, over the median, and none beside
    it as high but for what a tie allows. Nor do the second and the third highest tie, which decide
    towards where a landmark is moved.
    """
    flat = maps.reshape(*maps.shape[:-2], -1)
    third, second, peak = np.moveaxis(np.sort(flat, axis=-1)[..., -3:], -1, 0)
    place, cell = flat.argmax(-1)[..., None], np.arange(flat.shape[-1])
    columns = abs(cell % HEATMAP_SIZE - place % HEATMAP_SIZE)
    rows = abs(cell // HEATMAP_SIZE - place // HEATMAP_SIZE)
    away = np.where(np.maximum(rows, columns) > PEAK_REACH, flat, -np.inf).max(-1)
    height = peak - np.median(flat, axis=-1)
    tie = TIES[precision] * height
    result: NDArray[np.bool_] = (
        (peak - away > height / 2)
        & (peak - second > tie)
        & (second - third > np.minimum(tie, SMALL_TIE * height))
    )
    return result


def output_errors(name: str, value: NDArray[Any], steps: Steps) -> list[float]:
    """An output's `Limits.error` for each picture; infinite where its shape differs, or it has a
    NaN.
    """
    sr, maps = steps.sr[_step(name)], steps.heatmaps[_step(name)]
    if name in ("face", "landmarks"):  # only whether there are any
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
    return list(_rms(value, exact.double().numpy()) / scale)


def _rms(a: NDArray[Any], b: Any) -> NDArray[np.float64]:
    """(N,): root mean square of the difference of each picture."""
    difference = np.asarray(a, np.float64) - b
    result: NDArray[np.float64] = np.sqrt(
        (difference**2).mean(axis=tuple(range(1, difference.ndim)))
    )
    return result


def _step(name: str) -> int:
    """The index of an output's step: of `sr_1` 1, of `sr`, `face` and others the last."""
    return int(name.rpartition("_")[2]) if "_" in name else -1


def _distance(points: NDArray[Any], maps: NDArray[np.float32], precision: Precision) -> float:
    """Mean distance of landmarks from those of heatmaps, of the decided ones; 0 without any."""
    kept = decided(maps, precision)
    distances = np.linalg.norm(points - decode(maps)[0], axis=-1)[kept]
    return float(distances.mean()) if distances.size else 0.0
