"""Accuracy of contenders against the ground truth and against the PyTorch reference."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.contenders.gather import REFERENCE, Contender, Faces, Outputs
from benchmarks.measure.data import FaceSet
from dic.landmarks import decode
from dic.metrics import psnr
from dic.pixels import normalise
from dic.progress import Progress
from dic.sizes import SR_SIZE
from train.data.pairs import denormalise
from train.metrics import nme, ssim
from train.model.network import DIC

BICUBIC = "bicubic"  # enlargement, the baseline
CHUNK = 8  # faces per run
WHITE = 255
SHOWN = 6  # faces in the report


@dataclass(frozen=True)
class Accuracy:
    """Means over the faces, with the protocol of `train.metrics` (uint8 RGB, 8 pixels cropped).

    Attributes:
        name: the contender's; for the reference after fewer steps, with the step's number.
        step: number of steps; 0 for bicubic enlargement.
        psnr: dB against the ground truth.
        ssim: against the ground truth, -1..1.
        nme: landmark error divided by the distance between the eyes; None without landmarks.
        differences: a histogram: how many channel values of all faces differ from the reference's
            by 0, 1, 2, … grey levels. Empty for the reference and bicubic enlargement.
    """

    name: str
    step: int
    psnr: float
    ssim: float
    nme: float | None
    differences: list[int]

    @property
    def largest(self) -> int | None:
        """The largest difference from the reference, grey levels; None if not compared."""
        return len(self.differences) - 1 if self.differences else None

    @property
    def reference_psnr(self) -> float | None:
        """PSNR against the reference's faces, dB, uncropped; inf if all are equal, None if not
        compared.
        """
        if not self.differences:
            return None
        counts = np.array(self.differences, np.float64)
        mse = float((counts * np.arange(len(counts)) ** 2).sum() / counts.sum())
        return float("inf") if mse == 0 else 10 * float(np.log10(WHITE**2 / mse))


@dataclass(frozen=True)
class Strip:
    """Faces to show in the report.

    Attributes:
        columns: name → (SHOWN, 128, 128, 3) uint8 RGB, the same faces restored by each contender.
    """

    columns: dict[str, Faces]


def measure_accuracy(
    network: DIC, device: str, contenders: Sequence[Contender], faces: FaceSet
) -> tuple[list[Accuracy], Strip]:
    """Restore faces with the reference, keeping every step, and with every contender.

    Args:
        network: the reference; copied to `device`.
        contenders: all but the reference.

    Returns:
        rows for bicubic enlargement, the reference after each step, and the contenders in their
        order; and faces to show.
    """
    count = network.config.steps
    network = copy.deepcopy(network).to(device)
    bicubic = np.stack([_bicubic(small) for small in faces.lq])
    shown = slice(SHOWN)
    columns = {"input": _nearest(faces.lq[shown]), BICUBIC: bicubic[shown]}
    rows = [_score(BICUBIC, 0, {"face": bicubic}, faces)]
    with Progress(total=(1 + len(contenders)) * len(faces), desc="accuracy", unit="face") as bar:
        parts: list[list[Outputs]] = [[] for _ in range(count)]
        for start in range(0, len(faces), CHUNK):
            given = list(_by_step(network, device, faces.lq[start : start + CHUNK]))
            for step, part in enumerate(given):
                parts[step].append(part)
            bar.update(len(given[0]["face"]))
        steps = [_joined(part) for part in parts]
        for step, found in enumerate(steps, start=1):
            name = REFERENCE if step == count else f"{REFERENCE}, after step {step}"
            rows.append(_score(name, step, found, faces))
            columns[f"step {step}"] = found["face"][shown]
        reference = steps[-1]["face"]
        for one in contenders:
            chunk = min(CHUNK, one.max_batch or CHUNK)
            run = []
            for start in range(0, len(faces), chunk):
                run.append(one.run(faces.lq[start : start + chunk]))
                bar.update(len(run[-1]["face"]))
            found = _joined(run)
            rows.append(_score(one.name, count, found, faces, reference))
            columns[one.name] = found["face"][shown]
    columns["truth"] = faces.gt[shown]
    return rows, Strip(columns)


@torch.inference_mode()
def _by_step(network: DIC, device: str, lq: Faces) -> Iterator[Outputs]:
    """PyTorch's outputs after each step."""
    given = network(torch.from_numpy(normalise(lq)).to(device))
    for sr, heatmap in zip(given.sr, given.heatmaps, strict=True):
        points, scores = decode(heatmap.float().cpu().numpy())
        yield {"face": denormalise(sr.cpu()), "landmarks": points, "scores": scores}


def _joined(parts: Sequence[Outputs]) -> Outputs:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _score(
    name: str, step: int, found: Outputs, faces: FaceSet, reference: Faces | None = None
) -> Accuracy:
    error = None
    known = faces.points
    if known is not None and "landmarks" in found and found["landmarks"].shape == known.shape:
        error = nme(found["landmarks"], known)
    differences: list[int] = []
    if reference is not None:
        off = np.abs(found["face"].astype(np.int16) - reference)
        differences = np.bincount(off.ravel()).tolist()
    return Accuracy(
        name,
        step,
        float(np.mean(list(map(psnr, found["face"], faces.gt)))),
        float(np.mean(list(map(ssim, found["face"], faces.gt)))),
        error,
        differences,
    )


def _bicubic(small: NDArray[np.uint8]) -> NDArray[np.uint8]:
    big = Image.fromarray(small).resize((SR_SIZE, SR_SIZE), Image.Resampling.BICUBIC)
    return np.asarray(big)


def _nearest(small: Faces) -> Faces:
    times = SR_SIZE // small.shape[1]
    return small.repeat(times, axis=1).repeat(times, axis=2)
