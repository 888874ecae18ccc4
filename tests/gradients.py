"""One update of a tiny DICGAN; process 0 writes the gradients. Run alone or by torchrun."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from train.data.datasets import load_data
from train.data.pairs import FacePairs
from train.loop.processes import launch
from train.loop.state import start
from train.loop.training import examples, update
from train.loop.validation import validate
from train.recipe import load_recipe


def main(out: str, *settings: str) -> None:
    recipe = load_recipe("synthetic-demo", settings)
    fabric = launch(recipe)
    state = start(recipe, fabric)
    training, validation = load_data(recipe.data, recipe.network.landmarks)
    batches = examples(state, FacePairs.training(training, recipe))
    update(state, [next(batches) for _ in range(recipe.accumulate)])
    assert state.critic is not None
    result = validate(fabric, state.network, FacePairs(validation), 1)
    if fabric.is_global_zero:
        players = {"generator": state.network, "critic": state.critic.network}
        found = {
            f"{player}.{name}": parameter.grad
            for player, network in players.items()
            for name, parameter in network.named_parameters()
        }
        torch.save({"gradients": found, "psnr": result.psnr}, Path(out))


if __name__ == "__main__":
    main(*sys.argv[1:])
