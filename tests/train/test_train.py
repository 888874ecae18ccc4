"""Training runs."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import DATA, TINY_RUN, Command, one_line_error
from PIL import Image

from dic.console import UserError
from dic.metrics import psnr
from train.checkpoint import load_checkpoint
from train.data.pairs import denormalise, normalise, shrink
from train.loop.processes import explain_errors
from train.loop.training import rate, train
from train.metrics import nme, ssim
from train.recipe import load_recipe, shipped_recipes


def test_a_run_writes_all_files(tmp_path: Path) -> None:
    recipe = load_recipe("synthetic-demo", TINY_RUN)
    last = train(recipe, tmp_path / "run").last
    assert last == tmp_path / "run" / "last.pth"
    loaded = load_checkpoint(last)
    assert loaded.network.config.channels == 4
    assert loaded.provenance["iteration"] == 6
    assert loaded.provenance["recipe"]["name"] == "synthetic-demo"
    log = json.loads((tmp_path / "run" / "log.json").read_text())
    assert [entry["iteration"] for entry in log] == [3, 6]
    assert all(len(entry["psnr"]) == 2 for entry in log)
    with pytest.raises(UserError, match="contains a run already"):
        train(recipe, tmp_path / "run")
    names = sorted(path.name for path in (tmp_path / "run").iterdir())
    wanted = ["best.pth", "faces.png", "last.pth", "log.json", "state.pth", "tensorboard"]
    assert names == wanted


def test_tensorboard_reads_the_curves_of_a_resumed_run_as_one(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recipe = load_recipe("synthetic-demo", [*TINY_RUN, "log_every=1", "save_every=3"])
    train(recipe, tmp_path, max_iters=5)
    (tmp_path / "state.pth").unlink()  # so that iterations 4 and 5 are repeated
    train(recipe, tmp_path / "again", max_iters=3)
    (tmp_path / "again" / "state.pth").rename(tmp_path / "state.pth")
    train(recipe, tmp_path, resume=True)
    curves = EventAccumulator(str(tmp_path / "tensorboard"))
    curves.Reload()
    for name in ("loss/pixel", "loss/align", "learning_rate"):
        assert [point.step for point in curves.Scalars(name)] == [1, 2, 3, 4, 5, 6]
    assert [point.step for point in curves.Scalars("validation/psnr_step_2")] == [3, 6]
    log = json.loads((tmp_path / "log.json").read_text())
    last = curves.Scalars("validation/nme_step_1")[-1].value
    assert last == pytest.approx(log[-1]["nme"][0])
    picture = Image.open(io.BytesIO(curves.Images("faces")[-1].encoded_image_string))
    assert picture.size == (6 * 128, 4 * 128 + 16)


def test_training_continues_if_tensorboard_events_cannot_be_written(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tensorboard").write_text("in the way")
    train(load_recipe("synthetic-demo", TINY_RUN), tmp_path)
    assert "training continues without TensorBoard events" in capfd.readouterr().err


def test_errors_of_the_machine_become_user_errors() -> None:
    cases = [
        (False, torch.OutOfMemoryError("CUDA out of memory"), "lower batch_size"),
        (False, RuntimeError("DataLoader worker (pid 7) is killed"), "lower data.workers"),
        (False, RuntimeError("[enforce fail] can't allocate memory: 7 bytes"), "out of memory"),
        (True, UnboundLocalError("cannot access 'buf139'"), "compile=true fails"),
        (True, RuntimeError("no C++ compiler"), "compile=true fails"),
        (True, UserError("as it is"), "as it is"),
    ]
    for compiled, error, why in cases:
        with pytest.raises(UserError, match=why), explain_errors(compiled):
            raise error
    with pytest.raises(ZeroDivisionError), explain_errors(False):
        raise ZeroDivisionError  # a bug must keep its traceback


def test_learning_rates_by_hand() -> None:
    def rates(*settings: str) -> list[float]:
        recipe = load_recipe("synthetic-demo", ["iterations=8", "warmup=0", *settings])
        return [rate(iteration, recipe) for iteration in range(9)]

    assert rates("schedule=constant") == [1.0] * 9
    assert rates("schedule=milestones", "milestones=[2, 5]", "gamma=0.1") == pytest.approx(
        [1, 1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01, 0.01]
    )
    cosine = rates("schedule=cosine")
    assert cosine[0] == 1
    assert cosine[4] == pytest.approx(0.5)
    assert cosine[8] == pytest.approx(0)
    twice = rates("schedule=cosine", "cycles=2")
    assert twice[:4] == twice[4:8] == pytest.approx(cosine[:8:2])
    assert twice[8] == pytest.approx(0)
    with pytest.raises(UserError, match="cycles must be 1"):
        rates("schedule=milestones", "milestones=[2]", "cycles=2")
    assert rates("schedule=constant", "warmup=0.5")[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1])


def test_the_same_seed_trains_the_same_network(tmp_path: Path) -> None:
    recipe = load_recipe("synthetic-demo", [*TINY_RUN, "iterations=2"])
    one, two = (load_checkpoint(train(recipe, tmp_path / name).last).network for name in "ab")
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(a, b)


def test_stopping_early_follows_the_same_schedule(tmp_path: Path) -> None:
    recipe = load_recipe("synthetic-demo", TINY_RUN)
    train(recipe, tmp_path / "whole")
    train(recipe, tmp_path / "early", max_iters=3)
    logs = [json.loads((tmp_path / name / "log.json").read_text()) for name in ("whole", "early")]
    assert logs[1] == logs[0][:1]


def test_a_nan_loss_stops_the_run(tmp_path: Path) -> None:
    recipe = load_recipe("synthetic-demo", [*TINY_RUN, "learning_rate=1e30", "iterations=50"])
    with pytest.raises(UserError, match="lower learning_rate"):
        train(recipe, tmp_path)


def test_shipped_recipes_load_and_have_a_description() -> None:
    assert "synthetic-demo" in shipped_recipes()
    for name in shipped_recipes():
        assert load_recipe(name).about


@pytest.mark.parametrize(
    ("override", "why"),
    [
        ("batchsize=3", "unknown field 'batchsize'; did you mean 'batch_size'?"),
        ("network.chanels=3", "unknown field 'network.chanels'; did you mean 'network.channels'?"),
        ("data.trian=x", "unknown field 'data.trian'; did you mean 'data.train'?"),
        ("gan.los=hinge", "unknown field 'gan.los'; did you mean 'gan.loss'?"),
        (
            "gan.loss=wgan",
            "gan.loss: input should be 'vanilla', 'lsgan', 'hinge' or 'relativistic'",
        ),
        ("gan.loss=hinge", "gan.feature_checkpoint is missing"),
        ("data.kind=files", "data.train is missing; set data.train=FOLDER"),
        ("data.kind=web", "'synthetic', 'files'"),
        ("accumulate=3", "batch_size 4 is not a multiple of accumulate 3"),
        ("schedule=milestones", "needs milestones"),
        ("precision=fp8", "precision: input should be 'fp32', 'bf16' or 'fp16'"),
        ("batch_size=many", "batch_size: input should be a valid integer"),
        ("batch_size=0", "batch_size: input should be greater than or equal to 1"),
        ("network.landmarks=67", "no facial components are defined for 67"),
        ("iterations", "not of the form key=value"),
        ("seed=-1", "seed: input should be greater than or equal to 0"),
        ("data.count=100000000000", "data.count: input should be less than or equal"),
        ("network.channels=1000000", "channels must be at most 1024"),
        ("network.projection=1000000", "projection must be at most 16"),
        ("network.steps=65", "steps must be at most 64"),
        ("learning_rate=inf", "learning_rate: input should be a finite number"),
        ("gamma=inf", "gamma: input should be a finite number"),
        ("network.landmarks=194", "must be 68"),
        ("batch_size.x=1", "has no fields"),
    ],
)
def test_recipe_errors_name_the_field(override: str, why: str) -> None:
    with pytest.raises(UserError) as caught:
        load_recipe("synthetic-demo", [override])
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)


def test_command_errors_are_one_line(here: Command, tmp_path: Path) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text("about = [")
    (tmp_path / "file").write_text("")
    cases = [
        ([], "--recipe"),
        (["--recipe", "no-such"], "no recipe 'no-such'"),
        (["--recipe", broken], "not a TOML file"),
        (["--recipe", "synthetic-demo", "--max-iters", "0"], "--max-iters"),
        (["--recipe", "synthetic-demo", "bachsize=1"], "batch_size"),
        (["--recipe", "synthetic-demo", "--out", tmp_path / "file" / "x", *TINY_RUN], "file"),
    ]
    for arguments, why in cases:
        assert why in one_line_error(here("train", *arguments), 2)


def test_shrinking_uses_pillows_bicubic(faces: tuple[np.ndarray, np.ndarray]) -> None:
    image = faces[0][0]
    expected = np.asarray(Image.fromarray(image).resize((16, 16), Image.BICUBIC))
    np.testing.assert_array_equal(shrink(image), expected)


def test_denormalising_inverts_normalising() -> None:
    image = np.arange(256 * 3, dtype=np.uint8).reshape(16, 16, 3)
    np.testing.assert_array_equal(denormalise(normalise(image)), image)
    white = normalise(np.full((1, 1, 3), 255, np.uint8)).ravel()
    np.testing.assert_allclose(white, [1 - 0.509, 1 - 0.424, 1 - 0.378], atol=1e-6)


def test_metrics_equal_the_released_evaluation() -> None:
    example = np.load(DATA / "metrics_example.npz")
    assert psnr(example["pred"], example["gt"]) == pytest.approx(float(example["psnr"]), abs=1e-6)
    assert ssim(example["pred"], example["gt"]) == pytest.approx(float(example["ssim"]), abs=1e-6)
    assert math.isinf(psnr(example["gt"], example["gt"]))


def test_nme_by_hand() -> None:
    gt = np.zeros((1, 68, 2))
    gt[0, 45] = 50, 0  # 50 pixels from point 36
    assert nme(gt + [3, 4], gt) == pytest.approx(0.1)
