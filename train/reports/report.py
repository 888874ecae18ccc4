"""What a run shows and leaves to look at: a bar, TensorBoard, checkpoints, a log, a picture."""

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
from train.loop.processes import together
from train.loop.state import State
from train.loop.validation import Validation
from train.reports.preview import progress_picture
from train.reports.tensorboard import Events


class Report:
    """Of one run, written by its first process; the others only keep quiet.

    Args:
        out: folder of the run; it is made, and written to at once: better now than after an hour.

    Raises:
        UserError: `out` cannot be written.
    """

    def __init__(self, out: Path, state: State) -> None:
        self.out, self.state = out, state
        self.active = state.fabric.is_global_zero
        self.events: Events | None = None
        together(state.fabric, self._write_log)
        if self.active:
            begun = state.progressed.iteration + 1
            self.events = Events(out / "tensorboard", begun, self._warn)
        self._since = (state.progressed.iteration, time.monotonic())

    def __enter__(self) -> Report:
        return self

    def __exit__(self, *_: object) -> None:
        if self.events is not None:
            self.events.close()

    def bar(self, done: int, final: int) -> Progress:
        name = self.state.recipe.name
        return Progress(
            total=final, initial=done, desc=name, unit="it", smoothing=0.05, disable=not self.active
        )

    def update(self, found: dict[str, float], bar: Progress) -> None:
        """Tell of an update's losses."""
        if self.events is None:
            return
        bar.set_postfix({name: f"{value:.3g}" for name, value in found.items()}, refresh=False)
        bar.update()
        iteration = self.state.progressed.iteration
        if iteration % self.state.recipe.log_every:
            return
        for name, value in found.items():
            self.events.add_scalar(f"loss/{name}", value, iteration)
        rate = self.state.generator.optimizer.param_groups[0]["lr"]
        self.events.add_scalar("learning_rate", rate, iteration)
        before, then = self._since
        now = time.monotonic()
        self.events.add_scalar(
            "iterations_per_second", (iteration - before) / (now - then), iteration
        )
        self._since = (iteration, now)

    def validated(self, result: Validation, checks: FacePairs, bar: Progress) -> None:
        """Tell of a validation, and keep the network, as the best one too where it is.

        Raises:
            UserError: a file cannot be written.
        """
        assert self.events is not None  # the first process alone reports
        bar.say(str(result))
        for name in ("psnr", "ssim", "nme"):
            for step, value in enumerate(getattr(result, name), start=1):
                self.events.add_scalar(f"validation/{name}_step_{step}", value, result.iteration)
        picture = progress_picture(self.state.best_network, checks)
        self.events.add_image("faces", picture, result.iteration)
        encoded = io.BytesIO()
        Image.fromarray(picture).save(encoded, "png")
        write_whole(self.out / "faces.png", encoded.getbuffer())
        self._keep(result)
        self._write_log()

    def _warn(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    def _keep(self, result: Validation) -> None:
        progressed = self.state.progressed
        provenance = {
            "recipe": asdict(self.state.recipe),
            "iteration": result.iteration,
            "validation": asdict(result),
            "seconds": progressed.seconds,
            "torch": torch.__version__.split("+")[0],
        }
        network = self.state.best_network
        save_checkpoint(self.out / "last.pth", network, provenance)
        if max(progressed.log, key=lambda entry: entry.psnr[-1]) is result:
            save_checkpoint(self.out / "best.pth", network, provenance)

    def _write_log(self) -> None:
        log = [asdict(entry) for entry in self.state.progressed.log]
        write_whole(self.out / "log.json", json.dumps(log, indent=1).encode())
