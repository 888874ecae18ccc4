"""LightCNN (Wu et al., "A Light CNN for Deep Face Representation with Noisy Labels", 2018).

DICGAN uses its nine-layer form twice: with fresh weights as the critic, and with weights trained
for face recognition as the feature extractor of the feature loss. Parameter names are MMEditing's.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor, nn

from train.checkpoint import CheckpointError, check_tensors, read_tensors


class MaxFeature(nn.Module):
    """A layer of twice the channels of which each pair keeps its larger one (eq. 1 there)."""

    def __init__(self, layer: nn.Conv2d | nn.Linear) -> None:
        super().__init__()
        self.filter = layer

    def forward(self, x: Tensor) -> Tensor:
        one, two = self.filter(x).chunk(2, dim=1)
        return torch.maximum(one, two)


def _conv(inner: int, outer: int, kernel: int) -> MaxFeature:
    return MaxFeature(nn.Conv2d(inner, 2 * outer, kernel, padding=kernel // 2))


def _features() -> nn.Sequential:
    """(B, 3, 128, 128) → (B, 128, 8, 8)."""
    return nn.Sequential(
        _conv(3, 48, 5),
        nn.MaxPool2d(2),
        _conv(48, 48, 1),
        _conv(48, 96, 3),
        nn.MaxPool2d(2),
        _conv(96, 96, 1),
        _conv(96, 192, 3),
        nn.MaxPool2d(2),
        _conv(192, 192, 1),
        _conv(192, 128, 3),
        _conv(128, 128, 1),
        _conv(128, 128, 3),
        nn.MaxPool2d(2),
    )


class LightCNNCritic(nn.Module):
    """(B, 3, 128, 128) normalised → one logit a face, (B, 1); high for a real one."""

    def __init__(self) -> None:
        super().__init__()
        self.features = _features()
        self.classifier = nn.Sequential(
            MaxFeature(nn.Linear(128 * 8 * 8, 2 * 256)), nn.LeakyReLU(0.2), nn.Linear(256, 1)
        )

    def forward(self, face: Tensor) -> Tensor:
        return self.classifier(self.features(face).flatten(1))


class LightCNNFeatures(nn.Module):
    """(B, 3, 128, 128) normalised → (B, 128, 8, 8). Frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.features = _features()
        self.requires_grad_(False).eval()

    def forward(self, face: Tensor) -> Tensor:
        return self.features(face)


# The authors group a 1×1 and the convolution after it; MMEditing numbers all layers in a row.
_AUTHORS_GROUPS = {"2": "2", "4": "5", "6": "8", "7": "10"}
_AUTHORS_NAME = re.compile(r"^features\.(\d+)\.(conv_a|conv)\.filter\.(weight|bias)$")


def load_features(path: Path) -> LightCNNFeatures:
    """Read LightCNN feature weights: MMEditing's `light_cnn_feature.pth`, or the authors'
    `LightCNN_feature.pth`. A classifier in the file is ignored.

    Raises:
        CheckpointError: unreadable, unsafe, or not LightCNN's tensors.
    """
    tensors = {name.removeprefix("module."): t for name, t in read_tensors(path).items()}
    tensors = {_renamed(n): t for n, t in tensors.items() if n.startswith("features.")}
    network = LightCNNFeatures()
    try:
        check_tensors(tensors, network, "a nine-layer LightCNN on RGB pictures")
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    network.load_state_dict(tensors)
    return network


def _renamed(name: str) -> str:
    match = _AUTHORS_NAME.match(name)
    if not match or match[1] not in _AUTHORS_GROUPS:
        return name
    first = int(_AUTHORS_GROUPS[match[1]])
    return f"features.{first + (match[2] == 'conv')}.filter.{match[3]}"
