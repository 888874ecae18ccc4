"""The training loop: updates, validation, checkpoints, and leaving in good order."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from dic.console import UserError
from dic.progress import Progress
from train.data.datasets import load_data
from train.data.pairs import Batches, FacePairs
from train.loop.processes import (
    Signals,
    agree,
    launch,
    leave_signals_to_the_parent,
    together,
    watch_signals,
)
from train.loop.state import State, resume, save, start
from train.loop.validation import validate
from train.model.losses import alignment_loss, critic_loss, feature_loss, generator_loss, pixel_loss
from train.recipe import Recipe
from train.reports.report import Report

STATE = "state.pth"
# fp16's scaler halves its factor at each infinite gradient and leaves the update out; it starts at
# 65,536. At this one it has left out so many in a row that nothing is learnt any more.
LEAST_SCALE = 1e-3


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        last: its last checkpoint.
        iterations: updates that the run has behind it.
        updates: how many of them are of this call.
        stopped: the signal that stopped it early, if one did.
    """

    last: Path
    iterations: int
    updates: int
    stopped: int | None = None


def train(recipe: Recipe, out: Path, max_iters: int | None = None, go_on: bool = False) -> Outcome:
    """Run a recipe: on the first GPU or the CPU, or on whatever `torchrun` gives.

    Writes `last.pth` and `best.pth` (the networks), `log.json`, `faces.png` and TensorBoard's
    events at every validation, and `state.pth` at every `save_every` and where it stops.

    Args:
        out: a folder without an earlier run, unless `go_on`.
        max_iters: stop after so many iterations; the recipe's schedule stays as it is.
        go_on: continue the run in `out`, or start one where there is none.

    Raises:
        UserError: the loss is no number any more, the data cannot be read, a file cannot be
            written, or the run in `out` is another recipe's.
    """
    fabric = launch(recipe)
    exists = (out / STATE).exists()
    if not go_on and (exists or (out / "last.pth").exists()):
        raise UserError(
            f"{out}: holds an earlier run; go on with --resume, or choose another --out"
        )
    state = start(recipe, fabric, resumed=exists)
    resume(out / STATE, state)
    training, validation = load_data(recipe.data, recipe.network.landmarks)
    _recognise(training.fingerprint(), state, out)
    pairs = FacePairs.training(training, recipe)
    checks = FacePairs(validation)
    fabric.barrier()  # before anything is written, every process has found its data
    final = min(recipe.iterations, max_iters or recipe.iterations)
    with Report(out, state) as report, watch_signals() as signals:
        return _updates(state, report, pairs, checks, final, signals)


def _recognise(fingerprint: str, state: State, out: Path) -> None:
    """See that the faces are those that the run began with."""
    progressed = state.progressed
    if progressed.faces not in ("", fingerprint):
        raise UserError(
            f"{out}: began with {progressed.faces}, and now there are {fingerprint}; bring the "
            "data back, or start another run from last.pth (start=…)"
        )
    progressed.faces = fingerprint


def _updates(
    state: State,
    report: Report,
    pairs: FacePairs,
    checks: FacePairs,
    final: int,
    signals: Signals,
) -> Outcome:
    """Everything from the first update of this process to its last."""
    recipe, fabric, progressed = state.recipe, state.fabric, state.progressed
    begun = progressed.iteration
    started = time.monotonic() - progressed.seconds
    with (
        closing(examples(state, pairs)) as batches,
        report.bar(progressed.iteration, final) as bar,
    ):
        while True:
            if _validation_due(state, final):
                result = validate(fabric, state.best_network, checks, progressed.iteration)
                progressed.log.append(result)
                together(fabric, partial(report.validated, result, checks, bar))
            if progressed.iteration >= final:
                break
            parts = [next(batches) for _ in range(recipe.accumulate)]
            found = update(state, parts)
            progressed.iteration += 1
            progressed.seconds = time.monotonic() - started
            _count_skipped(state, parts, bar)
            stop, broken = agree(fabric, signals.received, not math.isfinite(sum(found.values())))
            if broken:
                raise UserError(_broken(found, state, report.out))
            report.update(found, bar)
            # Before a validation too: it may take longer than whoever says SIGTERM waits.
            due = _validation_due(state, final)
            if stop or due or progressed.iteration % recipe.save_every == 0:
                _check_health(state)
                together(fabric, partial(save, report.out / STATE, state))
            if stop:
                return Outcome(
                    report.out / STATE, progressed.iteration, progressed.iteration - begun, stop
                )
    updates = progressed.iteration - begun
    if updates:
        together(fabric, partial(save, report.out / STATE, state))
    return Outcome(report.out / "last.pth", progressed.iteration, updates)


def _validation_due(state: State, final: int) -> bool:
    iteration, log = state.progressed.iteration, state.progressed.log
    planned = iteration % state.recipe.validate_every == 0 or iteration >= final
    return iteration > 0 and planned and not (log and log[-1].iteration == iteration)


def update(state: State, parts: list[Any]) -> dict[str, float]:
    """One iteration: an update of the network, and with a GAN of the critic too.

    Args:
        parts: the batch, in equal pieces whose gradients are summed.

    Returns:
        the losses, each unweighted, means over the pieces of this process.
    """
    recipe, fabric, generator = state.recipe, state.fabric, state.generator
    iteration = state.progressed.iteration
    factor = rate(iteration, recipe)
    adversarial = recipe.gan is not None and iteration >= recipe.gan.start
    found: dict[str, float] = {}
    fakes: list[Tensor] = []
    generator.set_rate(factor)
    generator.optimizer.zero_grad()
    for number, pair in enumerate(parts, start=1):
        waits = number < len(parts)  # gradients travel between processes with the last piece
        with fabric.no_backward_sync(generator.model, enabled=waits):
            steps = generator.model(pair["lq"])
            terms = {
                "pixel": (recipe.pixel_weight, pixel_loss(steps, pair["gt"])),
                "align": (
                    recipe.align_weight,
                    alignment_loss(steps, pair["heatmaps"], recipe.peak_weight),
                ),
            }
            if adversarial:
                terms |= adversarial_terms(state, steps.sr[-1], pair["gt"])
                fakes.append(steps.sr[-1].detach())
            total = torch.stack([weight * term for weight, term in terms.values()]).sum()
            fabric.backward(total / len(parts))
        for name, (_, term) in terms.items():
            found[name] = found.get(name, 0.0) + term.item() / len(parts)
    if iteration < recipe.freeze_hourglass:
        # Not by requires_grad: the gradient still passes through to the faces.
        for parameter in state.network.hour_glass.parameters():
            parameter.grad = None
    generator.optimizer.step()
    if state.ema is not None:
        state.ema.update_parameters(state.network)
    if adversarial:
        found["critic"] = _update_critic(state, [pair["gt"] for pair in parts], fakes, factor)
    return found


def adversarial_terms(state: State, sr: Tensor, gt: Tensor) -> dict[str, tuple[float, Tensor]]:
    """Feature and adversarial losses of the last step's faces, with their weights."""
    gan, critic = state.recipe.gan, state.critic
    assert gan is not None
    assert critic is not None
    terms: dict[str, tuple[float, Tensor]] = {}
    with state.fabric.autocast():
        if state.features is not None:
            terms["feature"] = (gan.feature_weight, feature_loss(state.features, sr, gt))
        # The bare network, frozen: its gradients are neither wanted nor shared here.
        critic.network.requires_grad_(False)
        verdict = critic.network(sr)
        critic.network.requires_grad_(True)
    terms["adversarial"] = (gan.adversarial_weight, generator_loss(gan.loss, verdict))
    return terms


def _update_critic(state: State, reals: list[Tensor], fakes: list[Tensor], factor: float) -> float:
    """Let the critic learn from real faces and from those just made; its mean loss."""
    gan, critic, fabric = state.recipe.gan, state.critic, state.fabric
    assert gan is not None
    assert critic is not None
    critic.set_rate(factor)
    found = []
    for _ in range(gan.critic_updates):
        critic.optimizer.zero_grad()
        for number, (real, fake) in enumerate(zip(reals, fakes, strict=True), start=1):
            waits = number < len(reals)
            with fabric.no_backward_sync(critic.model, enabled=waits):
                verdicts = critic.model(torch.cat((real, fake)))
                loss = critic_loss(gan.loss, *verdicts.chunk(2))
                fabric.backward(loss / len(reals))
            found.append(loss.item())
        critic.optimizer.step()
    return sum(found) / len(found)


def rate(iteration: int, recipe: Recipe) -> float:
    """Factor on the learning rates in the update after `iteration` others."""
    rise = recipe.warmup * recipe.iterations
    if iteration < rise:
        return (iteration + 1) / (rise + 1)
    if recipe.schedule == "cosine":
        share = (iteration - rise) / max(1.0, recipe.iterations - rise)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, share)))
    if recipe.schedule == "milestones":
        passed = sum(iteration >= milestone for milestone in recipe.milestones)
        return float(recipe.gamma**passed)
    return 1.0


def examples(state: State, pairs: FacePairs) -> Generator[dict[str, Any]]:
    """The batches of this process from here on, without end, in `accumulate` pieces each.

    Raises:
        UserError: too many faces in a row cannot be read.
    """
    recipe, fabric = state.recipe, state.fabric
    batches = Batches(
        len(pairs),
        recipe.batch_size,
        recipe.seed,
        start=state.progressed.iteration,
        rank=fabric.global_rank,
        world=fabric.world_size,
        parts=recipe.accumulate,
    )
    workers = min(recipe.data.workers, len(os.sched_getaffinity(0)))
    loader = DataLoader(
        pairs,
        batch_sampler=batches,
        num_workers=workers,
        pin_memory=fabric.device.type == "cuda",
        generator=torch.Generator(),  # or it would draw from the global one, once a start
        worker_init_fn=leave_signals_to_the_parent,
    )
    given: Any = iter(loader)
    try:
        while True:
            try:
                example: dict[str, Any] = next(given)
            except UserError as error:
                # A worker process hands its traceback over as text, with the message last.
                message = str(error).strip().splitlines()[-1]
                raise UserError(message.split("UserError: ", 1)[-1]) from error
            skipped = example.pop("skipped")
            moved = {n: t.to(fabric.device, non_blocking=True) for n, t in example.items()}
            yield moved | {"skipped": skipped}
    finally:
        # They ignore the SIGTERM by which Python would end them with this process, and wait.
        if workers:
            given._shutdown_workers()


def _count_skipped(state: State, parts: list[Any], bar: Progress) -> None:
    for line in "\n".join(text for part in parts for text in part["skipped"]).split("\n"):
        if line:
            state.progressed.skipped += 1
            bar.say(f"skipped {line}; {state.progressed.skipped} so far")


def _broken(found: dict[str, float], state: State, out: Path) -> str:
    values = ", ".join(f"{name} {value:g}" for name, value in found.items())
    kept = f"the state before it is in {out / STATE}" if (out / STATE).exists() else "none is kept"
    return (
        f"a loss is no number any more ({values}) at iteration {state.progressed.iteration}; "
        f"lower learning_rate (now {state.recipe.learning_rate:g}); {kept}"
    )


def _check_health(state: State) -> None:
    """Refuse to keep weights that are no numbers: the next loss would be none, and for ever."""
    players = [state.generator.network, *([state.critic.network] if state.critic else [])]
    if not all(p.isfinite().all() for network in players for p in network.parameters()):
        raise UserError(
            f"the weights are no numbers any more at iteration {state.progressed.iteration}; lower "
            f"learning_rate (now {state.recipe.learning_rate:g}); they are not kept, what was "
            "saved before them is"
        )
    scaler = getattr(state.fabric.strategy.precision, "scaler", None)
    if scaler is not None and scaler.get_scale() < LEAST_SCALE:
        raise UserError(
            f"fp16 is too narrow for the gradients at iteration {state.progressed.iteration}: "
            "nothing is learnt any more; use precision=bf16"
        )
