"""The losses of DIC and DICGAN: Ma et al., CVPR 2020, Section 3.4.

Which step carries which: pixel and alignment losses on every step, feature and adversarial losses
on the last step's face alone (as both released implementations do; the authors' GAN code
compares the last face with the truth once for every step, the paper and MMEditing each face).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from train.model.light_cnn import LightCNNFeatures
from train.model.network import Steps

GanKind = Literal["vanilla", "lsgan", "hinge"]


def pixel_loss(steps: Steps, gt: Tensor) -> Tensor:
    """L1 between each step's face and the truth (B, 3, 128, 128), summed over the steps (eq. 9)."""
    return torch.stack([F.l1_loss(sr.float(), gt) for sr in steps.sr]).sum()


def alignment_loss(steps: Steps, target: Tensor, peak_weight: float = 0.0) -> Tensor:
    """MSE between each step's heatmaps and the target, summed over the steps (eq. 10).

    Args:
        target: (B, K, 32, 32) in 0..1.
        peak_weight: a cell of target height h weighs 1 + peak_weight · h; 0 in the paper.
    """
    weight = 1 + peak_weight * target
    terms = [((h.float() - target) ** 2 * weight).mean() for h in steps.heatmaps]
    return torch.stack(terms).sum()


def feature_loss(features: LightCNNFeatures, sr: Tensor, gt: Tensor) -> Tensor:
    """L1 between LightCNN's features of two (B, 3, 128, 128) faces (eq. 11)."""
    with torch.no_grad():
        wanted = features(gt)
    return F.l1_loss(features(sr).float(), wanted.float())


def generator_loss(kind: GanKind, fake: Tensor) -> Tensor:
    """What the generator pays for the critic's verdicts (B, 1) on its faces (eq. 12)."""
    fake = fake.float()
    if kind == "vanilla":
        return F.binary_cross_entropy_with_logits(fake, torch.ones_like(fake))
    if kind == "lsgan":
        return F.mse_loss(fake, torch.ones_like(fake))
    return -fake.mean()


def critic_loss(kind: GanKind, real: Tensor, fake: Tensor) -> Tensor:
    """What the critic pays for its verdicts (B, 1) on real and restored faces (eq. 13).

    vanilla: Goodfellow et al., 2014, on logits; lsgan: Mao et al., ICCV 2017, labels 1 and 0;
    hinge: Lim & Ye, 2017.
    """
    real, fake = real.float(), fake.float()
    if kind == "vanilla":
        return F.binary_cross_entropy_with_logits(
            real, torch.ones_like(real)
        ) + F.binary_cross_entropy_with_logits(fake, torch.zeros_like(fake))
    if kind == "lsgan":
        return F.mse_loss(real, torch.ones_like(real)) + F.mse_loss(fake, torch.zeros_like(fake))
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
