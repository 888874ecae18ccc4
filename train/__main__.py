"""`python -m train`: train a DIC network by a recipe."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

from dic.console import Parser, UserError, run


def main(arguments: list[str]) -> int:
    """Parse the command line and train. Over 60 lines: options, errors and outcomes in one place.

    Returns:
        the exit status; 128 + the signal's number if a signal stopped the run.
    """
    parser = Parser(
        prog="python -m train",
        description="Train a DIC network as configured by a recipe. Writes the checkpoints "
        "last.pth and best.pth, log.json, faces.png, TensorBoard events, and state.pth for "
        "--resume. Runs on several processes if started by torchrun.",
    )
    parser.add_argument("--recipe", help="name of a shipped recipe, or path of a TOML file")
    parser.add_argument("--out", type=Path, help="folder of the run (default: runs/RECIPE)")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue the run in --out; with --recipe, start one if there is none",
    )
    parser.add_argument("--max-iters", type=int, metavar="N", help="stop after N iterations")
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
        parser.error("--recipe is required, or --resume --out DIR to continue a run")

    # Imported late, because PyTorch takes seconds to import: --help and usage errors are instant.
    from train.loop.processes import SharedError, explain_errors
    from train.loop.state import stored_recipe
    from train.loop.training import STATE, check_run, train
    from train.recipe import load_recipe, override, recipe_path

    if options.recipe is None:
        if not (options.out / STATE).is_file():
            raise UserError(f"{options.out}: contains no run to resume; start one with --recipe")
        recipe = override(stored_recipe(options.out / STATE), options.overrides)
    else:
        recipe = load_recipe(options.recipe, options.overrides)
    out = options.out or Path("runs") / recipe.name
    check_run(recipe, [recipe_path(options.recipe)] if options.recipe else [], out)
    first = os.environ.get("RANK", "0") == "0"
    try:
        with explain_errors(recipe.compile):
            outcome = train(recipe, out, options.max_iters, options.resume)
    except SharedError:
        if first:
            raise
        return 2
    if not first:
        return 128 + outcome.stopped if outcome.stopped else 0
    if outcome.stopped:
        print(f"stopped; continue with --resume --out {out}", file=sys.stderr)
        return 128 + outcome.stopped
    if not outcome.updates:
        print(f"nothing to do: all {outcome.iterations} iterations are done", file=sys.stderr)
        return 0
    print(f"wrote {outcome.last}", file=sys.stderr)
    return 0


def cli() -> NoReturn:
    run(_main_and_exit, "train")


def _main_and_exit(arguments: list[str]) -> int:
    """Run `main`, and exit at once if this is one of several processes.

    During interpreter shutdown, gloo's threads sometimes abort the process, and torchrun would then
    report a finished run as failed.
    """
    status = main(arguments)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from train.loop.processes import leave_process_group

        leave_process_group()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


if __name__ == "__main__":
    cli()
