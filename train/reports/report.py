"""The report of a run: progress bar, TensorBoard events, checkpoints, log and preview image."""

from __future__ import annotations

import io
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch
from PIL import Image

from dic.files import write_whole
from dic.progress import Progress
from train.checkpoint import save_checkpoint
from train.data.pairs import FacePairs
from train.loop.processes import on_first_process
from train.loop.state import State
from train.loop.validation import Validation
from train.reports.preview import progress_picture
from train.reports.tensorboard import Events


class Report:
    """The report of one run. Only the first process writes it; in the others it does nothing.

    Args:
        out: folder of the run. It is created, and a file is written at once, so that a folder
            that is not writable is detected before training.
        state: of the run.

    Raises:
        UserError: `out` is not writable.
    """

    def __init__(self, out: Path, state: State) -> None:
        self.out, self.state = out, state
        self.active = state.fabric.is_global_zero
        self.events: Events | None = None
        on_first_process(state.fabric, self._write_log)
        if self.active:
            first = state.progress.iteration + 1
            self.events = Events(out / "tensorboard", first, self._warn)
        self._last_logged = (state.progress.iteration, time.monotonic())

    def __enter__(self) -> Report:
        return self

    def __exit__(self, *_: object) -> None:
        if self.events is not None:
            self.events.close()

    def bar(self, done: int, final: int) -> Progress:
        """Return a progress bar that starts at iteration `done` of `final`."""
        name = self.state.recipe.name
        return Progress(
            total=final, initial=done, desc=name, unit="it", smoothing=0.05, disable=not self.active
        )

    def update(self, losses: dict[str, float], bar: Progress) -> None:
        """Report the losses of an update."""
        if self.events is None:
            return
        bar.set_postfix({name: f"{value:.3g}" for name, value in losses.items()}, refresh=False)
        bar.update()
        iteration = self.state.progress.iteration
        if iteration % self.state.recipe.log_every:
            return
        for name, value in losses.items():
            self.events.add_scalar(f"loss/{name}", value, iteration)
        rate = self.state.generator.optimizer.param_groups[0]["lr"]
        self.events.add_scalar("learning_rate", rate, iteration)
        previous, then = self._last_logged
        now = time.monotonic()
        self.events.add_scalar(
            "iterations_per_second", (iteration - previous) / (now - then), iteration
        )
        self._last_logged = (iteration, now)

    def validated(self, result: Validation, checks: FacePairs, bar: Progress) -> None:
        """Report a validation, and save the network as `last.pth` and, if it is best, `best.pth`.

        Raises:
            UserError: a file cannot be written.
        """
        assert self.events is not None  # only called in the first process
        bar.say(str(result))
        for name in ("psnr", "ssim", "nme"):
            for step, value in enumerate(getattr(result, name), start=1):
                self.events.add_scalar(f"validation/{name}_step_{step}", value, result.iteration)
        picture = progress_picture(self.state.best_network, checks)
        self.events.add_image("faces", picture, result.iteration)
        encoded = io.BytesIO()
        Image.fromarray(picture).save(encoded, "png")
        write_whole(self.out / "faces.png", encoded.getbuffer())
        self._save_network(result)
        self._write_log()

    def _warn(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    def _save_network(self, result: Validation) -> None:
        progress = self.state.progress
        provenance = {
            "recipe": asdict(self.state.recipe),
            "iteration": result.iteration,
            "validation": asdict(result),
            "seconds": progress.seconds,
            "torch": torch.__version__.split("+")[0],
        }
        network = self.state.best_network
        save_checkpoint(self.out / "last.pth", network, provenance)
        if max(progress.log, key=lambda entry: entry.psnr[-1]) is result:
            save_checkpoint(self.out / "best.pth", network, provenance)

    def _write_log(self) -> None:
        log = [asdict(entry) for entry in self.state.progress.log]
        write_whole(self.out / "log.json", json.dumps(log, indent=1).encode())
