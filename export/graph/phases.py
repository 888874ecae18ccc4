"""Kernels of projections as low-resolution convolutions with phases as channels.

A feedback block projects to F times the resolution and back, once per group (F is 8 in the paper:
from 32×32 to 256×256). Row F·i + r of the high resolution is called phase r at position i, and
depends on few rows of the low resolution. With the kernel indices of `FeedbackBlock`:

    up     high[F·i + r] = Σ_d low[i + d] · w[r + 2 - F·d]         (transposed convolution)
    down   low[i] = Σ_{d, r} high[F·(i + d) + r] · w[F·d + r + 2]  (strided convolution)

The kernels are F + 4 wide, so phase r uses the offset d = 0 always, d = -1 only if r < 2, and d = 1
only if r ≥ F - 2. Phases with the same offsets form a class. For each pair of a row class and a
column class, a small convolution at the low resolution performs exactly the multiplications of the
large one, with phases as output (or input) channels. The layers in between, 1×1 convolutions and
PReLUs, treat all phases alike: they become grouped convolutions with one group per phase.

The high resolution then exists only as channels of the low one, and results are the same sums in
another order. The last layers of a step, which produce the face, are rewritten likewise (F is 4).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

PADDING = 2  # of both convolutions in every feedback block; their kernels are factor + 4 wide


@dataclass(frozen=True)
class Class:
    """Adjacent phases that use the same rows (or columns) of the low resolution.

    Attributes:
        phases: r, from 0 to factor - 1.
        offsets: d, within -1 … 1.
    """

    phases: range
    offsets: range

    @property
    def padding(self) -> tuple[int, int]:
        """Rows of padding needed before the first and after the last row of the low resolution."""
        return -self.offsets[0], self.offsets[-1]


def classes(factor: int) -> list[Class]:
    """The classes of phases 0 … factor - 1, in order.

    Raises:
        ValueError: the factor is less than 2; offsets would then exceed -1 … 1.
    """
    if factor < PADDING:
        raise ValueError(
            f"projections by a factor of {factor} cannot be packed; it must be 2 or more"
        )

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
    """Split a transposed convolution's kernel into ordinary kernels, one per pair of classes.

    Args:
        weight: (in, out, factor + 4, factor + 4), the layout of nn.ConvTranspose2d.

    Returns:
        (row class, column class) → (phases · out, in, rows, columns); the pair's phases in
        row-major order, each with all its channels.
    """
    found = {}
    for (a, rows), (b, columns) in itertools.product(enumerate(classes(factor)), repeat=2):
        # Tap t of an ordinary convolution reads the input at offset d = offsets[t].
        taps = weight[:, :, _taps(rows, factor)][..., _taps(columns, factor)]
        # (in, out, phase, row tap, phase, column tap) → phases first
        kernel = taps.permute(2, 4, 1, 0, 3, 5)
        found[a, b] = kernel.reshape(-1, weight.shape[0], len(rows.offsets), len(columns.offsets))
    return found


def _taps(one: Class, factor: int) -> Tensor:
    """(phases, offsets): the row of the transposed kernel that connects phase r with offset d."""
    return torch.tensor([[r + PADDING - factor * d for d in one.offsets] for r in one.phases])


def down_kernels(weight: Tensor, factor: int) -> dict[tuple[int, int], Tensor]:
    """Split a strided convolution's kernel into ordinary kernels, one per pair of classes.

    Args:
        weight: (out, in, factor + 4, factor + 4), the layout of nn.Conv2d.

    Returns:
        (row class, column class) → (out, phases · in, rows, columns); the results of all pairs are
        to be added. Offsets are mirrored: tap t reads the input at -offsets[-1 - t].
    """
    found = {}
    for (a, rows), (b, columns) in itertools.product(enumerate(classes(factor)), repeat=2):
        taps = weight[:, :, _mirrored(rows, factor)][..., _mirrored(columns, factor)]
        # (out, in, phase, row tap, phase, column tap) → phases before the channels
        kernel = taps.permute(0, 2, 4, 1, 3, 5)
        found[a, b] = kernel.reshape(weight.shape[0], -1, len(rows.offsets), len(columns.offsets))
    return found


def _mirrored(one: Class, factor: int) -> Tensor:
    """(phases, offsets): the row of the strided kernel that reads phase r at offset -d."""
    offsets = [-d for d in reversed(one.offsets)]
    return torch.tensor([[r + PADDING + factor * d for d in offsets] for r in one.phases])


def same_kernels(weight: Tensor, factor: int) -> dict[tuple[int, int], Tensor]:
    """Turn a 3×3 convolution at the high resolution, padded by 1, into low-resolution kernels.

    Args:
        weight: (out, in, 4, 4): the 3×3 kernel, followed by a row and a column of zeros.

    Returns:
        (row class, column class) of the input → (out · factor², phases · in, rows, columns); the
        results of all pairs are to be added. Output channels are in the order of `pixel_shuffle`.
        An output row reads at most three input rows, so most weights are zero; with few output
        channels that costs little.
    """

    def taps(one: Class) -> Tensor:
        """(output phases · phases · offsets): the kernel row that connects them; 3, a row of zeros,
        if none does. As in `_mirrored`, phase s at offset -d is row s - factor·d relative to row r.
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
        # Output channel, phase row and column; then input phase row, phase column and channel.
        kernel = kernel.permute(0, 2, 5, 3, 6, 1, 4, 7)
        found[a, b] = kernel.reshape(out * factor**2, high * wide * taken, tall, broad)
    return found
