"""Rewriting is exact: a packed module computes what the original computes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conftest import DATA, TINY
from torch import nn

from export.graph.packed import (
    MergedHourglass,
    PackedProjections,
    PackedTail,
    SumOfConvs,
    UnevenConv,
    leaky,
    pack,
)
from export.graph.phases import classes, down_kernels, up_kernels
from train.checkpoint import load_checkpoint
from train.model.network import DIC, FeedbackBlock, FeedbackHourglass

TOLERANCE = 1e-6  # absolute, for values of about 1


def worst(one: torch.Tensor, two: torch.Tensor) -> float:
    assert one.shape == two.shape
    return ((one - two).abs().max() / one.abs().max().clamp(min=1)).item()


@pytest.mark.parametrize(
    ("factor", "phases"), [(8, [2, 4, 2]), (4, [2, 2]), (2, [2]), (3, [1, 1, 1])]
)
def test_phases_fall_into_classes(factor: int, phases: list[int]) -> None:
    found = classes(factor)
    assert [len(one.phases) for one in found] == phases
    # Kernel rows: each of the factor + 4 connects one phase with one offset.
    assert sum(len(one.phases) * len(one.offsets) for one in found) == factor + 4


@pytest.mark.parametrize("factor", [8, 4, 2])
def test_kernels_hold_every_weight_once(factor: int) -> None:
    conv = nn.ConvTranspose2d(3, 5, factor + 4, factor, padding=2)
    for kernels in (up_kernels(conv.weight, factor), down_kernels(conv.weight, factor)):
        found = torch.cat([kernel.flatten() for kernel in kernels.values()]).sort().values
        assert torch.equal(found, conv.weight.detach().flatten().sort().values)


@pytest.mark.parametrize("factor", [8, 4, 2])
@pytest.mark.parametrize("groups", [1, 3])
@torch.no_grad()
def test_packed_projections_match_the_blocks(factor: int, groups: int) -> None:
    torch.manual_seed(factor)
    block = FeedbackBlock(4, replace(TINY, projection=factor, groups=groups))
    for layer in block.modules():
        if isinstance(layer, nn.PReLU):  # a different slope for each
            layer.weight.copy_(torch.rand(1))
    x = torch.randn(2, 4, 7, 5)
    if groups == 1:
        block.conv_last = nn.Sequential(nn.Conv2d(4, 4, 1), nn.PReLU())
    found = worst(block.project(x), PackedProjections(block, factor)(x))
    assert found <= TOLERANCE, f"differs by {found:.1e}"


@torch.no_grad()
def test_a_packed_tail_matches_the_tail() -> None:
    torch.manual_seed(0)
    tail = DIC(TINY).double().conv_last
    x = torch.randn(2, TINY.channels, 7, 5).double()
    found = worst(tail(x), PackedTail(tail)(x))
    assert found <= 1e-12, f"differs by {found:.1e}"


@torch.no_grad()
def test_sums_fuse_their_leaky_relu_into_a_convolution_of_ones() -> None:
    torch.manual_seed(0)
    parts = [UnevenConv(torch.randn(6, 3, 1, 1), torch.randn(6)) for _ in range(3)]
    inputs = [torch.randn(1, 3, 4, 4) for _ in parts]
    total = sum(part(x) for part, x in zip(parts, inputs, strict=True))
    assert isinstance(total, torch.Tensor)
    summed = SumOfConvs(parts, 0.2)
    assert summed.carrier is not None
    assert torch.equal(summed(inputs), nn.functional.leaky_relu(total, 0.2))
    assert SumOfConvs(parts[:1], 0.2).carrier is None


@torch.no_grad()
def test_a_merged_hourglass_matches_the_hourglass() -> None:
    torch.manual_seed(0)
    hourglass = FeedbackHourglass(TINY)
    face = torch.randn(2, 3, 128, 128)
    hidden = None
    for _ in range(2):
        wanted, found = hourglass(face, hidden), MergedHourglass(hourglass)(face, hidden)
        for a, b in zip(wanted, found, strict=True):
            assert worst(a, b) <= TOLERANCE
        hidden = wanted[1]


@torch.no_grad()
def test_prelus_with_one_slope_become_leaky_relus() -> None:
    layers = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.PReLU(init=0.3)))
    x = torch.randn(1, 3, 5, 5)
    wanted = layers(x)
    leaky(layers)
    assert torch.equal(layers(x), wanted)
    assert not any(isinstance(layer, nn.PReLU) for layer in layers.modules())
    with pytest.raises(ValueError, match="every channel"):
        leaky(nn.Sequential(nn.PReLU(4)))


@pytest.mark.parametrize("name", ["dic_small_mmediting.pth", "dic_small_original.pth"])
@torch.no_grad()
def test_a_packed_network_gives_the_same_faces_and_heatmaps(name: str) -> None:
    """In double precision, where rounding stays below 1e-12."""
    network = load_checkpoint(DATA / name).network.double()
    lq = torch.rand(2, 3, 16, 16).double() - 0.5
    wanted, found = network(lq), pack(network)(lq)
    for kind in ("sr", "heatmaps"):
        for step, pair in enumerate(zip(getattr(wanted, kind), getattr(found, kind), strict=True)):
            assert worst(*pair) <= 1e-12, f"{kind} of step {step} by {worst(*pair):.1e}"


@torch.no_grad()
def test_compact_networks_are_packed_too() -> None:
    for projection in (1, 2, 4):
        torch.manual_seed(projection)
        network = DIC(replace(TINY, projection=projection)).eval()
        before = {n: p.clone() for n, p in network.state_dict().items()}
        lq = torch.rand(1, 3, 16, 16) - 0.5
        wanted, found = network(lq), pack(network)(lq)
        assert worst(wanted.sr[-1], found.sr[-1]) <= TOLERANCE
        assert all(torch.equal(p, before[n]) for n, p in network.state_dict().items())


@torch.no_grad()
def test_a_packed_network_has_no_high_resolution_tensors() -> None:
    sizes = set()
    for packed in (False, True):
        network = DIC(replace(TINY, projection=8)).eval()
        network = pack(network) if packed else network
        for layer in network.modules():
            if not list(layer.children()):
                layer.register_forward_hook(
                    lambda _, __, out, packed=packed: sizes.add((packed, *out.shape[-2:]))
                )
        network(torch.zeros(1, 3, 16, 16))
    assert (False, 256, 256) in sizes
    assert (True, 256, 256) not in sizes
