"""`python -m benchmarks.training`: training speed compared with a plain eager loop."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch.utils.data import DataLoader

from benchmarks.measure.machine import machine
from benchmarks.report.markdown import table
from dic.console import Parser, run
from dic.files import write_whole
from dic.outputs import check_outputs
from dic.progress import Progress
from train.data.datasets import load_data
from train.data.pairs import FacePairs
from train.loop.processes import launch
from train.loop.state import start
from train.loop.training import examples, update
from train.model.losses import alignment_loss, pixel_loss
from train.model.network import DIC
from train.recipe import Recipe, load_recipe, recipe_path

PLAIN = "plain eager loop, fp32"
JSON_VERSION = 2
WARM_UPS = 3
FACES = 200  # training faces; more would only take longer to generate

Iterate = Callable[[], None]


def main(arguments: list[str]) -> int:
    parser = Parser(
        prog="python -m benchmarks.training",
        description="Compare a recipe's training speed with a plain loop, in interleaved rounds.",
    )
    parser.add_argument("--recipe", default="dic-synthetic", help="(default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=20, help="(default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results to FILE")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="fields of the recipe to change"
    )
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    # Always synthetic faces: the arithmetic is timed, not the disk.
    data = ["data.kind=synthetic", "data.validation=1", f"data.count={FACES}"]
    settings = [*data, *options.overrides]
    check_outputs(filter(None, [options.json]), [recipe_path(options.recipe)])
    recipe = load_recipe(options.recipe, settings)
    here = machine("benchmarks.training")
    times = measure(recipe, options.rounds)
    print(speed_table(times, options.rounds))
    if options.json:
        results = {
            "version": JSON_VERSION,
            "machine": asdict(here),
            "training": [{"name": name, "seconds": taken} for name, taken in times.items()],
        }
        write_whole(options.json, json.dumps(results, indent=1).encode())
    return 0


def measure(recipe: Recipe, rounds: int) -> dict[str, list[float]]:
    """Seconds of every timed iteration by loop, loading of the batch included."""
    training, _ = load_data(recipe.data, recipe.network.landmarks)
    pairs = FacePairs.training(training, recipe)
    contenders = {PLAIN: plain_loop(recipe, pairs)}
    for precision in dict.fromkeys(("fp32", recipe.precision)):
        name = f"this project's loop, {precision}"
        contenders[name] = projects_loop(replace(recipe, precision=precision), pairs)
    times: dict[str, list[float]] = {name: [] for name in contenders}
    with Progress(total=rounds + WARM_UPS, desc="training", unit="round") as bar:
        for turn in range(rounds + WARM_UPS):
            for name, iterate in contenders.items():
                started = time.perf_counter()
                iterate()
                if turn >= WARM_UPS:
                    times[name].append(time.perf_counter() - started)
            bar.update()
    return times


def projects_loop(recipe: Recipe, pairs: FacePairs) -> Iterate:
    """One iteration of `python -m train`."""
    state = start(recipe, launch(recipe))
    batches = examples(state, pairs)

    def iterate() -> None:
        update(state, [next(batches) for _ in range(recipe.accumulate)])
        state.progress.iteration += 1
        _finish()

    return iterate


def plain_loop(recipe: Recipe, pairs: FacePairs) -> Iterate:
    """One iteration of a plain loop with the same network, losses and optimiser."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(recipe.seed)
    network = DIC(recipe.network).to(device)
    optimizer = torch.optim.Adam(network.parameters(), recipe.learning_rate)
    keys = [(0, index) for index in range(len(pairs))]
    batches: Iterator[Any] = iter(())

    def iterate() -> None:
        nonlocal batches
        batch = next(batches, None)
        if batch is None:
            batches = iter(DataLoader(pairs, recipe.batch_size, sampler=keys, drop_last=True))
            batch = next(batches)
        steps = network(batch["lq"].to(device))
        pixel = pixel_loss(steps, batch["gt"].to(device))
        align = alignment_loss(steps, batch["heatmaps"].to(device), recipe.peak_weight)
        loss = recipe.pixel_weight * pixel + recipe.align_weight * align
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()  # waits for the GPU, as logging a loss does
        _finish()

    return iterate


def _finish() -> None:
    """Wait for the GPU, so that its work counts for the iteration that started it."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def speed_table(times: dict[str, list[float]], rounds: int) -> str:
    """A Markdown table of the median speed of each loop, relative to the plain one."""
    medians = {name: float(np.median(taken)) for name, taken in times.items()}
    cells = [
        (name, f"{medians[PLAIN] / median:.2f}×", f"{1000 * median:.0f}", f"{1 / median:.2f}")
        for name, median in medians.items()
    ]
    title = f"\nTraining, median of {rounds} interleaved iterations\n\n"
    return title + table(("", "speed", "ms", "iterations/s"), cells)


def cli() -> NoReturn:
    run(main, "benchmarks")


if __name__ == "__main__":
    cli()
