"""LightCNN (Wu et al., "A Light CNN for Deep Face Representation with Noisy Labels", 2018).

DICGAN uses the nine-layer variant twice: randomly initialised as the discriminator (the "critic"),
and with weights trained for face recognition as the feature extractor of the feature loss.
Parameter names are MMEditing's.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor, nn

from train.checkpoint import check_tensors
from train.torch_file import CheckpointError, read_tensors


class MaxFeature(nn.Module):
    """A layer with doubled output channels, reduced to the maximum of each pair (MFM, eq. 1)."""

    def __init__(self, layer: nn.Conv2d | nn.Linear) -> None:
        super().__init__()
        self.filter = layer

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.filter(x).chunk(2, dim=1)
        return torch.maximum(first, second)


def _conv(in_channels: int, out_channels: int, kernel: int) -> MaxFeature:
    return MaxFeature(nn.Conv2d(in_channels, 2 * out_channels, kernel, padding=kernel // 2))


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
    """Discriminator: (B, 3, 128, 128) normalised → one logit per face, (B, 1); high means real."""

    def __init__(self) -> None:
        super().__init__()
        self.features = _features()
        self.classifier = nn.Sequential(
            MaxFeature(nn.Linear(128 * 8 * 8, 2 * 256)), nn.LeakyReLU(0.2), nn.Linear(256, 1)
        )

    def forward(self, face: Tensor) -> Tensor:
        return self.classifier(self.features(face).flatten(1))

    def judge(self, face: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The logits (B, 1), and the features before each pooling: 128, 64, 32 and 16 pixels."""
        features = []
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                features.append(face)
            face = layer(face)
        return self.classifier(face.flatten(1)), features


class LightCNNFeatures(nn.Module):
    """Feature extractor with frozen weights: (B, 3, 128, 128) normalised → (B, 128, 8, 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.features = _features()
        self.requires_grad_(False).eval()

    def forward(self, face: Tensor) -> Tensor:
        return self.features(face)


# The authors group each 1×1 convolution with the next convolution; MMEditing numbers all layers
# consecutively. From the number of the authors' group to the number of its first layer:
_AUTHORS_GROUPS = {"2": "2", "4": "5", "6": "8", "7": "10"}
_AUTHORS_NAME = re.compile(r"^features\.(\d+)\.(conv_a|conv)\.filter\.(weight|bias)$")


def load_features(path: Path) -> LightCNNFeatures:
    """Load the weights of the feature extractor.

    Supports MMEditing's `light_cnn_feature.pth` and the authors' `LightCNN_feature.pth`. A
    classifier in the file is ignored.

    Raises:
        CheckpointError: the file cannot be read, is unsafe, or is not a LightCNN checkpoint.
    """
    tensors = {name.removeprefix("module."): t for name, t in read_tensors(path).items()}
    tensors = {_renamed(n): t for n, t in tensors.items() if n.startswith("features.")}
    network = LightCNNFeatures()
    try:
        check_tensors(tensors, network, "a nine-layer LightCNN with RGB input")
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    network.load_state_dict(tensors)
    return network


def _renamed(name: str) -> str:
    """Translate an authors' parameter name to MMEditing's; other names are returned unchanged."""
    match = _AUTHORS_NAME.match(name)
    if not match or match[1] not in _AUTHORS_GROUPS:
        return name
    first = int(_AUTHORS_GROUPS[match[1]])
    return f"features.{first + (match[2] == 'conv')}.filter.{match[3]}"
