"""The training loop: updates, validation, checkpoints, and leaving in good order."""

from __future__ import annotations

import logging
import math
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.utils.data import DataLoader

from train.console import Progress, UserError
from train.data import Batches, FacePairs
from train.datasets import load_data
from train.losses import alignment_loss, critic_loss, feature_loss, generator_loss, pixel_loss
from train.recipe import Recipe
from train.report import Report
from train.state import State, resume, save, start
from train.validate import validate

STATE = "state.pth"
PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
# fp16 meets infinities by design: the scaler then halves its factor and leaves the update out.
# This many in a row are no search for a factor any more.
INFINITE_IN_A_ROW = 20


@dataclass(frozen=True)
class Outcome:
    """How a run ended: its last checkpoint, and the signal that stopped it early, if one did."""

    last: Path
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
    state = start(recipe, fabric)
    if exists:
        resume(out / STATE, state)
    training, validation = load_data(recipe.data, recipe.network.landmarks)
    pairs = FacePairs(training, recipe.data.flip, recipe.seed)
    checks = FacePairs(validation)
    fabric.barrier()  # before anything is written, every process has found its data
    final = min(recipe.iterations, max_iters or recipe.iterations)
    with Report(out, state) as report, watch_signals() as signals:
        return _updates(state, report, pairs, checks, final, signals)


def launch(recipe: Recipe) -> Fabric:
    """Lightning Fabric for this process: alone, or one of `torchrun`'s.

    Raises:
        UserError: the recipe needs what this machine lacks.
    """
    cuda = torch.cuda.is_available()
    if recipe.precision == "fp16" and not cuda:
        raise UserError("precision 'fp16' needs an NVIDIA GPU; on a CPU use 'bf16' or 'fp32'")
    world = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if recipe.batch_size % (world * recipe.accumulate):
        raise UserError(
            f"batch_size {recipe.batch_size} cannot be shared equally by {world} processes"
            + (f" in {recipe.accumulate} parts each" if recipe.accumulate > 1 else "")
        )
    torch.backends.cudnn.benchmark = cuda  # all batches have one shape
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    precision: Any = PRECISIONS[recipe.precision]
    fabric = Fabric(
        accelerator="cuda" if cuda else "cpu",
        strategy="ddp" if world > 1 else "auto",
        devices=local,
        num_nodes=world // local,
        precision=precision,
    )
    fabric.launch()
    return fabric


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
    batches = examples(state, pairs)
    started = time.monotonic() - progressed.seconds
    unlearnt = 0
    with report.bar(progressed.iteration, final) as bar:
        while progressed.iteration < final:
            parts = [next(batches) for _ in range(recipe.accumulate)]
            found = update(state, parts)
            progressed.iteration += 1
            progressed.seconds = time.monotonic() - started
            _count_skipped(state, parts, bar)
            stop, broken = _agree(fabric, signals.received, not math.isfinite(sum(found.values())))
            unlearnt = unlearnt + 1 if broken else 0
            if broken and (recipe.precision != "fp16" or unlearnt >= INFINITE_IN_A_ROW):
                raise UserError(_broken(found, state, report.out))
            report.update(found, bar)
            last = progressed.iteration == final
            validates = last or progressed.iteration % recipe.validate_every == 0
            saves = last or stop or progressed.iteration % recipe.save_every == 0
            if validates or saves:
                _check_weights(state)
            if validates:
                result = validate(fabric, state.best_network, checks, progressed.iteration)
                progressed.log.append(result)
                report.validated(result, checks, bar)
            if saves:
                if fabric.is_global_zero:
                    save(report.out / STATE, state)
                fabric.barrier()
            if stop and not last:
                return Outcome(report.out / STATE, stop)
    return Outcome(report.out / "last.pth")


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
                terms |= _adversarial_terms(state, steps.sr[-1], pair["gt"])
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


def _adversarial_terms(state: State, sr: Tensor, gt: Tensor) -> dict[str, tuple[float, Tensor]]:
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


def examples(state: State, pairs: FacePairs) -> Iterator[dict[str, Any]]:
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
    workers = recipe.data.workers
    loader = DataLoader(
        pairs,
        batch_sampler=batches,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=fabric.device.type == "cuda",
        generator=torch.Generator(),  # or it would draw from the global one, once a start
        worker_init_fn=_leave_signals_to_the_parent,
    )
    given = iter(loader)
    while True:
        try:
            example: dict[str, Any] = next(given)
        except UserError as error:
            # A worker process hands its traceback over as text, with the message last.
            message = str(error).strip().splitlines()[-1]
            raise UserError(message.split("UserError: ", 1)[-1]) from error
        skipped = example.pop("skipped")
        moved = {n: tensor.to(fabric.device, non_blocking=True) for n, tensor in example.items()}
        yield moved | {"skipped": skipped}


def _count_skipped(state: State, parts: list[Any], bar: Progress) -> None:
    for line in "\n".join(text for part in parts for text in part["skipped"]).split("\n"):
        if line:
            state.progressed.skipped += 1
            bar.say(f"skipped {line}; {state.progressed.skipped} so far")


def _agree(fabric: Fabric, stop: int | None, broken: bool) -> tuple[int | None, bool]:
    """What any process has met, every process learns: a signal, a loss that is no number."""
    if fabric.world_size == 1:
        return stop, broken
    flags = torch.tensor([stop or 0, int(broken)], device=fabric.device)
    stop_any, broken_any = fabric.all_gather(flags).amax(0).tolist()  # type: ignore[union-attr]
    return stop_any or None, bool(broken_any)


def _broken(found: dict[str, float], state: State, out: Path) -> str:
    values = ", ".join(f"{name} {value:g}" for name, value in found.items())
    kept = f"the state before it is in {out / STATE}" if (out / STATE).exists() else "none is kept"
    return (
        f"a loss is no number any more ({values}) at iteration {state.progressed.iteration}; "
        f"lower learning_rate (now {state.recipe.learning_rate:g}); {kept}"
    )


def _check_weights(state: State) -> None:
    """Refuse to keep weights that are no numbers: the next loss would be none, and for ever."""
    if not all(parameter.isfinite().all() for parameter in state.network.parameters()):
        raise UserError(
            f"the weights are no numbers any more at iteration {state.progressed.iteration}; lower "
            f"learning_rate (now {state.recipe.learning_rate:g}); they are not kept, what was "
            "saved before them is"
        )


class Signals:
    """The signal that asks this process to leave, once it has come."""

    received: int | None = None

    def note(self, number: int, _: FrameType | None) -> None:
        if self.received is not None:
            raise KeyboardInterrupt  # asked twice: at once, then
        self.received = number


@contextmanager
def watch_signals() -> Iterator[Signals]:
    """Within, SIGTERM and Ctrl-C are noted, not obeyed: the loop saves its state and leaves."""
    signals = Signals()
    old = {n: signal.signal(n, signals.note) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield signals
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _leave_signals_to_the_parent(_: int) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
