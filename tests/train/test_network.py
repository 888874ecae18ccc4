"""The network compared with the reference outputs."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import DATA, TINY
from torch.utils.flop_counter import FlopCounterMode

from train.checkpoint import load_checkpoint
from train.model.network import DIC, NetworkConfig


@pytest.mark.parametrize(
    ("checkpoint", "expected"),
    [
        ("dic_small_mmediting.pth", "dic_small_expected.npz"),
        ("dic_small_original.pth", "dic_small_original_expected.npz"),
    ],
)
def test_every_step_matches_the_released_implementations(checkpoint: str, expected: str) -> None:
    oracle = np.load(DATA / expected)
    network = load_checkpoint(DATA / checkpoint, steps=len(oracle["sr"])).network
    with torch.no_grad():
        given = network(torch.from_numpy(oracle["lq"]))
    for name, tensors in (("sr", given.sr), ("heatmap", given.heatmaps)):
        error = np.abs(torch.stack(tensors).numpy() - oracle[name]).max()
        assert error <= 1e-5, f"{name} differs by {error:.2e}"


def test_full_size_network_is_the_released_one() -> None:
    network = DIC(NetworkConfig())
    shapes = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
    assert shapes == json.loads((DATA / "dic_full_mmediting_keys.json").read_text())
    assert sum(p.numel() for p in network.parameters()) == 21_803_849
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, 16, 16))
    assert counter.get_total_flops() / 1e9 == pytest.approx(90.7, abs=0.05)


def test_the_network_is_stateless() -> None:
    torch.manual_seed(1)
    network = DIC(TINY).eval()
    first, second = torch.randn(2, 1, 3, 16, 16)
    with torch.no_grad():
        alone = network(first).sr[-1]
        network(second)
        again = network(first).sr[-1]
        together = network(torch.cat((second, first))).sr[-1][1:]
    assert torch.equal(alone, again)
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-6)


def test_the_first_steps_do_not_depend_on_the_number_of_steps() -> None:
    torch.manual_seed(2)
    network = DIC(TINY).eval()
    lq = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        few, many = network(lq, 2), network(lq, 5)
    assert len(many.sr) == len(many.heatmaps) == 5
    assert torch.equal(few.sr[1], many.sr[1])
    assert not torch.equal(many.sr[3], many.sr[4])


@pytest.mark.parametrize("landmarks", [68, 194, 5])
@pytest.mark.parametrize("projection", [2, 4, 8])
def test_other_sizes(landmarks: int, projection: int) -> None:
    network = DIC(replace(TINY, landmarks=landmarks, projection=projection, channels=3))
    given = network(torch.randn(2, 3, 16, 16))
    assert given.sr[-1].shape == (2, 3, 128, 128)
    assert given.heatmaps[-1].shape == (2, landmarks, 32, 32)


def test_attention_follows_the_released_rule() -> None:
    network = DIC(TINY)
    maps = torch.randn(2, 68, 32, 32)
    maps[0, 3] *= 0.001  # a peak below the floor must not be amplified to 1
    scaled = maps / maps.amax((2, 3), keepdim=True).clamp(min=0.05)
    groups = (range(36, 42), range(42, 48), range(27, 36), range(48, 68), range(27))
    merged = torch.stack([scaled[:, list(group)].sum(1) for group in groups], 1)
    torch.testing.assert_close(network.attend(maps), merged.softmax(1))


def test_detached_attention_stops_the_gradient() -> None:
    for detach in (False, True):
        torch.manual_seed(3)
        network = DIC(TINY, detach_attention=detach)
        network(torch.randn(1, 3, 16, 16)).sr[-1].sum().backward()
        assert (network.hour_glass.last[3].weight.grad is None) == detach


@pytest.mark.parametrize(
    ("field", "value"),
    [("channels", 0), ("steps", 0), ("landmarks", 67), ("hourglass_channels", 6)],
)
def test_invalid_sizes_are_refused_by_name(field: str, value: int) -> None:
    with pytest.raises(ValueError, match=field if field != "landmarks" else "67 landmarks"):
        replace(TINY, **{field: value})
