"""Checkpoints in three layouts."""

from __future__ import annotations

import json
import os
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import DATA, TINY

from dic.console import UserError
from train.checkpoint import Layout, load_checkpoint, save_checkpoint
from train.model.network import DIC, NetworkConfig
from train.torch_file import CheckpointError, flat

SMALL = DATA / "dic_small_mmediting.pth"
ORIGINAL = DATA / "dic_small_original.pth"


def saved(tmp_path: Path, content: Any) -> Path:
    path = tmp_path / "saved.pth"
    torch.save(content, path)
    return path


def tensors(path: Path) -> dict[str, torch.Tensor]:
    return dict(torch.load(path, weights_only=True)["state_dict"])


def test_layouts_are_detected_from_the_content(tiny_checkpoint: Path) -> None:
    assert load_checkpoint(SMALL).layout is Layout.MMEDITING
    assert load_checkpoint(ORIGINAL).layout is Layout.ORIGINAL
    assert load_checkpoint(tiny_checkpoint).layout is Layout.TOOLKIT


def test_configuration_is_read_from_shapes() -> None:
    expected = NetworkConfig(
        channels=8, groups=3, fusion_blocks=2, hourglass_channels=16, hourglass_depth=4, steps=4
    )
    assert load_checkpoint(SMALL).network.config == expected
    assert load_checkpoint(ORIGINAL).network.config == expected


@pytest.mark.parametrize("layout", ["mmediting", "original"])
def test_full_size_layouts_load(layout: str, tmp_path: Path) -> None:
    keys = json.loads((DATA / f"dic_full_{layout}_keys.json").read_text())
    path = saved(tmp_path, {"state_dict": {k: torch.zeros(v) for k, v in keys.items()}})
    assert load_checkpoint(path).network.config == NetworkConfig()


def test_our_layout_stores_weights_steps_and_provenance(tmp_path: Path) -> None:
    torch.manual_seed(5)
    network = DIC(TINY)
    path = tmp_path / "own.pth"
    save_checkpoint(path, network, {"recipe": {"name": "x"}, "iteration": 7})
    loaded = load_checkpoint(path)
    assert loaded.network.config == TINY
    assert loaded.provenance == {"recipe": {"name": "x"}, "iteration": 7}
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, loaded.network.state_dict()[name])
    assert load_checkpoint(path, steps=9).network.config.steps == 9


def test_mappings_may_be_shared_nested_deeply_and_hold_themselves(tmp_path: Path) -> None:
    held: dict[str, Any] = {"state_dict": tensors(SMALL)}
    held["itself"] = held
    for _ in range(40):
        held = {"left": held, "right": held}
    assert load_checkpoint(saved(tmp_path, held)).network.config.channels
    for _ in range(2000):
        held = {"state_dict": held}
    assert flat(held)


@pytest.mark.parametrize(("plain", "averaged"), [("params", "params_ema"), ("g", "g_ema")])
def test_averaged_weights_of_other_trainers_are_preferred(
    plain: str, averaged: str, tmp_path: Path
) -> None:
    bare = {name.removeprefix("generator."): t for name, t in tensors(SMALL).items()}
    content = {plain: bare, averaged: {name: t + 1 for name, t in bare.items()}}
    loaded = load_checkpoint(saved(tmp_path, content))
    assert torch.equal(loaded.network.conv_first[0].bias, bare["conv_first.0.bias"] + 1)


def test_averaged_weights_are_preferred(tmp_path: Path) -> None:
    plain = tensors(SMALL)
    averaged = {k.replace("generator.", "generator_ema."): v + 1 for k, v in plain.items()}
    loaded = load_checkpoint(saved(tmp_path, {"state_dict": plain | averaged}))
    assert torch.equal(loaded.network.conv_first[0].bias, plain["generator.conv_first.0.bias"] + 1)


def test_other_networks_in_a_gan_checkpoint_are_ignored(tmp_path: Path) -> None:
    held = tensors(SMALL) | {"discriminator.conv.weight": torch.zeros(3)}
    assert load_checkpoint(saved(tmp_path, {"state_dict": held})).layout is Layout.MMEDITING


def test_wrong_tensors_are_listed_by_name(tmp_path: Path) -> None:
    held = tensors(ORIGINAL)
    del held["out.0.bias"]
    held["extra.weight"] = torch.zeros(1)
    held["conv_out.0.bias"] = torch.zeros(4)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(saved(tmp_path, {"state_dict": held}))
    message = str(caught.value)
    assert "1 missing: conv_last.0.bias" in message
    assert "1 unexpected: extra.weight" in message
    assert "1 of the wrong shape: conv_last.2.bias (4 instead of 3)" in message
    assert "\n" not in message


class Attack:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("pickle-was-run",)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_runs_code_is_refused(
    zipped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "attack.pth"
    if zipped:
        torch.save({"state_dict": Attack()}, path)
    else:
        path.write_bytes(pickle.dumps({"state_dict": Attack()}))
    with pytest.raises(CheckpointError, match="refused"):
        load_checkpoint(path)
    assert not Path("pickle-was-run").exists()


def test_unusable_files_are_reported_in_one_line(tmp_path: Path) -> None:
    whole = SMALL.read_bytes()
    cases = {
        "truncated": (whole[: len(whole) // 2], "damaged"),
        "empty": (b"", "contains nothing"),
        "a hundredth": (whole[: len(whole) // 100], "damaged"),
        "text": (b"hello, this is no checkpoint", "damaged|refused"),
    }
    for name, (content, why) in cases.items():
        path = tmp_path / f"{name}.pth"
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=why) as caught:
            load_checkpoint(path)
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)
    with pytest.raises(CheckpointError, match="No such file"):
        load_checkpoint(tmp_path / "absent.pth")
    with pytest.raises(CheckpointError, match="is a folder"):
        load_checkpoint(tmp_path)


def test_sizes_are_checked_before_anything_is_expanded(tmp_path: Path) -> None:
    """A ZIP bomb, and tensors that state more elements than are stored."""
    plain = tensors(SMALL)
    bomb = tmp_path / "bomb.pth"
    with (
        zipfile.ZipFile(saved(tmp_path, plain)) as source,
        zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            target.writestr(name, source.read(name))
        target.writestr("archive/data/zeros", bytes(50_000_000))
    with pytest.raises(CheckpointError, match="would expand to"):
        load_checkpoint(bomb)
    name = "generator.hour_glass.first_conv.weight"
    stretched = plain | {name: torch.zeros(1).expand(40_000, 40_000, 1, 1)}
    with pytest.raises(CheckpointError, match="elements, more than the file stores"):
        load_checkpoint(saved(tmp_path, stretched))


def test_weights_that_a_file_shares_are_not_shared(tmp_path: Path) -> None:
    """Training one parameter must not change another that had the same storage in the file."""
    plain = tensors(SMALL)
    one, other = (f"generator.first_block.up_blocks.{n}.0.bias" for n in (0, 1))
    plain[other] = plain[one]
    network = load_checkpoint(saved(tmp_path, plain)).network
    blocks = network.first_block.up_blocks
    blocks[0][0].bias.data.add_(1)
    assert torch.equal(blocks[1][0].bias, plain[one])


def test_a_checksum_that_was_not_stored_is_not_missed(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        path = saved(tmp_path, tensors(SMALL))
    finally:
        torch.serialization.set_crc32_options(True)
    assert load_checkpoint(path).layout is Layout.MMEDITING


def test_programs_and_pipes_are_refused_by_name(tmp_path: Path) -> None:
    program = tmp_path / "program.pth"
    with warnings.catch_warnings(action="ignore"):  # PyTorch 2.13: torch.jit is deprecated
        torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), program)
    with pytest.raises(CheckpointError, match="is a TorchScript program"):
        load_checkpoint(program)
    pipe = tmp_path / "pipe.pth"
    os.mkfifo(pipe)
    with pytest.raises(UserError, match="is a pipe or a device"):
        load_checkpoint(pipe)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ({"state_dict": {"layer1.weight": torch.zeros(3)}}, "not a DIC network.*layer1.weight"),
        ({"epoch": 3}, "no tensors"),
        ([1, 2], "contains a list"),
        ({"format": "dic-toolkit checkpoint", "format_version": 99}, "format 99 is not supported"),
        ({"state_dict": {"hour_glass.first_conv.weight": torch.zeros(3)}}, "is missing"),
    ],
)
def test_other_content_is_reported(content: Any, why: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=why):
        load_checkpoint(saved(tmp_path, content))


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "own.pth"
    save_checkpoint(path, DIC(TINY), {})
    before = path.read_bytes()

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Exception, match="No space left"):
        save_checkpoint(path, DIC(TINY), {"later": 1})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
