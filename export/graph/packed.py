"""Exact rewriting: the projections computed in phases, without the pictures in between.

A feedback block goes up to F times the resolution and down again, group after group (F is 8 in
the paper: 256×256 between 32×32). Row F·i + r of the high resolution, its phase r at place i, is
made from few rows of the low one. Following design and indices of `FeedbackBlock`:

    up     high[F·i + r] = Σ_d low[i + d] · w[r + 2 - F·d]         (transposed convolution)
    down   low[i] = Σ_{d, r} high[F·(i + d) + r] · w[F·d + r + 2]  (strided convolution)

with kernels F + 4 wide, so that phase r meets d = 0 always, d = -1 only where r < 2, and d = 1
only where r ≥ F - 2. Phases that meet the same d form a class. For each pair of a class of rows
and one of columns a small convolution at the low resolution does just the multiplications that
the large one does, and gives (or takes) its phases as channels. What lies between, 1×1
convolutions and PReLUs, treats every phase alike: grouped convolutions, a group a phase.

So the high resolution exists only as channels of the low one. The result is the same sum in
another order. The last layers of a step, which make the face, are of the same kind (F is 4).
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

from train.model.network import DIC, FeedbackBlock, FeedbackHourglass

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


def same_kernels(weight: Tensor, factor: int) -> dict[tuple[int, int], Tensor]:
    """A 3×3 convolution at the high resolution, which pads by 1, as ordinary ones at the low.

    Args:
        weight: (out, in, 4, 4), the kernel with a row and a column of zeros behind it.

    Returns:
        (row class, column class) of what they read → (out · factor², phases · in, rows, columns),
        their results to be summed. Output channels are in `pixel_shuffle`'s order. A row of the
        result meets at most three, so most weights are zero: at few outputs that is cheap.
    """

    def taps(one: Class) -> Tensor:
        """(result's phases · phases · offsets): the kernel's row between them, 3 for none.

        As in `_mirrored`: phase s at offset -d is the row s - factor·d, seen from row r.
        """
        offsets = [-d for d in reversed(one.offsets)]
        found = [s + factor * d - r + 1 for r in range(factor) for s in one.phases for d in offsets]
        return torch.tensor([tap if 0 <= tap <= 2 else 3 for tap in found])

    found = {}
    out, taken = weight.shape[:2]
    for (a, rows), (b, columns) in itertools.product(enumerate(classes(factor)), repeat=2):
        kernel = weight.index_select(2, taps(rows)).index_select(3, taps(columns))
        high, wide = (len(one.phases) for one in (rows, columns))
        tall, broad = (len(one.offsets) for one in (rows, columns))
        kernel = kernel.reshape(out, taken, factor, high, tall, factor, wide, broad)
        # The result's channels, row and column; then row, column and channel that are read.
        kernel = kernel.permute(0, 2, 5, 3, 6, 1, 4, 7)
        found[a, b] = kernel.reshape(out * factor**2, high * wide * taken, tall, broad)
    return found


class UnevenConv(nn.Module):
    """A convolution with its own padding on each edge.

    Args:
        kernel: (out, in / groups, rows, columns).
        padding: before the first row, after the last, before the first column, after the last.
        copies: groups that all have this kernel and this bias, one after the other. A graph keeps
            the weights once; engines repeat them when they load it.
    """

    def __init__(
        self,
        kernel: Tensor,
        bias: Tensor | None,
        padding: tuple[int, int, int, int] = (0, 0, 0, 0),
        groups: int = 1,
        copies: int = 1,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(kernel.detach().contiguous(), requires_grad=False)
        if bias is None:
            # Of zeros, which cost nothing where they run: without one, PyTorch's exporter makes
            # each convolution a bias of its own out of four nodes, and folding them takes longest.
            bias = kernel.new_zeros(len(kernel))
        self.bias = nn.Parameter(bias.detach().contiguous(), requires_grad=False)
        self.padding, self.groups, self.copies = padding, groups * copies, copies

    def forward(self, x: Tensor) -> Tensor:
        top, bottom, left, right = self.padding
        if any(self.padding):
            x = F.pad(x, (left, right, top, bottom))
        weight: Tensor = self.weight
        bias: Tensor = self.bias
        if self.copies > 1:
            weight, bias = weight.repeat(self.copies, 1, 1, 1), bias.repeat(self.copies)
        return F.conv2d(x, weight, bias, groups=self.groups)


class SumOfConvs(nn.Module):
    """A convolution for each input, their sum, and a leaky ReLU.

    What a 1×1 convolution makes of concatenated features, or a strided one of all phases. Each
    term is added as it is made: engines do that in the convolution itself.

    ONNX Runtime computes a leaky ReLU in a convolution too, but not in one that adds: on its own
    it would leave the blocked layout, and two copies with it. A depthwise convolution by 1 between
    the two takes the leaky ReLU in; it reads and writes once (measured: benchmarks/NOTES.md).
    """

    def __init__(self, parts: Sequence[UnevenConv], slope: float) -> None:
        super().__init__()
        self.parts, self.slope = nn.ModuleList(parts), slope
        self.carrier: UnevenConv | None = None
        if len(parts) > 1:
            weight = parts[0].weight
            channels = len(weight) * parts[0].copies
            self.carrier = UnevenConv(weight.new_ones(channels, 1, 1, 1), None, groups=channels)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        total: Tensor | None = None
        for part, x in zip(self.parts, inputs, strict=True):
            total = part(x) if total is None else total + part(x)
        assert total is not None
        if self.carrier is not None:
            total = self.carrier(total)
        return F.leaky_relu(total, self.slope)


class PackedProjections(nn.Module):
    """`FeedbackBlock.project` of a block, computed in phases.

    The high resolution is a list of tensors, one a pair of classes: (B, phases · C, h, w).
    """

    def __init__(self, block: FeedbackBlock, factor: int) -> None:
        super().__init__()
        phases = [len(a.phases) * len(b.phases) for a in classes(factor) for b in classes(factor)]

        def mixes(conv: Any, prelu: Any) -> nn.ModuleList:
            return nn.ModuleList(SumOfConvs(_mix(conv, n), _slope(prelu)) for n in phases)

        def down(conv: Any, prelu: Any) -> SumOfConvs:
            kernels = down_kernels(conv.weight, factor).values()
            mirrored = [(bottom, top, right, left) for top, bottom, left, right in _edges(factor)]
            biases = [conv.bias] + [None] * (len(kernels) - 1)
            each = zip(kernels, biases, mirrored, strict=True)
            return SumOfConvs([UnevenConv(*one) for one in each], _slope(prelu))

        layers: Any = block  # each a convolution and its PReLU
        self.ups = nn.ModuleList(_ups(conv, prelu, factor) for conv, prelu in layers.up_blocks)
        self.mixes = nn.ModuleList(mixes(conv, prelu) for conv, prelu in layers.hr_blocks)
        self.downs = nn.ModuleList(down(conv, prelu) for conv, prelu in layers.down_blocks)
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


def _edges(factor: int) -> list[tuple[int, int, int, int]]:
    """What each pair of classes needs around the low resolution, as `UnevenConv` pads."""
    return [(*a.padding, *b.padding) for a in classes(factor) for b in classes(factor)]


def _ups(conv: Any, prelu: Any, factor: int) -> nn.ModuleList:
    """A transposed convolution and its PReLU, a module for each pair of classes."""
    kernels = up_kernels(conv.weight, factor).values()
    channels = conv.out_channels
    return nn.ModuleList(
        SumOfConvs([UnevenConv(k, conv.bias.repeat(len(k) // channels), edge)], _slope(prelu))
        for k, edge in zip(kernels, _edges(factor), strict=True)
    )


class PackedTail(nn.Module):
    """`DIC.conv_last`: four times the resolution, a leaky ReLU, and a convolution to RGB.

    (B, C, h, w) → (B, 3, 4h, 4w). Only the face itself is spread out. A graph keeps the
    convolution's weights as they are; engines spread them over the phases when they load it.
    """

    FACTOR = 4

    def __init__(self, tail: Any) -> None:
        super().__init__()
        up, prelu, last = tail
        self.ups = _ups(up, prelu, self.FACTOR)
        weight = F.pad(last.weight.detach(), (0, 1, 0, 1))
        bias = last.bias.detach().repeat_interleave(self.FACTOR**2)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = nn.Parameter(bias, requires_grad=False)
        self.none = nn.Parameter(torch.zeros_like(bias), requires_grad=False)  # see UnevenConv

    def forward(self, x: Tensor) -> Tensor:
        kernels = same_kernels(self.weight, self.FACTOR).values()
        total: Tensor | None = None
        for up, kernel, (top, bottom, left, right) in zip(
            self.ups, kernels, _edges(self.FACTOR), strict=True
        ):
            phases = F.pad(up([x]), (right, left, bottom, top))  # reads what `up` does, mirrored
            part = F.conv2d(phases, kernel, self.bias if total is None else self.none)
            total = part if total is None else total + part
        assert total is not None
        return F.pixel_shuffle(total, self.FACTOR)


def _slope(prelu: nn.PReLU) -> float:
    if prelu.weight.numel() != 1:
        raise ValueError("a PReLU with a slope for every channel")
    return prelu.weight.item()


def _mix(conv: nn.Conv2d, phases: int) -> list[UnevenConv]:
    """A 1×1 convolution of concatenated features as one for each, the same for every phase."""
    parts = conv.weight.split(conv.out_channels, dim=1)
    biases = [conv.bias] + [None] * (len(parts) - 1)
    return [UnevenConv(part, b, copies=phases) for part, b in zip(parts, biases, strict=True)]


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
    packed.conv_last = PackedTail(packed.conv_last)
    packed.hour_glass = MergedHourglass(packed.hour_glass)
    leaky(packed)
    return packed.eval()
