"""The DIC network: deep iterative collaboration between recovery and landmark estimation.

Implements Section 3 of Ma et al., "Deep Face Super-Resolution with Iterative Collaboration between
Attentive Recovery and Landmark Estimation", CVPR 2020, in the sizes of the configuration released
by MMEditing (48 channels, 6 groups, 256-channel hourglass: 21,803,849 parameters). Parameter names
are MMEditing's, so that checkpoints can be exchanged with it.

The paper's symbols:

    I_LR   `lq`        (B, 3, 16, 16)    input face, normalised: RGB / 255 - RGB_MEAN
    f_LR   `feature`   (B, C, 32, 32)    output of `conv_first`, Section 3.2
    f_G    `state`     (B, C, 32, 32)    recovery feedback from step n to step n + 1
    I_SR^n `sr`        (B, 3, 128, 128)  restored face of step n
    f_A    `hidden`    (B, H, 32, 32)    alignment feedback from step n to step n + 1
    L^n    `heatmap`   (B, K, 32, 32)    landmark heatmaps of step n
    W      `attention` (B, 5, 32, 32)    landmark attention over five facial components, eq. 6

All modules are stateless. The recurrence is the loop in `DIC.forward`, so tracing or exporting the
forward pass unrolls it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dic.landmarks import COMPONENTS, component_matrix
from dic.sizes import SR_SIZE

PEAK_FLOOR = 0.05  # limits the amplification of a heatmap without a peak (noise) to 1 / PEAK_FLOOR
PRELU_SLOPE = 0.2
# Of counts below, so that a typing error does not exhaust the memory.
MAX_SIZE, MAX_PROJECTION, MAX_STEPS = 1024, 16, 64
LARGEST = {
    **dict.fromkeys(("channels", "hourglass_channels", "groups", "fusion_blocks"), MAX_SIZE),
    "projection": MAX_PROJECTION,
    "steps": MAX_STEPS,
}


@dataclass(frozen=True)
class NetworkConfig:
    """The sizes of a DIC network. Everything but `steps` can be read from a checkpoint's shapes.

    Attributes:
        channels: C, channels of the recovery network.
        groups: pairs of up- and down-projections in a feedback block.
        projection: scale factor between the low and the high resolution of a feedback block; the
            kernel size is `projection + 4`. 8 in the paper; 2 or 4 for compact networks.
        fusion_blocks: grouped residual blocks in the attentive fusion.
        hourglass_channels: H, channels of the landmark network (a multiple of 4).
        hourglass_depth: number of poolings in the hourglass, 1 to 5.
        landmarks: K, a key of `dic.landmarks.COMPONENT_GROUPS` (68, 194 or 5).
        steps: N, number of iterations of recovery and alignment.

    Raises:
        ValueError: a size is out of range.
    """

    channels: int = 48
    groups: int = 6
    projection: int = 8
    fusion_blocks: int = 7
    hourglass_channels: int = 256
    hourglass_depth: int = 4
    landmarks: int = 68
    steps: int = 4

    def __post_init__(self) -> None:
        for name in ("channels", "groups", "projection", "fusion_blocks", "steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name, most in LARGEST.items():
            if getattr(self, name) > most:
                raise ValueError(f"{name} must be at most {most}, not {getattr(self, name)}")
        if self.hourglass_channels < 4 or self.hourglass_channels % 4:
            raise ValueError(
                f"hourglass_channels must be a multiple of 4, not {self.hourglass_channels}"
            )
        if not 1 <= self.hourglass_depth <= 5:
            raise ValueError(f"hourglass_depth must be 1 to 5, not {self.hourglass_depth}")
        component_matrix(self.landmarks)  # raises if no grouping is defined for this count


class Steps(NamedTuple):
    """The output of a forward pass: the face and the heatmaps of each step, in order."""

    sr: list[Tensor]  # N tensors (B, 3, 128, 128), normalised like the input
    heatmaps: list[Tensor]  # N tensors (B, K, 32, 32)


def conv_prelu(in_channels: int, out_channels: int, kernel: int = 1) -> nn.Sequential:
    """Return a convolution with "same" padding and a PReLU with a single slope."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2),
        nn.PReLU(init=PRELU_SLOPE),
    )


class FeedbackBlock(nn.Module):
    """Dense up/down projections (Section 3.2; SRFBN, Li et al., CVPR 2019, Section 3.3).

    (B, in_channels, h, w) → (B, C, h, w), via features (B, C, projection·h, projection·w).
    """

    def __init__(self, in_channels: int, config: NetworkConfig) -> None:
        super().__init__()
        c, groups, factor = config.channels, config.groups, config.projection
        self.conv_first = conv_prelu(in_channels, c)
        self.up_blocks = nn.ModuleList(
            nn.Sequential(
                nn.ConvTranspose2d(c, c, factor + 4, factor, padding=2), nn.PReLU(init=PRELU_SLOPE)
            )
            for _ in range(groups)
        )
        self.down_blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(c, c, factor + 4, factor, padding=2), nn.PReLU(init=PRELU_SLOPE)
            )
            for _ in range(groups)
        )
        # The input of group i > 0 is all earlier features of its resolution, reduced to C channels.
        self.lr_blocks = nn.ModuleList(conv_prelu(c * (i + 1), c) for i in range(1, groups))
        self.hr_blocks = nn.ModuleList(conv_prelu(c * (i + 1), c) for i in range(1, groups))
        self.conv_last = conv_prelu(c * groups, c)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(self.conv_first(x))

    def project(self, x: Tensor) -> Tensor:
        low, high = [x], []
        for i, (up, down) in enumerate(zip(self.up_blocks, self.down_blocks, strict=True)):
            high.append(up(x if i == 0 else self.lr_blocks[i - 1](torch.cat(low, 1))))
            low.append(down(high[0] if i == 0 else self.hr_blocks[i - 1](torch.cat(high, 1))))
        return self.conv_last(torch.cat(low[1:], 1))


class AttentiveFusion(nn.Module):
    """One branch per facial component, weighted by the landmark attention (eq. 6 and 7).

    x (B, C, h, w), attention (B, 5, h, w) → (B, C, h, w).
    """

    def __init__(self, channels: int, blocks: int) -> None:
        super().__init__()
        width = COMPONENTS * channels
        self.conv_first = nn.Sequential(nn.Conv2d(channels, width, 1), nn.LeakyReLU(PRELU_SLOPE))
        self.body = nn.Sequential(*(GroupedResidual(width) for _ in range(blocks)))

    def forward(self, x: Tensor, attention: Tensor) -> Tensor:
        branches = self.body(self.conv_first(x)).unflatten(1, (COMPONENTS, -1))
        return (branches * attention.unsqueeze(2)).sum(1)  # (B, 5, C, h, w) → (B, C, h, w)


class GroupedResidual(nn.Module):
    """A residual block of grouped convolutions, which keep the five branches separate."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.res = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, groups=COMPONENTS),
            nn.LeakyReLU(PRELU_SLOPE),
            nn.Conv2d(width, width, 3, padding=1, groups=COMPONENTS),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.res(x)


class AttentiveFeedbackBlock(FeedbackBlock):
    """The feedback block of steps 2…N: attentive fusion of [f_LR, f_G], then the projections.

    x (B, 2·C, h, w), attention (B, 5, h, w) → (B, C, h, w).
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(2 * config.channels, config)
        self.fusion_block = AttentiveFusion(config.channels, config.fusion_blocks)

    def forward(self, x: Tensor, attention: Tensor) -> Tensor:  # type: ignore[override]
        return self.project(self.fusion_block(self.conv_first(x), attention))


class Bottleneck(nn.Module):
    """The hourglass's residual block: 1×1, ReLU, 3×3, 1×1 (no batch norm, no further ReLU)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        half = out_channels // 2
        self.conv_block = nn.Sequential(
            nn.Conv2d(in_channels, half, 1),
            nn.ReLU(),
            nn.Conv2d(half, half, 3, padding=1),
            nn.Conv2d(half, out_channels, 1),
        )
        same = in_channels == out_channels
        self.skip_layer = None if same else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = x if self.skip_layer is None else self.skip_layer(x)
        return skip + self.conv_block(x)


class Hourglass(nn.Module):
    """Newell et al., ECCV 2016, with bilinear (corner-aligned) upsampling."""

    def __init__(self, depth: int, channels: int) -> None:
        super().__init__()
        self.up1 = Bottleneck(channels, channels)
        self.low1 = Bottleneck(channels, channels)
        self.low2 = Bottleneck(channels, channels) if depth == 1 else Hourglass(depth - 1, channels)
        self.low3 = Bottleneck(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        low = self.low3(self.low2(self.low1(F.max_pool2d(x, 2))))
        # With a size instead of a scale factor, the size is a constant in the exported graph.
        size = (x.shape[2], x.shape[3])
        return self.up1(x) + F.interpolate(low, size=size, mode="bilinear", align_corners=True)


class FeedbackHourglass(nn.Module):
    """The alignment network (Section 3.3): (face, f_A) → (heatmaps, next f_A).

    sr (B, 3, 128, 128), hidden (B, H, 32, 32) or None in the first step → heatmaps (B, K, 32, 32),
    hidden (B, H, 32, 32).
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        h = config.hourglass_channels
        self.pre_conv_block = nn.Sequential(
            nn.Conv2d(3, h // 4, 7, stride=2, padding=3),
            nn.ReLU(),
            Bottleneck(h // 4, h // 2),
            nn.MaxPool2d(2),
            Bottleneck(h // 2, h // 2),
            Bottleneck(h // 2, h),
        )
        self.first_conv = nn.Conv2d(2 * h, 2 * h, 1)
        self.hg = Hourglass(config.hourglass_depth, 2 * h)
        self.last = nn.Sequential(
            Bottleneck(h, h), nn.Conv2d(h, h, 1), nn.ReLU(), nn.Conv2d(h, config.landmarks, 1)
        )

    def forward(self, sr: Tensor, hidden: Tensor | None) -> tuple[Tensor, Tensor]:
        feature = self.pre_conv_block(sr)
        # In the first step there is no feedback yet; the feature itself takes its place.
        feature = torch.cat((feature, feature if hidden is None else hidden), 1)
        out, hidden = self.hg(self.first_conv(feature)).chunk(2, dim=1)
        return self.last(out), hidden


def enlarged(lq: Tensor) -> Tensor:
    """Enlarge (B, 3, 16, 16) to (B, 3, 128, 128) bilinearly: the base of every step's residual."""
    return F.interpolate(lq, size=(SR_SIZE, SR_SIZE), mode="bilinear", align_corners=False)


class DIC(nn.Module):
    """The complete network. The module's docstring lists symbols and shapes.

    Args:
        config: the sizes.
        detach_attention: do not propagate the gradient of the recovery loss through the attention
            into the landmark network (an option of the authors' code; off in the released
            configurations).
    """

    components: Tensor

    def __init__(self, config: NetworkConfig, detach_attention: bool = False) -> None:
        super().__init__()
        c = config.channels
        self.config = config
        self.detach_attention = detach_attention
        self.conv_first = nn.Sequential(*conv_prelu(3, 4 * c, kernel=3), nn.PixelShuffle(2))
        self.first_block = FeedbackBlock(c, config)
        self.block = AttentiveFeedbackBlock(config)
        self.conv_last = nn.Sequential(
            nn.ConvTranspose2d(c, c, 8, stride=4, padding=2),
            nn.PReLU(init=PRELU_SLOPE),
            nn.Conv2d(c, 3, 3, padding=1),
        )
        self.hour_glass = FeedbackHourglass(config)
        matrix = torch.from_numpy(component_matrix(config.landmarks))  # (5, K)
        self.register_buffer("components", matrix, persistent=False)

    def forward(self, lq: Tensor, steps: int | None = None) -> Steps:
        """Restore faces.

        Args:
            lq: (B, 3, 16, 16) float, RGB / 255 - RGB_MEAN.
            steps: number of steps; None for the number in the configuration.
        """
        feature = self.conv_first(lq)
        upscaled = enlarged(lq)
        outputs = Steps([], [])
        state: Tensor | None = None
        hidden: Tensor | None = None
        for _ in range(self.config.steps if steps is None else steps):
            if state is None:
                state = self.first_block(feature)
            else:
                attention = self.attend(outputs.heatmaps[-1])
                state = self.block(torch.cat((feature, state), 1), attention)
            sr = upscaled + self.conv_last(state)
            heatmap, hidden = self.hour_glass(sr, hidden)
            outputs.sr.append(sr)
            outputs.heatmaps.append(heatmap)
        return outputs

    def attend(self, heatmap: Tensor) -> Tensor:
        """Return the attention over five components (eq. 6): (B, K, 32, 32) → (B, 5, 32, 32)."""
        if self.detach_attention:
            heatmap = heatmap.detach()
        peak = heatmap.amax(dim=(2, 3), keepdim=True).clamp(min=PEAK_FLOOR)
        # Multiplied with a constant 5×K matrix, because sums by index are exported as
        # ScatterElements; as a convolution, because TensorRT-RTX does not support float32 matrix
        # products on Turing.
        merged = F.conv2d(heatmap / peak, self.components[:, :, None, None])
        return merged.softmax(dim=1)
