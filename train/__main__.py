"""`python -m train`: train a DIC network by a recipe."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NoReturn

from train.console import Parser, run


def main(arguments: list[str]) -> int:
    parser = Parser(
        prog="python -m train",
        description="Train a DIC network by a recipe; writes last.pth, best.pth and log.json.",
    )
    parser.add_argument("--recipe", required=True, help="name of a shipped recipe, or a TOML file")
    parser.add_argument("--out", type=Path, help="folder for the run (default: runs/RECIPE)")
    parser.add_argument("--max-iters", type=int, metavar="N", help="stop early, after N iterations")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="set a field of the recipe, e.g. network.channels=32",
    )
    options = parser.parse_args(arguments)
    if options.max_iters is not None and options.max_iters < 1:
        parser.error("--max-iters must be at least 1")

    # PyTorch takes seconds to import; --help and usage errors need none of it.
    from train.loop import train
    from train.recipe import load_recipe

    recipe = load_recipe(options.recipe, options.overrides)
    out = options.out or Path("runs") / recipe.name
    print(f"wrote {train(recipe, out, options.max_iters)}", file=sys.stderr)
    return 0


def cli() -> NoReturn:
    run(main, "train")


if __name__ == "__main__":
    cli()
