"""Resumption: a killed and resumed run is bitwise identical to an uninterrupted one."""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, TINY_RUN, Command, one_line_error
from forked import FORKED, train_command
from PIL import Image

from dic.console import UserError
from train.data.annotations import encode_pts
from train.loop.state import State
from train.loop.training import train, update
from train.recipe import load_recipe

KILLS = 12


def state(out: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(out / "state.pth", weights_only=True)
    content["progressed"].pop("seconds")
    return content


def assert_equal(one: Any, two: Any, where: str = "") -> None:
    """Assert that two nested structures are bitwise equal."""
    assert type(one) is type(two), where
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, two), f"{where}: differs by {(one - two).abs().max()}"
    elif isinstance(one, dict):
        assert one.keys() == two.keys(), where
        for key in one:
            assert_equal(one[key], two[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(two), where
        for number, pair in enumerate(zip(one, two, strict=True)):
            assert_equal(*pair, f"{where}[{number}]")
    else:
        assert one == two, where


def assert_same_run(one: Path, two: Path) -> None:
    assert_equal(state(one), state(two))
    for name in ("last.pth", "best.pth"):
        networks = [torch.load(p / name, weights_only=True)["state_dict"] for p in (one, two)]
        assert_equal(*networks, name)
    assert json.loads((one / "log.json").read_text()) == json.loads((two / "log.json").read_text())


def test_a_run_killed_at_random_moments_is_identical(tmp_path: Path) -> None:
    settings = ["iterations=100000", "validate_every=25", "save_every=2", "ema=0.99"]
    settings = [*TINY_RUN, *settings]
    recipe = load_recipe("synthetic-demo", settings)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    line = ["--recipe", "synthetic-demo", "--out", str(killed), "--resume", *settings]
    moments = random.Random(7)
    saved = killed / "state.pth"
    reached = []
    for _ in range(KILLS):
        before = saved.stat().st_mtime_ns if saved.exists() else 0
        process = FORKED.Process(target=train_command, args=(line, Path(os.devnull)))
        process.start()
        if moments.random() < 0.75:  # others are killed before they save
            deadline = time.monotonic() + 60
            while not saved.exists() or saved.stat().st_mtime_ns == before:
                assert time.monotonic() < deadline, "no state was saved within a minute"
                time.sleep(0.005)
        process.join(moments.uniform(0, 0.5))
        assert process.is_alive(), f"exited with status {process.exitcode}"
        process.kill()
        process.join()
        reached.append(state(killed)["progressed"]["iteration"] if saved.exists() else 0)
    assert reached == sorted(reached), f"a kill lost progress: {reached}"
    assert len(set(reached)) > KILLS // 2, f"the kills cover too few states: {reached}"
    end = reached[-1] + 3
    train(recipe, killed, max_iters=end, resume=True)
    train(recipe, whole, max_iters=end)
    assert_same_run(whole, killed)


def test_a_run_killed_in_its_last_validation_is_identical(tmp_path: Path) -> None:
    recipe = load_recipe("synthetic-demo", TINY_RUN)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for out in (whole, killed):
        train(recipe, out)
    saved = torch.load(killed / "state.pth", weights_only=True)
    saved["progressed"]["log"].pop()  # the state is saved before a validation and after it
    torch.save(saved, killed / "state.pth")
    train(recipe, killed, resume=True)
    assert_same_run(whole, killed)


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(["accumulate=2", "batch_size=4"], id="accumulation"),
        pytest.param(["precision=bf16", "ema=0.9", "schedule=constant"], id="bf16"),
        pytest.param(
            [
                *("gan.start=2", "gan.feature_weight=0", "gan.critic_updates=2"),
                *("gan.loss=relativistic", "gan.critic_feature_weight=1"),
                "gan.consistency_weight=1",
            ],
            id="adversarial",
        ),
    ],
)
def test_a_resumed_run_is_identical_to_an_uninterrupted_one(
    tmp_path: Path, settings: list[str]
) -> None:
    recipe = load_recipe("synthetic-demo", [*TINY_RUN, *settings])
    train(recipe, tmp_path / "whole")
    train(recipe, tmp_path / "stopped", max_iters=3)
    train(recipe, tmp_path / "stopped", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")


@contextlib.contextmanager
def stopped_at_last(process: subprocess.Popen[str]) -> Iterator[None]:
    """Kill the process in the end if it still runs, so that a failure is that of one test."""
    with process:
        try:
            yield
        finally:
            process.kill()


def ignores_sigterm(process: str) -> bool:
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:  # it has ended
        return False
    (mask,) = re.findall(r"^SigIgn:\s*(\w+)$", status, re.MULTILINE)
    return bool(int(mask, 16) >> (signal.SIGTERM - 1) & 1)


@pytest.mark.parametrize("whole_group", [False, True])
def test_sigterm_saves_the_state_and_exits(
    tmp_path: Path, whole_group: bool, faces: tuple[Any, Any]
) -> None:
    """Sent to the process only, or to its group, as `timeout`, systemd and Slurm do."""
    out, data = tmp_path / "run", tmp_path / "data"
    data.mkdir()
    for i in range(4):
        Image.fromarray(faces[0][i]).save(data / f"{i}.png")
        (data / f"{i}.pts").write_bytes(encode_pts(faces[1][i]))
    no_data = [setting for setting in TINY_RUN if not setting.startswith("data.")]
    settings = [f"data.train={data}", f"data.validation={data}", "data.workers=2"]
    settings += [*no_data, "iterations=100000", "save_every=100000", "validate_every=100000"]
    command = [sys.executable, "-m", "train", "--recipe", "synthetic-demo", "--out", str(out)]
    running = subprocess.Popen(
        [*command, *settings], stderr=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True
    )
    children = Path(f"/proc/{running.pid}/task/{running.pid}/children")
    with stopped_at_last(running):
        deadline = time.monotonic() + 240
        # The workers of the first iteration exist, and know that the signal is not for them.
        while sum(map(ignores_sigterm, children.read_text().split())) < 2:
            assert time.monotonic() < deadline, "no iteration began within four minutes"
            time.sleep(0.05)
        if whole_group:
            os.killpg(running.pid, signal.SIGTERM)
        running.send_signal(signal.SIGTERM)
        _, said = running.communicate(timeout=60)
    assert running.returncode == 128 + signal.SIGTERM, said
    assert "continue with --resume" in said
    assert "Traceback" not in said
    assert state(out)["progressed"]["iteration"] >= 0


def test_resume_without_a_recipe_uses_that_of_the_run(here: Command, tmp_path: Path) -> None:
    recipe = load_recipe("synthetic-demo", TINY_RUN)
    train(recipe, tmp_path, max_iters=3)
    done = here("train", "--resume", "--out", tmp_path, "iterations=7")
    assert done.returncode == 0, done.stderr
    assert state(tmp_path)["progressed"]["iteration"] == 7
    again = here("train", "--resume", "--out", tmp_path)
    assert again.returncode == 0
    assert "nothing to do: all 7 iterations are done" in again.stderr


def test_initial_checkpoints_are_not_needed_to_resume(tmp_path: Path) -> None:
    train(load_recipe("synthetic-demo", TINY_RUN), tmp_path / "first", max_iters=1)
    begun = tmp_path / "first" / "last.pth"
    recipe = load_recipe("synthetic-demo", [*TINY_RUN, f"start={begun}"])
    train(recipe, tmp_path / "second", max_iters=2)
    begun.unlink()
    train(recipe, tmp_path / "second", resume=True)
    with pytest.raises(UserError, match=r"No such file.*\(set start=FILE"):
        train(recipe, tmp_path / "third")


def test_resuming_another_run_is_refused(tmp_path: Path) -> None:
    recipe = load_recipe("synthetic-demo", TINY_RUN)
    train(recipe, tmp_path, max_iters=1)
    with pytest.raises(UserError, match=r"network.channels was 4, not 8"):
        train(replace(recipe, network=replace(recipe.network, channels=8)), tmp_path, resume=True)
    with pytest.raises(UserError, match=r"learning_rate was 0\.002, not 0\.1"):
        train(replace(recipe, learning_rate=0.1), tmp_path, resume=True)


def test_a_damaged_state_is_refused_in_one_line(here: Command, tmp_path: Path) -> None:
    recipe = load_recipe("synthetic-demo", TINY_RUN)
    train(recipe, tmp_path, max_iters=1)
    whole = (tmp_path / "state.pth").read_bytes()
    (tmp_path / "state.pth").write_bytes(whole[: len(whole) // 2])
    assert "state.pth" in one_line_error(here("train", "--resume", "--out", tmp_path), 2)
    torch.save({"format": "something else"}, tmp_path / "state.pth")
    assert "not a training state" in one_line_error(here("train", "--resume", "--out", tmp_path), 2)
    missing = here("train", "--resume", "--out", tmp_path / "nowhere")
    assert "nowhere: contains no run to resume" in one_line_error(missing, 2)


def test_a_full_disk_stops_the_run_and_keeps_the_saved_state(tmp_path: Path) -> None:
    """Simulated by a limit on the file size, so that a write fails midway."""
    recipe = load_recipe("synthetic-demo", TINY_RUN)
    out = tmp_path / "run"
    train(recipe, out, max_iters=3)
    before = state(out)
    size = (out / "state.pth").stat().st_size
    line, errors = ["--resume", "--out", str(out)], tmp_path / "errors"
    process = FORKED.Process(target=train_command, args=(line, errors, {}, size // 2))
    process.start()
    process.join(120)
    done = subprocess.CompletedProcess(line, process.exitcode or 0, "", errors.read_text())
    assert "cannot be written: File too large" in one_line_error(done, 2)
    assert_equal(before, state(out))
    assert not [path.name for path in out.iterdir() if path.name.startswith(".")]
    (out / ".state.pth.0123abcd").touch()  # as a kill leaves it
    train(recipe, out, resume=True)
    assert not list(out.glob(".*"))
    train(recipe, tmp_path / "whole")
    assert_same_run(tmp_path / "whole", out)


@pytest.mark.parametrize("settings", [[], ["gan.feature_weight=0"]], ids=["dic", "critic"])
def test_nan_weights_are_not_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: list[str]
) -> None:
    """An update may produce NaN weights although its own loss is finite."""
    recipe = load_recipe("synthetic-demo", [*TINY_RUN, *settings])
    train(recipe, tmp_path, max_iters=3)
    before = state(tmp_path)

    def breaking(one: State, parts: list[Any]) -> dict[str, float]:
        found = update(one, parts)
        if one.progress.iteration == 5:
            player = one.critic or one.generator
            next(player.network.parameters()).data.fill_(math.nan)
        return found

    monkeypatch.setattr("train.loop.training.update", breaking)
    with pytest.raises(UserError, match="a weight is NaN or infinite at iteration 6"):
        train(recipe, tmp_path, resume=True)
    assert_equal(before, state(tmp_path))
