"""The losses of DIC and DICGAN: Ma et al., CVPR 2020, Section 3.4.

The pixel and alignment losses apply to every step, the feature and adversarial losses to the last
step's face only, as in both released implementations. (One difference: the authors' GAN code adds
the pixel loss of the last face once per step, instead of that of each step's face as in the paper
and MMEditing.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from dic.sizes import LQ_SIZE
from train.model.light_cnn import LightCNNFeatures
from train.model.network import Steps

GanKind = Literal["vanilla", "lsgan", "hinge", "relativistic"]


def pixel_loss(steps: Steps, gt: Tensor) -> Tensor:
    """Return the L1 loss between each step's face and the ground truth, summed over steps (eq. 9).

    Args:
        gt: (B, 3, 128, 128), normalised.
    """
    return torch.stack([F.l1_loss(sr.float(), gt) for sr in steps.sr]).sum()


def alignment_loss(steps: Steps, target: Tensor, peak_weight: float = 0.0) -> Tensor:
    """Return the MSE between each step's heatmaps and the target, summed over steps (eq. 10).

    Args:
        target: (B, K, 32, 32) in 0..1.
        peak_weight: a cell with target value h has the weight 1 + peak_weight · h; 0 in the paper.
    """
    weight = 1 + peak_weight * target
    terms = [((h.float() - target) ** 2 * weight).mean() for h in steps.heatmaps]
    return torch.stack(terms).sum()


def feature_loss(features: LightCNNFeatures, sr: Tensor, gt: Tensor) -> Tensor:
    """Return the L1 loss between the LightCNN features of two faces (eq. 11).

    Args:
        sr, gt: (B, 3, 128, 128), normalised.
    """
    with torch.no_grad():
        target = features(gt)
    return F.l1_loss(features(sr).float(), target.float())


def feature_matching_loss(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
    """Return the L1 loss between a critic's features of two faces, averaged over its layers.

    Wang et al., "High-Resolution Image Synthesis and Semantic Manipulation with Conditional GANs",
    CVPR 2018, eq. 4.

    Args:
        real, fake: (B, C, H, W) for each layer; `real` gets no gradients.
    """
    terms = [F.l1_loss(f.float(), r.detach().float()) for r, f in zip(real, fake, strict=True)]
    return torch.stack(terms).mean()


def consistency_loss(sr: Tensor, gt: Tensor) -> Tensor:
    """Return the L1 loss between two faces reduced to 16×16 with an antialiased bicubic filter.

    Args:
        sr, gt: (B, 3, 128, 128), normalised.
    """
    small, true = (
        F.interpolate(face.float(), (LQ_SIZE, LQ_SIZE), mode="bicubic", antialias=True)
        for face in (sr, gt)
    )
    return F.l1_loss(small, true)


def generator_loss(kind: GanKind, fake: Tensor, real: Tensor | None = None) -> Tensor:
    """Return the generator's adversarial loss (eq. 12).

    Args:
        fake: the critic's logits (B, 1) for restored faces.
        real: those for real faces; only "relativistic" needs them.

    Raises:
        ValueError: "relativistic" without `real`.
    """
    fake = fake.float()
    if kind == "relativistic":
        if real is None:
            raise ValueError("the relativistic loss needs the logits of real faces")
        return _relativistic(fake, real.detach().float())
    if kind == "vanilla":
        return F.binary_cross_entropy_with_logits(fake, torch.ones_like(fake))
    if kind == "lsgan":
        return F.mse_loss(fake, torch.ones_like(fake))
    return -fake.mean()


def critic_loss(kind: GanKind, real: Tensor, fake: Tensor) -> Tensor:
    """Return the critic's loss (eq. 13).

    vanilla: Goodfellow et al., 2014, on logits; lsgan: Mao et al., ICCV 2017, labels 1 and 0;
    hinge: Lim & Ye, 2017; relativistic: Jolicoeur-Martineau, ICLR 2019, averaged.

    Args:
        real, fake: the critic's logits (B, 1) for real and for restored faces.
    """
    real, fake = real.float(), fake.float()
    if kind == "vanilla":
        return F.binary_cross_entropy_with_logits(
            real, torch.ones_like(real)
        ) + F.binary_cross_entropy_with_logits(fake, torch.zeros_like(fake))
    if kind == "lsgan":
        return F.mse_loss(real, torch.ones_like(real)) + F.mse_loss(fake, torch.zeros_like(fake))
    if kind == "relativistic":
        return _relativistic(real, fake)
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def _relativistic(higher: Tensor, lower: Tensor) -> Tensor:
    """Relativistic average loss; small if `higher` logits exceed the mean of `lower` ones."""
    up, down = higher - lower.mean(), lower - higher.mean()
    return F.softplus(-up).mean() + F.softplus(down).mean()
