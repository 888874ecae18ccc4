"""Validation by the paper's protocol, distributed over the training processes."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np
import torch
from lightning_fabric import Fabric
from torch.utils.data import DataLoader

from dic.landmarks import decode
from dic.metrics import psnr
from train.data.pairs import FacePairs, denormalise
from train.metrics import nme, ssim
from train.model.network import DIC, Steps

CHUNK = 16  # faces per forward pass


@dataclass(frozen=True)
class Validation:
    """The result of a validation: means over the faces, for each step from first to last.

    Attributes:
        iteration: number of updates before the validation.
        psnr: in dB, on uint8 RGB with 8 pixels cropped at every edge.
        ssim: on the same images.
        nme: landmark error divided by the distance between the eyes (`train.metrics.EYES`).
        unreadable: number of faces that were omitted because they could not be read.
    """

    iteration: int
    psnr: tuple[float, ...]
    ssim: tuple[float, ...]
    nme: tuple[float, ...]
    unreadable: int

    def __str__(self) -> str:
        by_step = " → ".join(f"{value:.2f}" for value in self.psnr)
        return (
            f"iteration {self.iteration}: PSNR by step {by_step} dB, SSIM {self.ssim[-1]:.4f}, "
            f"NME {100 * self.nme[-1]:.2f} %"
            + (f" ({self.unreadable} faces unreadable)" if self.unreadable else "")
        )


@torch.no_grad()
def validate(fabric: Fabric, network: DIC, pairs: FacePairs, iteration: int) -> Validation:
    """Measure a network on `pairs`; each process handles a part of the faces.

    The result does not depend on the number of processes.
    """
    network.eval()
    indices = list(range(fabric.global_rank, len(pairs), fabric.world_size))
    chunks = [[(0, i) for i in indices[k : k + CHUNK]] for k in range(0, len(indices), CHUNK)]
    # One row per face: 1 if it was readable, then PSNR, SSIM and NME of each step. The sum over
    # processes is exact, because each row is zero in all processes but one.
    rows = torch.zeros(len(pairs), 1 + 3 * network.config.steps, dtype=torch.float64)
    for chunk, pair in zip(
        chunks, DataLoader(pairs, batch_sampler=chunks, generator=torch.Generator()), strict=True
    ):
        with fabric.autocast():
            steps = network(pair["lq"].to(fabric.device))
        scores = torch.from_numpy(_scores(steps, pair["gt"], pair["landmarks"].numpy()))
        for line in "\n".join(filter(None, pair["skipped"])).splitlines():
            if line not in pairs.reported:
                pairs.reported.add(line)
                print(f"omitted from validation: {line}", file=sys.stderr, flush=True)
        for (_, index), skipped, row in zip(chunk, pair["skipped"], scores, strict=True):
            if not skipped:
                rows[index] = torch.cat((torch.ones(1, dtype=torch.float64), row))
    network.train()
    if fabric.world_size > 1:
        rows = fabric.all_reduce(rows.to(fabric.device), reduce_op="sum").cpu()  # type: ignore[union-attr]
    readable, sums = rows[:, 0].sum().item(), rows[:, 1:].sum(0)
    means = (sums / readable).reshape(3, -1).tolist()
    psnrs, ssims, nmes = (tuple(row) for row in means)
    return Validation(iteration, psnrs, ssims, nmes, len(pairs) - int(readable))


def _scores(steps: Steps, gt: torch.Tensor, points: np.ndarray) -> np.ndarray:
    """Return PSNR, SSIM and NME of each face at each of the N steps, (B, 3·N)."""
    truth = denormalise(gt)
    faces = [denormalise(sr) for sr in steps.sr]
    landmarks = [decode(maps.float().cpu().numpy())[0] for maps in steps.heatmaps]
    columns = [list(map(psnr, step, truth)) for step in faces]
    columns += [list(map(ssim, step, truth)) for step in faces]
    columns += [
        [nme(p[None], q[None]) for p, q in zip(step, points, strict=True)] for step in landmarks
    ]
    return np.array(columns).T
