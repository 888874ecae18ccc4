"""The training loop: updates, validation, checkpoints, and orderly termination."""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from dic.console import UserError
from dic.cores import cores
from dic.files import remove_partial_files
from dic.outputs import refuse_inputs
from dic.progress import Progress
from train.data.datasets import load_data
from train.data.pairs import Batches, FacePairs
from train.loop.processes import (
    Signals,
    agree,
    ignore_signals,
    launch,
    on_first_process,
    watch_signals,
)
from train.loop.state import State, restore, save, start
from train.loop.validation import validate
from train.model.light_cnn import LightCNNCritic
from train.model.losses import (
    alignment_loss,
    consistency_loss,
    critic_loss,
    feature_loss,
    feature_matching_loss,
    generator_loss,
    pixel_loss,
    ssim_loss,
)
from train.recipe import Recipe
from train.reports.report import Report

STATE = "state.pth"
FILES = (STATE, "last.pth", "best.pth", "log.json", "faces.png")  # of a run's folder
# The gradient scaler of fp16 starts at 65,536 and halves its scale whenever a gradient is infinite,
# skipping that update. Below this scale, so many updates were skipped that training has stalled.
MIN_LOSS_SCALE = 1e-3


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        last: the last checkpoint, or the state file of a run that was stopped.
        iterations: total number of updates of the run.
        updates: number of updates in this call.
        stopped: the signal that stopped the run early, if any.
    """

    last: Path
    iterations: int
    updates: int
    stopped: int | None = None


def train(recipe: Recipe, out: Path, max_iters: int | None = None, resume: bool = False) -> Outcome:
    """Run a recipe on the first GPU, or on the CPU, or on the processes started by `torchrun`.

    Every validation writes `last.pth` and `best.pth` (the networks), `log.json`, `faces.png` and
    TensorBoard events. `state.pth` is written every `save_every` iterations, before validations
    and at the end.

    Args:
        out: folder of the run; unless `resume`, it must not contain a run.
        max_iters: stop after this many iterations; the recipe's schedule is unaffected.
        resume: continue the run in `out`, or start one if there is none.

    Raises:
        UserError: a loss becomes NaN or infinite, the data cannot be read, a file cannot be
            written, or the run in `out` was started with another recipe or other faces.
    """
    fabric = launch(recipe)
    exists = (out / STATE).exists()
    if not resume and (exists or (out / "last.pth").exists()):
        raise UserError(
            f"{out}: contains a run already; continue it with --resume, or choose another --out"
        )
    state = start(recipe, fabric, resumed=exists)
    restore(out / STATE, state)
    training, validation = load_data(recipe.data, recipe.network.landmarks)
    _check_same_faces(training.fingerprint(), state, out)
    pairs = FacePairs.training(training, recipe)
    checks = FacePairs(validation)
    fabric.barrier()  # nothing is written before all processes have opened their data
    if fabric.is_global_zero:
        remove_partial_files(out / name for name in FILES)  # of a run that was killed
    final = min(recipe.iterations, max_iters or recipe.iterations)
    with Report(out, state) as report, watch_signals() as signals:
        return _run(state, report, pairs, checks, final, signals)


def check_run(recipe: Recipe, sources: Sequence[Path], out: Path) -> None:
    """Check that a run writes over nothing that it reads.

    Args:
        sources: the recipe's file, if it has one.
        out: the folder of the run.

    Raises:
        UserError: it would, or the folder is within that of the faces, which is read with all
            folders in it.
    """
    data, gan = recipe.data, recipe.gan
    read = [recipe.start, recipe.start_hourglass, gan.feature_checkpoint if gan else ""]
    if data.kind == "files":
        read += [data.landmarks, data.validation_landmarks]
        for folder in map(Path, (data.train, data.validation)):
            if folder.is_dir() and out.resolve().is_relative_to(folder.resolve()):
                raise UserError(f"{out}: is within {folder}, which is read; choose another --out")
    refuse_inputs((out / name for name in FILES), (*sources, *map(Path, filter(None, read))))


def _check_same_faces(fingerprint: str, state: State, out: Path) -> None:
    progress = state.progress
    if progress.faces not in ("", fingerprint):
        raise UserError(
            f"{out}: was started with {progress.faces}, but now there are {fingerprint}; restore "
            "the data, or start another run from last.pth (start=…)"
        )
    progress.faces = fingerprint


def _run(
    state: State,
    report: Report,
    pairs: FacePairs,
    checks: FacePairs,
    final: int,
    signals: Signals,
) -> Outcome:
    """Update, validate and save until iteration `final` or a signal."""
    recipe, fabric, progress = state.recipe, state.fabric, state.progress
    first, saved = progress.iteration, len(progress.log)
    started = time.monotonic() - progress.seconds
    with (
        closing(examples(state, pairs)) as batches,
        report.bar(progress.iteration, final) as bar,
    ):
        while True:
            if _validation_due(state, final):
                result = validate(fabric, state.best_network, checks, progress.iteration)
                progress.log.append(result)
                on_first_process(fabric, partial(report.validated, result, checks, bar))
            if progress.iteration >= final:
                break
            parts = [next(batches) for _ in range(recipe.accumulate)]
            losses = update(state, parts)
            progress.iteration += 1
            progress.seconds = time.monotonic() - started
            _count_skipped(state, parts, bar)
            diverged = not math.isfinite(sum(losses.values()))
            stop, diverged = agree(fabric, signals.received, diverged)
            if diverged:
                raise UserError(_divergence_message(losses, state, report.out))
            report.update(losses, bar)
            # Also before a validation, because that may take longer than the grace period between
            # SIGTERM and SIGKILL.
            due = _validation_due(state, final)
            if stop or due or progress.iteration % recipe.save_every == 0:
                _check_health(state)
                on_first_process(fabric, partial(save, report.out / STATE, state))
            if stop:
                return Outcome(
                    report.out / STATE, progress.iteration, progress.iteration - first, stop
                )
    updates = progress.iteration - first
    if updates or len(progress.log) > saved:  # or killed before the last validation was saved
        on_first_process(fabric, partial(save, report.out / STATE, state))
    return Outcome(report.out / "last.pth", progress.iteration, updates)


def _validation_due(state: State, final: int) -> bool:
    iteration, log = state.progress.iteration, state.progress.log
    planned = iteration % state.recipe.validate_every == 0 or iteration >= final
    return iteration > 0 and planned and not (log and log[-1].iteration == iteration)


def update(state: State, parts: list[Any]) -> dict[str, float]:
    """Perform one iteration: update the generator and, with a GAN, the critic.

    Args:
        parts: the micro-batches of this process, whose gradients are accumulated.

    Returns:
        the unweighted losses, averaged over the micro-batches of this process.
    """
    recipe, fabric, generator = state.recipe, state.fabric, state.generator
    iteration = state.progress.iteration
    factor = rate(iteration, recipe)
    adversarial = recipe.gan is not None and iteration >= recipe.gan.start
    losses: dict[str, float] = {}
    fakes: list[Tensor] = []
    generator.set_rate(factor)
    generator.optimizer.zero_grad()
    for number, pair in enumerate(parts, start=1):
        accumulating = number < len(parts)  # gradients are exchanged after the last micro-batch
        with fabric.no_backward_sync(generator.model, enabled=accumulating):
            steps = generator.model(pair["lq"])
            terms = {
                "pixel": (recipe.pixel_weight, pixel_loss(steps, pair["gt"], recipe.pixel_loss)),
                "align": (
                    recipe.align_weight,
                    alignment_loss(steps, pair["heatmaps"], recipe.peak_weight),
                ),
            }
            if recipe.ssim_weight:
                terms["ssim"] = (recipe.ssim_weight, ssim_loss(steps.sr[-1], pair["gt"]))
            if adversarial:
                terms |= adversarial_terms(state, steps.sr[-1], pair["gt"])
                fakes.append(steps.sr[-1].detach())
            total = torch.stack([weight * term for weight, term in terms.values()]).sum()
            fabric.backward(total / len(parts))
        for name, (_, term) in terms.items():
            losses[name] = losses.get(name, 0.0) + term.item() / len(parts)
    if iteration < recipe.freeze_hourglass:
        # The gradients are only discarded here: they must flow through the hourglass.
        for parameter in state.network.hour_glass.parameters():
            parameter.grad = None
    generator.optimizer.step()
    if state.ema is not None:
        state.ema.update_parameters(state.network)
    if adversarial:
        losses["critic"] = _update_critic(state, [pair["gt"] for pair in parts], fakes, factor)
    return losses


def adversarial_terms(state: State, sr: Tensor, gt: Tensor) -> dict[str, tuple[float, Tensor]]:
    """Compute the feature and adversarial losses of the last step's faces.

    Args:
        sr, gt: (B, 3, 128, 128), normalised.

    Returns:
        (weight, loss) by name.
    """
    gan, critic = state.recipe.gan, state.critic
    assert gan is not None
    assert critic is not None
    terms: dict[str, tuple[float, Tensor]] = {}
    with state.fabric.autocast():
        if state.features is not None:
            terms["feature"] = (gan.feature_weight, feature_loss(state.features, sr, gt))
        # The unwrapped network with frozen weights: the critic gets no gradients here, and nothing
        # is exchanged between processes.
        network = critic.network
        assert isinstance(network, LightCNNCritic)
        network.requires_grad_(False)
        logits, features = network.judge(sr)
        real: Tensor | None = None
        real_features: list[Tensor] = []
        if gan.loss == "relativistic" or gan.critic_feature_weight:
            with torch.no_grad():
                real, real_features = network.judge(gt)
        network.requires_grad_(True)
    if gan.critic_feature_weight:
        matching = feature_matching_loss(real_features, features)
        terms["critic feature"] = (gan.critic_feature_weight, matching)
    if gan.consistency_weight:
        terms["consistency"] = (gan.consistency_weight, consistency_loss(sr, gt))
    terms["adversarial"] = (gan.adversarial_weight, generator_loss(gan.loss, logits, real))
    return terms


def _update_critic(state: State, reals: list[Tensor], fakes: list[Tensor], factor: float) -> float:
    """Update the critic on real and restored faces, and return its mean loss.

    Args:
        reals, fakes: micro-batches (B, 3, 128, 128), normalised.
        factor: on the critic's peak learning rate.
    """
    gan, critic, fabric = state.recipe.gan, state.critic, state.fabric
    assert gan is not None
    assert critic is not None
    critic.set_rate(factor)
    losses = []
    for _ in range(gan.critic_updates):
        critic.optimizer.zero_grad()
        for number, (real, fake) in enumerate(zip(reals, fakes, strict=True), start=1):
            accumulating = number < len(reals)
            with fabric.no_backward_sync(critic.model, enabled=accumulating):
                logits = critic.model(torch.cat((real, fake)))
                loss = critic_loss(gan.loss, *logits.chunk(2))
                fabric.backward(loss / len(reals))
            losses.append(loss.item())
        critic.optimizer.step()
    return sum(losses) / len(losses)


def rate(iteration: int, recipe: Recipe) -> float:
    """Return the factor on the peak learning rates, 0..1, for the update after `iteration` ones."""
    length = recipe.iterations / recipe.cycles
    place = iteration - length * min(iteration // length, recipe.cycles - 1)
    rise = recipe.warmup * length
    if place < rise:
        return (place + 1) / (rise + 1)
    if recipe.schedule == "cosine":
        share = (place - rise) / max(1.0, length - rise)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, share)))
    if recipe.schedule == "milestones":
        passed = sum(iteration >= milestone for milestone in recipe.milestones)
        return float(recipe.gamma**passed)
    return 1.0


def examples(state: State, pairs: FacePairs) -> Generator[dict[str, Any]]:
    """Yield the micro-batches of this process without end, from the current iteration on.

    Each update takes `accumulate` of them. The tensors of a `Pair` are on the process's device.

    Raises:
        UserError: too many faces in a row cannot be read.
    """
    recipe, fabric = state.recipe, state.fabric
    batches = Batches(
        len(pairs),
        recipe.batch_size,
        recipe.seed,
        start=state.progress.iteration,
        rank=fabric.global_rank,
        world=fabric.world_size,
        parts=recipe.accumulate,
    )
    workers = min(recipe.data.workers, cores())
    loader = DataLoader(
        pairs,
        batch_sampler=batches,
        num_workers=workers,
        pin_memory=fabric.device.type == "cuda",
        generator=torch.Generator(),  # by default, each start would draw from the global generator
        worker_init_fn=ignore_signals,
    )
    batches_iterator: Any = iter(loader)
    try:
        while True:
            try:
                example: dict[str, Any] = next(batches_iterator)
            except UserError as error:
                # PyTorch re-raises a worker's error with its traceback as text, the message last.
                message = str(error).strip().splitlines()[-1]
                raise UserError(message.split("UserError: ", 1)[-1]) from error
            skipped = example.pop("skipped")
            moved = {n: t.to(fabric.device, non_blocking=True) for n, t in example.items()}
            yield moved | {"skipped": skipped}
    finally:
        # Python would end the workers with SIGTERM at exit and wait, but they ignore SIGTERM.
        if workers:
            batches_iterator._shutdown_workers()


def _count_skipped(state: State, parts: list[Any], bar: Progress) -> None:
    for line in "\n".join(text for part in parts for text in part["skipped"]).split("\n"):
        if line:
            state.progress.skipped += 1
            bar.say(f"skipped {line}; {state.progress.skipped} so far")


def _divergence_message(losses: dict[str, float], state: State, out: Path) -> str:
    values = ", ".join(f"{name} {value:g}" for name, value in losses.items())
    saved = f"the last state is in {out / STATE}" if (out / STATE).exists() else "no state is saved"
    return (
        f"a loss is NaN or infinite ({values}) at iteration {state.progress.iteration}; lower "
        f"learning_rate (now {state.recipe.learning_rate:g}); {saved}"
    )


def _check_health(state: State) -> None:
    """Check that the weights are finite before they are saved, and that fp16 has not stalled.

    A run cannot recover from NaN weights, so they must not replace the last good state.
    """
    networks = [state.generator.network, *([state.critic.network] if state.critic else [])]
    if not all(p.isfinite().all() for network in networks for p in network.parameters()):
        raise UserError(
            f"a weight is NaN or infinite at iteration {state.progress.iteration}; lower "
            f"learning_rate (now {state.recipe.learning_rate:g}); the last saved state is unchanged"
        )
    scaler = getattr(state.fabric.strategy.precision, "scaler", None)
    if scaler is not None and scaler.get_scale() < MIN_LOSS_SCALE:
        raise UserError(
            f"fp16 gradients overflow in almost every update before iteration "
            f"{state.progress.iteration}; set precision=bf16"
        )
