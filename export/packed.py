"""Exact rewriting: the projections computed in phases, without the pictures in between.

A feedback block goes up to F times the resolution and down again, group after group (F is 8 in
the paper: 256×256 between 32×32). Row F·i + r of the high resolution, its phase r at place i, is
made from few rows of the low one. Following design and indices of `train.network.FeedbackBlock`:

    up     high[F·i + r] = Σ_d low[i + d] · w[r + 2 - F·d]         (transposed convolution)
    down   low[i] = Σ_{d, r} high[F·(i + d) + r] · w[F·d + r + 2]  (strided convolution)

with kernels F + 4 wide, so that phase r meets d = 0 always, d = -1 only where r < 2, and d = 1
only where r ≥ F - 2. Phases that meet the same d form a class. For each pair of a class of rows
and one of columns a small convolution at the low resolution does just the multiplications that
the large one does, and gives (or takes) its phases as channels. What lies between, 1×1
convolutions and PReLUs, treats every phase alike: grouped convolutions, a group a phase.

So the high resolution exists only as channels of the low one. The result is the same sum in
another order.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from train.network import DIC, FeedbackBlock, FeedbackHourglass

PADDING = 2  # of both convolutions in every feedback block
EXTRA = 4  # kernel width beyond the factor


@dataclass(frozen=True)
class Class:
    """Neighbouring phases that meet the same rows (or columns): phases, and the offsets d."""

    phases: range
    offsets: range

    @property
    def padding(self) -> tuple[int, int]:
        """Rows needed beyond the first and the last of the low resolution."""
        return -self.offsets[0], self.offsets[-1]


def classes(factor: int) -> list[Class]:
    """The classes of phases 0 … factor - 1, in order.

    Raises:
        ValueError: the factor is 1: a phase then meets more than its neighbours.
    """
    if factor < PADDING:
        raise ValueError(f"projections by {factor} have no phases")

    def offsets(phase: int) -> range:
        return range(-1 if phase < PADDING else 0, 2 if phase >= factor - PADDING else 1)

    found: list[Class] = []
    for phase in range(factor):
        if found and found[-1].offsets == offsets(phase):
            found[-1] = Class(range(found[-1].phases[0], phase + 1), offsets(phase))
        else:
            found.append(Class(range(phase, phase + 1), offsets(phase)))
    return found


def up_kernels(weight: Tensor, factor: int) -> dict[tuple[int, int], Tensor]:
    """A transposed convolution's kernel as those of ordinary ones, a pair of classes each.

    Args:
        weight: (in, out, factor + 4, factor + 4), as nn.ConvTranspose2d keeps it.

    Returns:
        (row class, column class) → (phases · out, in, rows, columns); the phases of the pair row
        by row, each with all its channels.
    """
    found = {}
    for (a, rows), (b, columns) in itertools.product(enumerate(classes(factor)), repeat=2):
        # An ordinary convolution's tap t sees the input at offset d = offsets[t].
        taps = weight[:, :, _taps(rows, factor)][..., _taps(columns, factor)]
        # (in, out, phase, row tap, phase, column tap) → phases first
        kernel = taps.permute(2, 4, 1, 0, 3, 5)
        found[a, b] = kernel.reshape(-1, weight.shape[0], len(rows.offsets), len(columns.offsets))
    return found


def _taps(one: Class, factor: int) -> Tensor:
    """(phases, offsets): which row of the transposed kernel connects phase r with offset d."""
    return torch.tensor([[r + PADDING - factor * d for d in one.offsets] for r in one.phases])


def down_kernels(weight: Tensor, factor: int) -> dict[tuple[int, int], Tensor]:
    """A strided convolution's kernel as those of ordinary ones, a pair of classes each.

    Args:
        weight: (out, in, factor + 4, factor + 4), as nn.Conv2d keeps it.

    Returns:
        (row class, column class) → (out, phases · in, rows, columns), their results to be summed.
        Tap t belongs to the mirrored offset: it sees the input at -offsets[-1 - t].
    """
    found = {}
    for (a, rows), (b, columns) in itertools.product(enumerate(classes(factor)), repeat=2):
        taps = weight[:, :, _mirrored(rows, factor)][..., _mirrored(columns, factor)]
        # (out, in, phase, row tap, phase, column tap) → phases before the channels
        kernel = taps.permute(0, 2, 4, 1, 3, 5)
        found[a, b] = kernel.reshape(weight.shape[0], -1, len(rows.offsets), len(columns.offsets))
    return found


def _mirrored(one: Class, factor: int) -> Tensor:
    """(phases, offsets): which row of the strided kernel meets phase r at offset -d."""
    offsets = [-d for d in reversed(one.offsets)]
    return torch.tensor([[r + PADDING + factor * d for d in offsets] for r in one.phases])


class UnevenConv(nn.Module):
    """A convolution with its own padding on each edge.

    Args:
        kernel: (out, in / groups, rows, columns).
        padding: before the first row, after the last, before the first column, after the last.
    """

    def __init__(
        self,
        kernel: Tensor,
        bias: Tensor | None,
        padding: tuple[int, int, int, int] = (0, 0, 0, 0),
        groups: int = 1,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(kernel.detach().contiguous(), requires_grad=False)
        if bias is None:
            # Of zeros, which cost nothing where they run: without one, PyTorch's exporter makes
            # each convolution a bias of its own out of four nodes, and folding them takes longest.
            bias = kernel.new_zeros(len(kernel))
        self.bias = nn.Parameter(bias.detach().contiguous(), requires_grad=False)
        self.padding, self.groups = padding, groups

    def forward(self, x: Tensor) -> Tensor:
        top, bottom, left, right = self.padding
        if any(self.padding):
            x = F.pad(x, (left, right, top, bottom))
        return F.conv2d(x, self.weight, self.bias, groups=self.groups)


class SumOfConvs(nn.Module):
    """A convolution for each input, their sum, and a leaky ReLU.

    What a 1×1 convolution makes of concatenated features, or a strided one of all phases. Each
    term is added as it is made: engines do that in the convolution itself.
    """

    def __init__(self, parts: Sequence[UnevenConv], slope: float) -> None:
        super().__init__()
        self.parts, self.slope = nn.ModuleList(parts), slope

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        total: Tensor | None = None
        for part, x in zip(self.parts, inputs, strict=True):
            total = part(x) if total is None else total + part(x)
        assert total is not None
        return F.leaky_relu(total, self.slope)


class PackedProjections(nn.Module):
    """`FeedbackBlock.project` of a block, computed in phases.

    The high resolution is a list of tensors, one a pair of classes: (B, phases · C, h, w).
    """

    def __init__(self, block: FeedbackBlock, factor: int) -> None:
        super().__init__()
        found = classes(factor)
        pairs = [(a, b) for a in range(len(found)) for b in range(len(found))]
        phases = [len(found[a].phases) * len(found[b].phases) for a, b in pairs]
        edges = [(*found[a].padding, *found[b].padding) for a, b in pairs]

        def ups(conv: Any, prelu: Any) -> nn.ModuleList:
            kernels = up_kernels(conv.weight, factor)
            each = zip(pairs, phases, edges, strict=True)
            parts = [UnevenConv(kernels[p], conv.bias.repeat(n), edge) for p, n, edge in each]
            return nn.ModuleList(SumOfConvs([part], _slope(prelu)) for part in parts)

        def mixes(conv: Any, prelu: Any) -> nn.ModuleList:
            return nn.ModuleList(SumOfConvs(_mix(conv, n), _slope(prelu)) for n in phases)

        def downs(conv: Any, prelu: Any) -> SumOfConvs:
            kernels = down_kernels(conv.weight, factor)
            mirrored = [(bottom, top, right, left) for top, bottom, left, right in edges]
            biases = [conv.bias] + [None] * (len(pairs) - 1)
            each = zip(pairs, biases, mirrored, strict=True)
            return SumOfConvs([UnevenConv(kernels[p], b, e) for p, b, e in each], _slope(prelu))

        layers: Any = block  # each a convolution and its PReLU
        self.ups = nn.ModuleList(ups(conv, prelu) for conv, prelu in layers.up_blocks)
        self.mixes = nn.ModuleList(mixes(conv, prelu) for conv, prelu in layers.hr_blocks)
        self.downs = nn.ModuleList(downs(conv, prelu) for conv, prelu in layers.down_blocks)
        self.lr_blocks, self.conv_last = block.lr_blocks, block.conv_last

    def forward(self, x: Tensor) -> Tensor:
        groups: Any = zip(self.ups, [None, *self.mixes], self.downs, strict=True)
        low = [x]
        high: list[list[Tensor]] = []  # by group, then by pair
        for i, (up, mix, down) in enumerate(groups):
            source = x if i == 0 else self.lr_blocks[i - 1](torch.cat(low, 1))
            high.append([phases([source]) for phases in up])
            mixed = high[0]
            if mix is not None:
                mixed = [one(pair) for one, pair in zip(mix, zip(*high, strict=True), strict=True)]
            low.append(down(mixed))
        return self.conv_last(torch.cat(low[1:], 1))


def _slope(prelu: nn.PReLU) -> float:
    if prelu.weight.numel() != 1:
        raise ValueError("a PReLU with a slope for every channel")
    return prelu.weight.item()


def _mix(conv: nn.Conv2d, phases: int) -> list[UnevenConv]:
    """A 1×1 convolution of concatenated features as one for each, the same for every phase."""
    parts = conv.weight.split(conv.out_channels, dim=1)
    biases = [conv.bias] + [None] * (len(parts) - 1)
    return [
        UnevenConv(
            part.repeat(phases, 1, 1, 1), None if b is None else b.repeat(phases), groups=phases
        )
        for part, b in zip(parts, biases, strict=True)
    ]


class PackedBlock(nn.Module):
    """A feedback block, attentive or not, whose projections are packed."""

    def __init__(self, block: FeedbackBlock, factor: int) -> None:
        super().__init__()
        self.conv_first = block.conv_first
        self.fusion_block = getattr(block, "fusion_block", None)
        self.project = PackedProjections(block, factor)

    def forward(self, x: Tensor, attention: Tensor | None = None) -> Tensor:
        x = self.conv_first(x)
        return self.project(x if self.fusion_block is None else self.fusion_block(x, attention))


class MergedHourglass(nn.Module):
    """The landmark network; in the first step, which sees its own feature twice, the halves of
    the first convolution's weights are added instead.
    """

    def __init__(self, hourglass: FeedbackHourglass) -> None:
        super().__init__()
        self.pre_conv_block, self.hg = hourglass.pre_conv_block, hourglass.hg
        self.first_conv, self.last = hourglass.first_conv, hourglass.last
        halves = hourglass.first_conv.weight.chunk(2, dim=1)
        self.only = UnevenConv(halves[0] + halves[1], hourglass.first_conv.bias)

    def forward(self, sr: Tensor, hidden: Tensor | None) -> tuple[Tensor, Tensor]:
        feature = self.pre_conv_block(sr)
        if hidden is None:
            mixed = self.only(feature)
        else:
            mixed = self.first_conv(torch.cat((feature, hidden), 1))
        out, hidden = self.hg(mixed).chunk(2, dim=1)
        return self.last(out), hidden


def leaky(module: nn.Module) -> None:
    """Replace every PReLU in place: with one parameter it is a leaky ReLU of that slope, which
    engines compute in the convolution before it.
    """
    for name, child in module.named_children():
        if isinstance(child, nn.PReLU):
            setattr(module, name, nn.LeakyReLU(_slope(child)))
        else:
            leaky(child)


def pack(network: DIC) -> DIC:
    """The same network, rewritten: same parameters, same faces and heatmaps up to rounding."""
    packed: Any = copy.deepcopy(network)
    factor = network.config.projection
    if factor > 1:
        for name in ("first_block", "block"):
            setattr(packed, name, PackedBlock(getattr(packed, name), factor))
    packed.hour_glass = MergedHourglass(packed.hour_glass)
    leaky(packed)
    return packed.eval()
