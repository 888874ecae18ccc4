"""Losses against values computed by hand, and networks that must overfit one batch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import DATA, TINY, TINY_RUN
from numpy.typing import NDArray
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio
from torch import nn

from dic.console import UserError
from dic.metrics import psnr
from train.data.datasets import FacesInMemory
from train.data.pairs import FacePairs, denormalise, normalise, shrink
from train.loop.processes import launch
from train.loop.state import State, start
from train.loop.training import adversarial_terms, update
from train.loop.validation import validate
from train.metrics import ssim
from train.model.light_cnn import LightCNNCritic, LightCNNFeatures, load_features
from train.model.losses import (
    alignment_loss,
    consistency_loss,
    critic_loss,
    feature_loss,
    feature_matching_loss,
    generator_loss,
    pixel_loss,
    psnr_loss,
    ssim_loss,
)
from train.model.network import DIC, Steps
from train.recipe import Gan, Recipe, load_recipe
from train.torch_file import CheckpointError

Faces = tuple[NDArray[np.uint8], NDArray[np.float32]]


def test_pixel_and_alignment_losses_by_hand() -> None:
    shape, maps = (1, 3, 128, 128), (1, 68, 32, 32)
    steps = Steps(
        [torch.full(shape, 0.5), torch.full(shape, 0.1)], [torch.ones(maps), torch.zeros(maps)]
    )
    target = torch.zeros(maps)
    target[..., :16] = 0.5
    assert pixel_loss(steps, torch.zeros(shape)).item() == pytest.approx(0.5 + 0.1)
    # step 1: half the cells off by 0.5, half by 1; step 2: half by 0.5
    assert alignment_loss(steps, target).item() == pytest.approx((0.125 + 0.5) + 0.125)
    weighed = alignment_loss(steps, target, peak_weight=2.0)
    assert weighed.item() == pytest.approx((0.125 * 2 + 0.5) + 0.125 * 2)


def test_psnr_loss_is_scikit_images_psnr() -> None:
    rng = np.random.default_rng(0)
    gt, sr = rng.random((2, 3, 3, 128, 128), np.float32)
    sr[1:] = gt[1:] + rng.normal(0, 0.03, (2, 3, 128, 128)).astype(np.float32)
    pairs = zip(gt, sr, strict=True)
    wanted = np.mean([peak_signal_noise_ratio(x, y, data_range=1) for x, y in pairs])
    loss = psnr_loss(torch.from_numpy(sr), torch.from_numpy(gt))
    assert -loss.item() == pytest.approx(wanted, abs=0.01)  # MSE_FLOOR
    steps = Steps([torch.from_numpy(sr)] * 3, [])
    assert pixel_loss(steps, torch.from_numpy(gt), "psnr").item() == pytest.approx(3 * loss.item())


def test_ssim_loss_is_scikit_images_ssim() -> None:
    rng = np.random.default_rng(0)
    gt, sr = rng.integers(0, 256, (2, 2, 128, 128, 3), np.uint8)
    sr[1] = np.clip(gt[1].astype(int) + rng.integers(-40, 40, gt[1].shape), 0, 255)
    wanted = np.mean([ssim(x, y) for x, y in zip(sr, gt, strict=True)])  # crops by 8 pixels
    loss = ssim_loss(*(normalise(faces)[..., 8:-8, 8:-8] for faces in (sr, gt)))
    assert 1 - loss.item() == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize(
    ("kind", "generator", "critic"),
    [
        # log(1 + e^-x) of a logit x where it should be high, log(1 + e^x) where low
        ("vanilla", np.log1p(np.exp(-0.5)), np.log1p(np.exp(-2.0)) + np.log1p(np.exp(0.5))),
        ("lsgan", (1 - 0.5) ** 2, (2 - 1) ** 2 + 0.5**2),
        ("hinge", -0.5, max(0, 1 - 2) + max(0, 1 + 0.5)),
    ],
)
def test_gan_losses_by_hand(kind: Any, generator: float, critic: float) -> None:
    real, fake = torch.full((3, 1), 2.0), torch.full((3, 1), 0.5)
    assert generator_loss(kind, fake).item() == pytest.approx(generator)
    assert critic_loss(kind, real, fake).item() == pytest.approx(critic)


def test_the_relativistic_loss_by_hand() -> None:
    """Against the means of the other side: 3 and 0.5 (Jolicoeur-Martineau, eq. 7)."""
    real, fake = torch.tensor([[2.0], [4.0]]), torch.tensor([[0.5], [0.5]])
    above = np.log1p(np.exp([-(2 - 0.5), -(4 - 0.5)])).mean()  # log(1 + e^-x), real above fake
    below = np.log1p(np.exp(0.5 - 3))
    assert critic_loss("relativistic", real, fake).item() == pytest.approx(above + below)
    other = np.log1p(np.exp(3 - 0.5)) + np.log1p(np.exp([2 - 0.5, 4 - 0.5])).mean()
    assert generator_loss("relativistic", fake, real).item() == pytest.approx(other)
    with pytest.raises(ValueError, match="real faces"):
        generator_loss("relativistic", fake)


def test_consistency_is_zero_for_detail_that_the_input_does_not_show() -> None:
    gt = torch.rand(1, 3, 128, 128)
    checkers = (torch.arange(128)[:, None] + torch.arange(128)) % 2 * 0.2 - 0.1
    assert consistency_loss(gt + checkers, gt).item() < 1e-3
    assert consistency_loss(gt + 0.1, gt).item() == pytest.approx(0.1, rel=1e-3)


def test_the_consistency_is_of_pictures_as_pillow_shrinks_them() -> None:
    faces = [np.random.default_rng(i).integers(0, 256, (128, 128, 3), np.uint8) for i in (0, 1)]
    small = [
        np.asarray(Image.fromarray(face).resize((16, 16), Image.Resampling.BICUBIC), float)
        for face in faces
    ]
    wanted = np.abs(small[0] - small[1]).mean() / 255
    sr, gt = (torch.from_numpy(face).permute(2, 0, 1)[None].float() / 255 for face in faces)
    assert consistency_loss(sr, gt).item() == pytest.approx(wanted, abs=1 / 255)


def test_matching_the_critics_features() -> None:
    critic = LightCNNCritic()
    faces = torch.rand(2, 3, 128, 128)
    logits, features = critic.judge(faces)
    torch.testing.assert_close(logits, critic(faces))
    assert [f.shape[-1] for f in features] == [128, 64, 32, 16]
    assert feature_matching_loss(features, features).item() == 0
    _, others = critic.judge(faces + 0.1)
    assert feature_matching_loss(features, others).item() > 0


def test_feature_loss_by_hand() -> None:
    features = LightCNNFeatures()
    for layer in features.modules():
        if isinstance(layer, nn.Conv2d):  # each layer returns the mean of its input channels
            nn.init.zeros_(layer.bias)
            kernel = layer.weight.shape[2]
            weight = torch.zeros_like(layer.weight)
            weight[:, :, kernel // 2, kernel // 2] = 1 / layer.weight.shape[1]
            layer.weight.data.copy_(weight)
    one, two = torch.full((1, 3, 128, 128), 0.3), torch.full((1, 3, 128, 128), 0.1)
    assert feature_loss(features, one, two).item() == pytest.approx(0.2, rel=1e-4)


def test_the_critic_returns_one_logit_per_face() -> None:
    assert LightCNNCritic()(torch.zeros(2, 3, 128, 128)).shape == (2, 1)
    assert sum(p.numel() for p in LightCNNCritic().parameters()) == AUTHORS_PARAMETERS


# From the table of layers: 5×5 and 3×3 convolutions, their 1×1 convolutions, two linear layers.
AUTHORS_PARAMETERS = (
    (3 * 25 + 1) * 96
    + (48 + 1) * 96
    + (48 * 9 + 1) * 192
    + (96 + 1) * 192
    + (96 * 9 + 1) * 384
    + (192 + 1) * 384
    + (192 * 9 + 1) * 256
    + (128 + 1) * 256
    + (128 * 9 + 1) * 256
    + (8192 + 1) * 512
    + (256 + 1)
)


def authors_names(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Translate MMEditing's LightCNN names to the authors', which group two convolutions each."""
    groups = {2: "2.conv_a", 3: "2.conv", 5: "4.conv_a", 6: "4.conv"}
    groups |= {8: "6.conv_a", 9: "6.conv", 10: "7.conv_a", 11: "7.conv"}
    renamed = {}
    for name, tensor in tensors.items():
        first, number, rest = name.split(".", 2)
        renamed[f"{first}.{groups.get(int(number), number)}.{rest}"] = tensor
    return renamed


def test_light_cnn_weights_of_both_layouts_load(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tensors = LightCNNFeatures().state_dict()
    face = torch.rand(1, 3, 128, 128)
    results = []
    extra = {"classifier.0.filter.weight": torch.zeros(2)}
    for name, held in {
        "mmediting": {"state_dict": tensors},
        "authors": authors_names(tensors),
        "wrapped": {f"module.{k}": v for k, v in (authors_names(tensors) | extra).items()},
    }.items():
        torch.save(held, tmp_path / f"{name}.pth")
        results.append(load_features(tmp_path / f"{name}.pth")(face))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_other_weights_are_refused_as_light_cnn(tmp_path: Path) -> None:
    torch.save(DIC(TINY).state_dict(), tmp_path / "dic.pth")
    with pytest.raises(CheckpointError, match="not those of a nine-layer LightCNN"):
        load_features(tmp_path / "dic.pth")
    with pytest.raises(CheckpointError, match="No such file"):
        load_features(tmp_path / "none.pth")


REFERENCE_CHECKPOINTS = [DATA / "dic_small_mmediting.pth", DATA / "dic_small_original.pth"]
REFERENCE_SIZES = [
    "network.channels=8",
    "network.groups=3",
    "network.projection=8",
    "network.fusion_blocks=2",
    "network.hourglass_channels=16",
    "network.steps=4",
]


def tiny_recipe(*settings: str, gan: Gan | None = None) -> Recipe:
    fixed = ["schedule=constant", "warmup=0", "network.hourglass_depth=4"]
    recipe = load_recipe("synthetic-demo", [*TINY_RUN, *fixed, *settings])
    return replace(recipe, gan=gan)


def learn(
    recipe: Recipe, pairs: FacePairs, iterations: int
) -> tuple[State, list[dict[str, float]]]:
    """Train on all of `pairs` as one batch, and return the losses of each iteration."""
    state = start(recipe, launch(recipe))
    batch = torch.utils.data.default_collate([pairs[0, i] for i in range(len(pairs))])
    found = []
    for _ in range(iterations):
        found.append(update(state, [batch]))
        state.progress.iteration += 1
    return state, found


def test_a_tiny_dic_overfits_the_faces_of_one_batch(faces: Faces) -> None:
    """For some 100 iterations the face is the input enlarged, then it is learned fast."""
    pairs = FacePairs(FacesInMemory(faces[0][:1], faces[1][:1]))
    state, _ = learn(tiny_recipe("learning_rate=5e-3", "seed=2"), pairs, 140)
    found = validate(state.fabric, state.network, pairs, 0).psnr[-1]
    way = Image.Resampling.BICUBIC
    enlarged = Image.fromarray(shrink(faces[0][0])).resize((128, 128), way)
    bicubic = psnr(np.asarray(enlarged), faces[0][0])
    assert found > bicubic + 0.5, f"{found:.2f} dB, bicubic {bicubic:.2f} dB"


def test_a_small_hourglass_overfits_the_landmarks_of_one_batch(faces: Faces) -> None:
    pairs = FacePairs(FacesInMemory(faces[0][:1], faces[1][:1]))
    recipe = tiny_recipe("network.hourglass_channels=32", "learning_rate=3e-3", "seed=1")
    state, _ = learn(recipe, pairs, 60)
    found = validate(state.fabric, state.network, pairs, 0).nme[-1]
    assert found < 0.9, f"{100 * found:.0f} % of the eyes' distance; empty heatmaps give over 140 %"


def test_a_tiny_dicgan_overfits_one_batch(faces: Faces, tmp_path: Path) -> None:
    torch.manual_seed(0)
    features = LightCNNFeatures()
    for parameter in features.parameters():
        if (
            parameter.dim() > 1
        ):  # with PyTorch's default initialisation, the output of nine layers vanishes
            nn.init.kaiming_normal_(parameter)
    torch.save(features.state_dict(), tmp_path / "features.pth")
    gan = Gan("vanilla", 5, 1, 1e-4, 0.1, str(tmp_path / "features.pth"), 0.005)
    pairs = FacePairs(FacesInMemory(faces[0][:1], faces[1][:1]))
    state, found = learn(tiny_recipe("learning_rate=5e-3", gan=gan), pairs, 28)
    assert set(found[4]) == {"pixel", "align"}, "there is no critic in the first `start` iterations"
    assert set(found[5]) == {"pixel", "align", "feature", "adversarial", "critic"}
    for name, share in (("feature", 0.92), ("critic", 0.95)):
        early, late = found[5][name], np.mean([losses[name] for losses in found[-3:]])
        assert late < share * early, f"{name}: {early:.4f} at first, {late:.4f} at the end"
    assert all(p.requires_grad for p in state.critic.network.parameters())  # type: ignore[union-attr]


def test_the_critic_gets_no_gradient_from_the_generators_update(faces: Faces) -> None:
    recipe = tiny_recipe(gan=Gan(feature_weight=0))
    state = start(recipe, launch(recipe))
    assert state.critic is not None
    gt = FacePairs(FacesInMemory(*faces))[0, 0]["gt"][None]
    sr = torch.zeros_like(gt, requires_grad=True)
    for weight, term in adversarial_terms(state, sr, gt).values():
        (weight * term).backward()
    assert sr.grad is not None
    assert sr.grad.abs().max() > 0
    assert all(p.grad is None for p in state.critic.network.parameters())


def test_a_frozen_hourglass_is_updated_only_after_the_freeze(faces: Faces) -> None:
    pairs = FacePairs(FacesInMemory(faces[0][:2], faces[1][:2]))
    recipe = tiny_recipe("freeze_hourglass=2")
    fresh = start(recipe, launch(recipe)).network
    for iterations, same in ((2, True), (3, False)):
        state, _ = learn(recipe, pairs, iterations)
        stayed = all(
            torch.equal(a, b)
            for a, b in zip(
                state.network.hour_glass.parameters(), fresh.hour_glass.parameters(), strict=True
            )
        )
        assert stayed is same
        blocks = (state.network.first_block, fresh.first_block)
        learnt = zip(*(block.parameters() for block in blocks), strict=True)
        assert not all(torch.equal(a, b) for a, b in learnt)


def test_detached_attention_keeps_pixel_gradients_out_of_the_landmark_network() -> None:
    for detach in (True, False):
        torch.manual_seed(0)
        network = DIC(TINY, detach_attention=detach)
        steps = network(torch.rand(1, 3, 16, 16))
        # The last face depends on the first heatmaps through the attention only.
        (gradient,) = torch.autograd.grad(
            steps.sr[-1].sum(), network.hour_glass.last[3].weight, allow_unused=True
        )
        assert (gradient is None) is detach


def test_a_recipe_starts_from_checkpoints(tmp_path: Path) -> None:
    """A whole DIC, and only its landmark network, of both released implementations."""
    for path in REFERENCE_CHECKPOINTS:
        recipe = tiny_recipe(*REFERENCE_SIZES, f"start={path}")
        whole = start(recipe, launch(recipe)).network
        recipe = tiny_recipe(*REFERENCE_SIZES, f"start_hourglass={path}")
        part = start(recipe, launch(recipe)).network
        for a, b in zip(whole.hour_glass.parameters(), part.hour_glass.parameters(), strict=True):
            assert torch.equal(a, b)
        recipe = tiny_recipe(f"start={path}")
        with pytest.raises(UserError, match=r"network.channels was 8, not 4"):
            start(recipe, launch(recipe))
    tensors = torch.load(REFERENCE_CHECKPOINTS[1], weights_only=True)
    tensors = tensors.get("state_dict", tensors)
    alone = {n.removeprefix("HG."): t for n, t in tensors.items() if n.startswith("HG.")}
    assert alone
    torch.save(alone, tmp_path / "FB_HG.pth")
    recipe = tiny_recipe(*REFERENCE_SIZES, f"start_hourglass={tmp_path / 'FB_HG.pth'}")
    found = start(recipe, launch(recipe)).network
    for a, b in zip(found.hour_glass.parameters(), part.hour_glass.parameters(), strict=True):
        assert torch.equal(a, b)
    recipe = tiny_recipe(f"start_hourglass={tmp_path / 'FB_HG.pth'}")
    with pytest.raises(UserError, match="not those of this recipe's landmark network"):
        start(recipe, launch(recipe))


def test_an_untrained_network_returns_the_bilinear_enlargement(faces: Faces) -> None:
    recipe = tiny_recipe()
    network = start(recipe, launch(recipe)).network
    pair = FacePairs(FacesInMemory(*faces))[0, 0]
    steps = network(pair["lq"][None])
    enlarged = nn.functional.interpolate(pair["lq"][None], scale_factor=8, mode="bilinear")
    assert np.abs(denormalise(steps.sr[-1]).astype(int) - denormalise(enlarged)).max() <= 1
