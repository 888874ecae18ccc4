"""The training loop: the paper's losses on every step, validation, checkpoints."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from train.checkpoint import save_checkpoint
from train.console import Progress, UserError, write_whole
from train.data import FacePairs, Pair, denormalise
from train.faces import draw_faces
from train.landmarks import decode
from train.metrics import landmark_error, psnr
from train.network import DIC, NetworkConfig, Steps
from train.recipe import Recipe


@dataclass(frozen=True)
class Validation:
    """Means over the validation faces.

    Attributes:
        iteration: after how many updates.
        psnr: dB of each step's face against the ground truth, uint8 RGB, 8 pixels cropped.
        landmark_error: mean distance of the last step's landmarks, pixels of the 128×128 face.
    """

    iteration: int
    psnr: tuple[float, ...]
    landmark_error: float


def losses(steps: Steps, pair: Pair, peak_weight: float = 0.0) -> tuple[Tensor, Tensor]:
    """The paper's two losses, each summed over the steps.

    Returns:
        the pixel loss, L1 on faces (eq. 9), and the alignment loss, MSE on heatmaps (eq. 10),
        in which a cell of target height h weighs 1 + peak_weight · h (0 in the paper).
    """
    target = pair["heatmaps"]
    weight = 1 + peak_weight * target
    pixel = torch.stack([F.l1_loss(sr, pair["gt"]) for sr in steps.sr]).sum()
    align = torch.stack([((h - target) ** 2 * weight).mean() for h in steps.heatmaps]).sum()
    return pixel, align


def train(recipe: Recipe, out: Path, max_iters: int | None = None) -> Path:
    """Run a recipe on the CPU or the first GPU.

    Writes `last.pth` at every validation, `best.pth` at the best PSNR, and `log.json`.

    Args:
        out: a folder without an earlier run.
        max_iters: stop after so many iterations; the recipe's schedule stays as it is.

    Returns:
        the path of the last checkpoint.

    Raises:
        UserError: the loss is no number any more, or `out` holds a run or cannot be written.
    """
    if (out / "last.pth").exists():
        raise UserError(f"{out}: holds an earlier run; remove it or choose another --out")
    write_whole(out / "log.json", b"[]")  # better now than after an hour
    torch.manual_seed(recipe.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    training, validation = _data(recipe)
    # Channels-last convolutions train 1.2 to 1.4 times as fast here (benchmarks/NOTES.md).
    network = fresh(recipe.network).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(network.parameters(), recipe.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: _rate(i, recipe))
    log: list[Validation] = []
    started = time.time()
    final = min(recipe.iterations, max_iters or recipe.iterations)
    bar = Progress(total=final, desc=recipe.name, unit="it")
    with bar:
        for iteration, pair in enumerate(_forever(training, recipe, device), start=1):
            pixel, align = losses(network(pair["lq"]), pair, recipe.peak_weight)
            loss = recipe.pixel_weight * pixel + recipe.align_weight * align
            if not math.isfinite(loss.item()):
                raise UserError(
                    f"the loss is {loss.item()} at iteration {iteration}; lower learning_rate "
                    f"(now {recipe.learning_rate:g}); {len(log)} validated checkpoints are in {out}"
                )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            bar.set_postfix(pixel=f"{pixel.item():.3f}", align=f"{align.item():.4f}", refresh=False)
            bar.update()
            last = iteration == final
            if last or iteration % recipe.validate_every == 0:
                result = validate(network, validation, iteration, recipe.batch_size)
                log.append(result)
                bar.say(_report(result))
                _save(recipe, out, network, log, time.time() - started)
            if last:
                return out / "last.pth"
    raise AssertionError("the data never ends")


def fresh(config: NetworkConfig) -> DIC:
    """A network to train; its faces begin as the bilinear enlargement that it corrects."""
    network = DIC(config)
    for parameter in network.conv_last[2].parameters():
        torch.nn.init.zeros_(parameter)
    return network


def _data(recipe: Recipe) -> tuple[FacePairs, FacePairs]:
    data = recipe.data
    workers = len(os.sched_getaffinity(0))
    images, points = draw_faces(data.seed, data.count + data.validation, workers=workers)
    return (
        FacePairs(images[: data.count], points[: data.count], flip=data.flip),
        FacePairs(images[data.count :], points[data.count :]),
    )


def _forever(pairs: FacePairs, recipe: Recipe, device: torch.device) -> Iterator[Pair]:
    order = torch.Generator().manual_seed(recipe.seed)
    size = min(recipe.batch_size, len(pairs))
    loader = DataLoader(pairs, size, shuffle=True, drop_last=True, generator=order)
    while True:
        for batch in loader:
            yield _to(batch, device)


def _to(pair: Pair, device: torch.device) -> Pair:
    moved: Any = {name: tensor.to(device) for name, tensor in pair.items()}  # type: ignore[attr-defined]
    return moved


def _rate(iteration: int, recipe: Recipe) -> float:
    """Factor on the learning rate: a linear rise over `warmup`, then a cosine to zero."""
    if recipe.warmup == 0:
        return 1.0
    rise = recipe.warmup * recipe.iterations
    if iteration < rise:
        return (iteration + 1) / (rise + 1)
    return 0.5 * (1 + math.cos(math.pi * (iteration - rise) / max(1.0, recipe.iterations - rise)))


@torch.no_grad()
def validate(network: DIC, pairs: FacePairs, iteration: int, batch_size: int) -> Validation:
    """Mean PSNR of every step and mean landmark error over `pairs`."""
    device = network.components.device
    network.eval()
    by_step: list[list[float]] = [[] for _ in range(network.config.steps)]
    distances: list[float] = []
    for pair in DataLoader(pairs, batch_size):
        steps = network(pair["lq"].to(device))
        gt = denormalise(pair["gt"])
        for found, sr in zip(by_step, steps.sr, strict=True):
            found += map(psnr, denormalise(sr), gt)
        points, _ = decode(steps.heatmaps[-1].cpu().numpy())
        distances += map(landmark_error, points, pair["landmarks"].numpy())
    network.train()
    means = tuple(float(np.mean(found)) for found in by_step)
    return Validation(iteration, means, float(np.mean(distances)))


def _report(result: Validation) -> str:
    psnr = " → ".join(f"{p:.2f}" for p in result.psnr)
    return (
        f"iteration {result.iteration}: PSNR by step {psnr} dB, "
        f"landmarks {result.landmark_error:.2f} px"
    )


def _save(recipe: Recipe, out: Path, network: DIC, log: list[Validation], seconds: float) -> None:
    provenance = {
        "recipe": asdict(recipe),
        "iteration": log[-1].iteration,
        "validation": asdict(log[-1]),
        "seconds": seconds,
        "torch": torch.__version__.split("+")[0],
    }
    save_checkpoint(out / "last.pth", network, provenance)
    if max(log, key=lambda entry: entry.psnr[-1]) is log[-1]:
        save_checkpoint(out / "best.pth", network, provenance)
    write_whole(out / "log.json", json.dumps([asdict(entry) for entry in log], indent=1).encode())
