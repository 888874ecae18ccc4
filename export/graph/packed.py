"""Rewrite a network for CPUs, exactly: its projections are computed in phases (`phases`).

The rewritten network gives the same faces and heatmaps up to rounding.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from export.graph.phases import classes, down_kernels, same_kernels, up_kernels
from train.model.network import DIC, FeedbackBlock, FeedbackHourglass


class UnevenConv(nn.Module):
    """A convolution with a different padding on each edge.

    Args:
        kernel: (out, in / groups, rows, columns).
        bias: (out,); None for zeros.
        padding: top, bottom, left, right.
        groups: number of groups that the kernel already contains.
        copies: repeat kernel and bias this many times, as further groups. A graph stores them
            once; runtimes repeat them when they load it.
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
            # Zeros cost nothing at run time. Without a bias, PyTorch's exporter computes one of
            # zeros with four nodes per convolution, and folding these takes most of its time.
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
    """The sum of one convolution per input, followed by a leaky ReLU.

    It replaces a 1×1 convolution of concatenated features, or a strided one of all phases. Terms
    are added one after the other: runtimes fuse an addition into the convolution before it.

    ONNX Runtime also fuses a leaky ReLU into a convolution, but not into one with an addition. A
    separate leaky ReLU needs the tensor converted from ONNX Runtime's blocked layout and back. A
    depthwise 1×1 convolution with weights of 1 in between avoids that: the leaky ReLU is fused into
    it, at the cost of one read and one write (measured: benchmarks/NOTES.md).

    Args:
        parts: the convolutions, one per input.
        slope: of the leaky ReLU.
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
    """`FeedbackBlock.project`, computed in phases: (B, C, h, w) → (B, C, h, w).

    The high resolution is a list of tensors (B, phases · C, h, w), one per pair of classes.
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

        layers: Any = block  # its projections are pairs of a convolution and a PReLU
        self.ups = nn.ModuleList(_ups(conv, prelu, factor) for conv, prelu in layers.up_blocks)
        self.mixes = nn.ModuleList(mixes(conv, prelu) for conv, prelu in layers.hr_blocks)
        self.downs = nn.ModuleList(down(conv, prelu) for conv, prelu in layers.down_blocks)
        self.lr_blocks, self.conv_last = block.lr_blocks, block.conv_last

    def forward(self, x: Tensor) -> Tensor:
        groups: Any = zip(self.ups, [None, *self.mixes], self.downs, strict=True)
        low = [x]
        high: list[list[Tensor]] = []  # by group, then by pair of classes
        for i, (up, mix, down) in enumerate(groups):
            source = x if i == 0 else self.lr_blocks[i - 1](torch.cat(low, 1))
            high.append([phases([source]) for phases in up])
            mixed = high[0]
            if mix is not None:
                mixed = [one(pair) for one, pair in zip(mix, zip(*high, strict=True), strict=True)]
            low.append(down(mixed))
        return self.conv_last(torch.cat(low[1:], 1))


def _edges(factor: int) -> list[tuple[int, int, int, int]]:
    """The padding of the low resolution for each pair of classes: top, bottom, left, right."""
    return [(*a.padding, *b.padding) for a in classes(factor) for b in classes(factor)]


def _ups(conv: Any, prelu: Any, factor: int) -> nn.ModuleList:
    """A transposed convolution and its PReLU as one module per pair of classes."""
    kernels = up_kernels(conv.weight, factor).values()
    channels = conv.out_channels
    return nn.ModuleList(
        SumOfConvs([UnevenConv(k, conv.bias.repeat(len(k) // channels), edge)], _slope(prelu))
        for k, edge in zip(kernels, _edges(factor), strict=True)
    )


class PackedTail(nn.Module):
    """`DIC.conv_last`, computed in phases: (B, C, h, w) → (B, 3, 4h, 4w).

    A transposed convolution by 4, a leaky ReLU and a convolution to RGB; only the face exists at
    the high resolution. A graph stores the convolution's 3×3 weights; runtimes compute
    `same_kernels` when they load it.
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
        self.no_bias = nn.Parameter(torch.zeros_like(bias), requires_grad=False)  # see UnevenConv

    def forward(self, x: Tensor) -> Tensor:
        kernels = same_kernels(self.weight, self.FACTOR).values()
        total: Tensor | None = None
        for up, kernel, (top, bottom, left, right) in zip(
            self.ups, kernels, _edges(self.FACTOR), strict=True
        ):
            phases = F.pad(up([x]), (right, left, bottom, top))  # mirrored, as in `down_kernels`
            part = F.conv2d(phases, kernel, self.bias if total is None else self.no_bias)
            total = part if total is None else total + part
        assert total is not None
        return F.pixel_shuffle(total, self.FACTOR)


def _slope(prelu: nn.PReLU) -> float:
    """A PReLU's single slope.

    Raises:
        ValueError: it has one for every channel.
    """
    if prelu.weight.numel() != 1:
        raise ValueError("a PReLU has a slope for every channel; only single slopes can be packed")
    return prelu.weight.item()


def _mix(conv: nn.Conv2d, phases: int) -> list[UnevenConv]:
    """Split a 1×1 convolution of concatenated features into one per feature, copied per phase."""
    parts = conv.weight.split(conv.out_channels, dim=1)
    biases = [conv.bias] + [None] * (len(parts) - 1)
    return [UnevenConv(part, b, copies=phases) for part, b in zip(parts, biases, strict=True)]


class PackedBlock(nn.Module):
    """A feedback block, with or without attention, whose projections are packed."""

    def __init__(self, block: FeedbackBlock, factor: int) -> None:
        super().__init__()
        self.conv_first = block.conv_first
        self.fusion_block = getattr(block, "fusion_block", None)
        self.project = PackedProjections(block, factor)

    def forward(self, x: Tensor, attention: Tensor | None = None) -> Tensor:
        x = self.conv_first(x)
        return self.project(x if self.fusion_block is None else self.fusion_block(x, attention))


class MergedHourglass(nn.Module):
    """The landmark network, with a smaller first convolution in the first step.

    The first step has no hidden feature and concatenates its own feature twice. Adding the two
    halves of the weights instead halves the convolution.
    """

    def __init__(self, hourglass: FeedbackHourglass) -> None:
        super().__init__()
        self.pre_conv_block, self.hg = hourglass.pre_conv_block, hourglass.hg
        self.first_conv, self.last = hourglass.first_conv, hourglass.last
        halves = hourglass.first_conv.weight.chunk(2, dim=1)
        self.merged = UnevenConv(halves[0] + halves[1], hourglass.first_conv.bias)

    def forward(self, sr: Tensor, hidden: Tensor | None) -> tuple[Tensor, Tensor]:
        feature = self.pre_conv_block(sr)
        if hidden is None:
            mixed = self.merged(feature)
        else:
            mixed = self.first_conv(torch.cat((feature, hidden), 1))
        out, hidden = self.hg(mixed).chunk(2, dim=1)
        return self.last(out), hidden


def leaky(module: nn.Module) -> None:
    """Replace every PReLU by a leaky ReLU of the same slope, in place.

    Runtimes fuse leaky ReLUs, but not PReLUs, into the convolution before them.

    Raises:
        ValueError: a PReLU has a slope for every channel.
    """
    for name, child in module.named_children():
        if isinstance(child, nn.PReLU):
            setattr(module, name, nn.LeakyReLU(_slope(child)))
        else:
            leaky(child)


def pack(network: DIC) -> DIC:
    """A rewritten copy of a network: the same faces and heatmaps up to rounding.

    Args:
        network: left unchanged; with a projection factor of 1, its feedback blocks are kept.

    Raises:
        ValueError: a PReLU has a slope for every channel.
    """
    packed: Any = copy.deepcopy(network)
    factor = network.config.projection
    if factor > 1:
        for name in ("first_block", "block"):
            setattr(packed, name, PackedBlock(getattr(packed, name), factor))
    packed.conv_last = PackedTail(packed.conv_last)
    packed.hour_glass = MergedHourglass(packed.hour_glass)
    leaky(packed)
    return packed.eval()
