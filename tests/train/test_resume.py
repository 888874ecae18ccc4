"""Nothing is lost: a run that was killed goes on and ends as the uninterrupted one, to the bit."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, TINY_RUN, Command, one_line_error
from PIL import Image

from dic.console import UserError
from train.data.annotations import encode_pts
from train.loop.state import State
from train.loop.training import train, update
from train.recipe import Recipe, load_recipe

KILLS = 20


def quiet_train(recipe: Recipe, out: Path, resume: bool) -> None:
    with Path(os.devnull).open("w") as sys.stderr:
        train(recipe, out, resume=resume)


def state(out: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(out / "state.pth", weights_only=True)
    content["progressed"].pop("seconds")
    return content


def assert_equal(one: Any, two: Any, where: str = "") -> None:
    """Equal to the last bit, through all nesting."""
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


def test_kills_at_random_moments_lose_nothing(tmp_path: Path) -> None:
    settings = ["iterations=100000", "validate_every=25", "save_every=2", "ema=0.99"]
    recipe = load_recipe("synthetic-demo", [*TINY_RUN, *settings])
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    # A server that has imported everything: its children start in milliseconds, as fresh
    # processes would in seconds.
    context = get_context("forkserver")
    context.set_forkserver_preload(["train.loop.training", "torch.utils.tensorboard"])
    moments = random.Random(7)
    saved = killed / "state.pth"
    reached = []
    for _ in range(KILLS):
        before = saved.stat().st_mtime_ns if saved.exists() else 0
        life = context.Process(target=quiet_train, args=(recipe, killed, True))
        life.start()
        if moments.random() < 0.75:  # others die young, before anything new is saved
            deadline = time.monotonic() + 60
            while not saved.exists() or saved.stat().st_mtime_ns == before:
                assert time.monotonic() < deadline, "a life of a minute saved nothing"
                time.sleep(0.005)
        life.join(moments.uniform(0, 0.5))
        assert life.is_alive(), f"ended by itself with status {life.exitcode}"
        life.kill()
        life.join()
        reached.append(state(killed)["progressed"]["iteration"] if saved.exists() else 0)
    assert reached == sorted(reached), f"a kill took back what was done: {reached}"
    assert len(set(reached)) > KILLS // 2, f"the kills met too few states: {reached}"
    end = reached[-1] + 3
    train(recipe, killed, max_iters=end, resume=True)
    train(recipe, whole, max_iters=end)
    assert_same_run(whole, killed)


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(["accumulate=2", "batch_size=4"], id="accumulation"),
        pytest.param(["precision=bf16", "ema=0.9", "schedule=constant"], id="bf16"),
        pytest.param(
            ["gan.start=2", "gan.feature_weight=0", "gan.critic_updates=2"], id="adversarial"
        ),
    ],
)
def test_a_stop_and_a_resume_change_nothing(tmp_path: Path, settings: list[str]) -> None:
    recipe = load_recipe("synthetic-demo", [*TINY_RUN, *settings])
    train(recipe, tmp_path / "whole")
    train(recipe, tmp_path / "stopped", max_iters=3)
    train(recipe, tmp_path / "stopped", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")


@pytest.mark.parametrize("whole_group", [False, True])
def test_sigterm_saves_and_leaves(
    tmp_path: Path, whole_group: bool, faces: tuple[Any, Any]
) -> None:
    """To the process alone, or as `timeout`, systemd and Slurm do to its data workers as well."""
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
    deadline = time.monotonic() + 120
    while not (out / "log.json").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(3)
    if whole_group:
        os.killpg(running.pid, signal.SIGTERM)
    running.send_signal(signal.SIGTERM)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 128 + signal.SIGTERM, said
    assert "continue with --resume" in said
    assert "Traceback" not in said
    assert state(out)["progressed"]["iteration"] > 0


def test_resume_without_a_recipe_takes_the_runs_own(command: Command, tmp_path: Path) -> None:
    recipe = load_recipe("synthetic-demo", TINY_RUN)
    train(recipe, tmp_path, max_iters=3)
    done = command("train", "--resume", "--out", tmp_path, "iterations=7")
    assert done.returncode == 0, done.stderr
    assert state(tmp_path)["progressed"]["iteration"] == 7
    again = command("train", "--resume", "--out", tmp_path)
    assert again.returncode == 0
    assert "nothing to do: all 7 iterations are done" in again.stderr


def test_what_a_run_began_with_is_not_needed_to_go_on(tmp_path: Path) -> None:
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


def test_a_damaged_state_is_refused_in_one_line(command: Command, tmp_path: Path) -> None:
    recipe = load_recipe("synthetic-demo", TINY_RUN)
    train(recipe, tmp_path, max_iters=1)
    whole = (tmp_path / "state.pth").read_bytes()
    (tmp_path / "state.pth").write_bytes(whole[: len(whole) // 2])
    assert "state.pth" in one_line_error(command("train", "--resume", "--out", tmp_path), 2)
    torch.save({"format": "something else"}, tmp_path / "state.pth")
    assert "not a training state" in one_line_error(
        command("train", "--resume", "--out", tmp_path), 2
    )
    missing = command("train", "--resume", "--out", tmp_path / "nowhere")
    assert "nowhere: contains no run to resume" in one_line_error(missing, 2)


def test_a_full_disk_stops_the_run_and_keeps_what_was_saved(tmp_path: Path) -> None:
    """A limit on the size of files stands in for a full disk: the write fails in the middle."""
    recipe = load_recipe("synthetic-demo", TINY_RUN)
    out = tmp_path / "run"
    train(recipe, out, max_iters=3)
    before = state(out)
    size = (out / "state.pth").stat().st_size
    limit = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({0}, {0})); "
    go_on = f"sys.argv = ['train', '--resume', '--out', {str(out)!r}]; "
    code = limit.format(size // 2) + go_on + "from train.__main__ import cli; cli()"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert "cannot be written: File too large" in one_line_error(done, 2)
    assert_equal(before, state(out))
    assert not [path.name for path in out.iterdir() if path.name.startswith(".")]
    train(recipe, out, resume=True)
    train(recipe, tmp_path / "whole")
    assert_same_run(tmp_path / "whole", out)


@pytest.mark.parametrize("settings", [[], ["gan.feature_weight=0"]], ids=["dic", "critic"])
def test_weights_that_are_no_numbers_are_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: list[str]
) -> None:
    """An update may break the weights while its own loss was fine."""
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
