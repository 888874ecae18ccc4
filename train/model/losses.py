"""The losses of DIC and DICGAN: Ma et al., CVPR 2020, Section 3.4; and others for recipes.

The pixel and alignment losses apply to every step, all others to the last step's face only, as in
both released implementations. (One difference: the authors' GAN code adds
the pixel loss of the last face once per step, instead of that of each step's face as in the paper
and MMEditing.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from dic.pixels import RGB_MEAN
from dic.sizes import LQ_SIZE
from train.model.light_cnn import LightCNNFeatures
from train.model.network import Steps

PixelKind = Literal["l1", "psnr"]
GanKind = Literal["vanilla", "lsgan", "hinge", "relativistic"]

MSE_FLOOR = 1e-6  # of `psnr_loss`: 60 dB, which no face reaches
SSIM_SIDE, SSIM_SIGMA = 11, 1.5  # the window of `ssim_loss`, as in `train.metrics.ssim`
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2  # Wang et al., 2004, Section III.B, for a data range of 1


def pixel_loss(steps: Steps, gt: Tensor, kind: PixelKind = "l1") -> Tensor:
    """Return the loss between each step's face and the ground truth, summed over steps (eq. 9).

    Args:
        gt: (B, 3, 128, 128), normalised.
        kind: "l1" (both released implementations), or "psnr": see `psnr_loss`.
    """
    loss = F.l1_loss if kind == "l1" else psnr_loss
    return torch.stack([loss(sr.float(), gt) for sr in steps.sr]).sum()


def psnr_loss(sr: Tensor, gt: Tensor) -> Tensor:
    """Return the mean over faces of -PSNR in dB, for a data range of 1 and without clipping.

    Unlike the MSE, it gives a face that is hard to restore no more weight than an easy one.

    Args:
        sr, gt: (B, 3, 128, 128), normalised.
    """
    mse = ((sr - gt) ** 2).mean(dim=(1, 2, 3))
    return 10 * torch.log10(mse + MSE_FLOOR).mean()


def ssim_loss(sr: Tensor, gt: Tensor) -> Tensor:
    """Return 1 - SSIM, averaged over faces, channels and all complete windows.

    Zhao et al., "Loss Functions for Image Restoration with Neural Networks", 2017, Section III.B;
    the SSIM is that of `train.metrics.ssim`.

    Args:
        sr, gt: (B, 3, 128, 128), normalised.
    """
    # RGB_MEAN is added back, because SSIM compares brightness: it is not invariant to an offset.
    mean = torch.tensor(RGB_MEAN, device=gt.device).view(1, 3, 1, 1)
    x, y = sr.float() + mean, gt.float() + mean
    taps = torch.arange(SSIM_SIDE, device=gt.device) - SSIM_SIDE // 2
    taps = torch.exp(-(taps**2) / (2 * SSIM_SIGMA**2))
    taps = (taps / taps.sum()).repeat(15, 1, 1, 1)  # (15, 1, 1, 11)
    maps = torch.cat((x, y, x * x, y * y, x * y), dim=1)
    maps = F.conv2d(F.conv2d(maps, taps, groups=15), taps.transpose(2, 3), groups=15)
    x, y, xx, yy, xy = maps.chunk(5, dim=1)
    numerator = (2 * x * y + SSIM_C1) * (2 * (xy - x * y) + SSIM_C2)
    denominator = (x * x + y * y + SSIM_C1) * (xx - x * x + yy - y * y + SSIM_C2)
    return 1 - (numerator / denominator).mean()


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
