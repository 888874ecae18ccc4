"""Accuracy of engines against ground truth and against the PyTorch reference."""

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
from dic.contract import normalise
from dic.landmarks import decode
from dic.metrics import psnr
from dic.progress import Progress
from dic.sizes import SR_SIZE
from train.data.pairs import denormalise
from train.metrics import nme, ssim
from train.model.network import DIC

FLOOR = "bicubic"
CHUNK = 8
LARGEST = 255
SHOWN = 6  # faces that are kept for the report


@dataclass(frozen=True)
class Accuracy:
    """Means over the faces, by the protocol of `train.metrics` (uint8 RGB, 8 pixels cropped).

    Attributes:
        name: of the contender; of the reference after fewer steps with their number.
        step: after how many steps; 0 of bicubic enlargement.
        psnr: dB against the ground truth.
        ssim: against the ground truth.
        nme: landmark error over the distance between the eyes; None without landmarks.
        differences: of all numbers of all faces, how many differ from the reference's by 0, 1, 2…
            grey levels; empty where that says nothing.
    """

    name: str
    step: int
    psnr: float
    ssim: float
    nme: float | None
    differences: list[int]

    @property
    def largest(self) -> int | None:
        """The largest difference from the reference, grey levels."""
        return len(self.differences) - 1 if self.differences else None

    @property
    def reference_psnr(self) -> float | None:
        """dB of the faces against the reference's; inf where all are equal."""
        if not self.differences:
            return None
        counts = np.array(self.differences, np.float64)
        mse = float((counts * np.arange(len(counts)) ** 2).sum() / counts.sum())
        return float("inf") if mse == 0 else 10 * float(np.log10(LARGEST**2 / mse))


@dataclass(frozen=True)
class Strip:
    """Some faces as each makes them, to be looked at: name → (SHOWN, 128, 128, 3) uint8 RGB."""

    columns: dict[str, Faces]


def measure_accuracy(
    network: DIC, device: str, contenders: Sequence[Contender], faces: FaceSet
) -> tuple[list[Accuracy], Strip]:
    """Restore faces with the reference, of which every step is kept, and with every contender.

    Args:
        contenders: without the reference.

    Returns:
        the bicubic floor, the reference after each step, and the contenders in their order; and
        pictures of them.
    """
    count = network.config.steps
    network = copy.deepcopy(network).to(device)
    floor = np.stack([_bicubic(small) for small in faces.lq])
    shown = slice(SHOWN)
    columns = {"input": _nearest(faces.lq[shown]), FLOOR: floor[shown]}
    rows = [_score(FLOOR, 0, {"face": floor}, faces)]
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
        truth = steps[-1]["face"]
        for one in contenders:
            chunk = min(CHUNK, one.max_batch or CHUNK)
            run = []
            for start in range(0, len(faces), chunk):
                run.append(one.run(faces.lq[start : start + chunk]))
                bar.update(len(run[-1]["face"]))
            found = _joined(run)
            rows.append(_score(one.name, count, found, faces, truth))
            columns[one.name] = found["face"][shown]
    columns["truth"] = faces.gt[shown]
    return rows, Strip(columns)


@torch.inference_mode()
def _by_step(network: DIC, device: str, lq: Faces) -> Iterator[Outputs]:
    """What PyTorch gives after each step."""
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
