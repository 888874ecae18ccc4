"""`python -m train`: train a DIC network by a recipe."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

from dic.console import Parser, UserError, run


def main(arguments: list[str]) -> int:
    parser = Parser(
        prog="python -m train",
        description="Train a DIC network by a recipe. Writes last.pth, best.pth, log.json, "
        "faces.png, TensorBoard's curves, and state.pth to go on from. Started by torchrun, "
        "it trains on all of its processes.",
    )
    parser.add_argument("--recipe", help="name of a shipped recipe, or a TOML file")
    parser.add_argument("--out", type=Path, help="folder for the run (default: runs/RECIPE)")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with the run in --out; with --recipe, start it where there is none",
    )
    parser.add_argument("--max-iters", type=int, metavar="N", help="stop early, after N iterations")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="set a field of the recipe, e.g. network.channels=32",
    )
    options = parser.parse_intermixed_args(arguments)
    if options.max_iters is not None and options.max_iters < 1:
        parser.error("--max-iters must be at least 1")
    if options.recipe is None and not (options.resume and options.out):
        parser.error("--recipe is needed (or --resume --out DIR to go on with a run)")

    # PyTorch takes seconds to import; --help and usage errors need none of it.
    from train.loop.processes import SharedError, explained
    from train.loop.state import stored_recipe
    from train.loop.training import STATE, train
    from train.recipe import load_recipe, override

    if options.recipe is None:
        if not (options.out / STATE).is_file():
            raise UserError(f"{options.out}: no run there to go on with; start one with --recipe")
        recipe = override(stored_recipe(options.out / STATE), options.overrides)
    else:
        recipe = load_recipe(options.recipe, options.overrides)
    out = options.out or Path("runs") / recipe.name
    first = os.environ.get("RANK", "0") == "0"
    try:
        with explained(recipe.compile):
            outcome = train(recipe, out, options.max_iters, options.resume)
    except SharedError:
        if first:
            raise
        return 2
    if not first:
        return 128 + outcome.stopped if outcome.stopped else 0
    if outcome.stopped:
        print(f"stopped; {out} goes on with --resume", file=sys.stderr)
        return 128 + outcome.stopped
    if not outcome.updates:
        print(f"nothing left to do: {outcome.iterations} iterations are done", file=sys.stderr)
        return 0
    print(f"wrote {outcome.last}", file=sys.stderr)
    return 0


def cli() -> NoReturn:
    run(_main_and_leave, "train")


def _main_and_leave(arguments: list[str]) -> int:
    """`main`; one of several processes leaves at once, for all is written: gloo's threads at times
    abort a process that takes them down at its end, and torchrun would call the run failed.
    """
    status = main(arguments)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from train.loop.processes import leave_group

        leave_group()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


if __name__ == "__main__":
    cli()
