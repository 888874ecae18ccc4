"""The state of a training run, and its file `state.pth`.

The file is replaced atomically, so there is always one complete state. It contains everything that
an update changes. The order of the data and the learning rate are functions of the iteration, so
the iteration is sufficient to restore them.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Adam
from torch.optim.swa_utils import AveragedModel

from dic.console import UserError
from train.checkpoint import load_checkpoint, load_hourglass, write
from train.loop.processes import maximum
from train.loop.validation import Validation
from train.model.light_cnn import LightCNNCritic, LightCNNFeatures, load_features
from train.model.network import DIC
from train.recipe import Recipe, recipe_from
from train.torch_file import CheckpointError, read

FORMAT = "dic-toolkit training state"
FORMAT_VERSION = 1
# The fields of a recipe that may change when a run is resumed: the number of iterations and of
# cycles (later learning rates change accordingly), the intervals of reports and saves, and paths of
# files. The training faces themselves are compared by their fingerprint.
CHANGEABLE = frozenset(
    {
        *("about", "name", "iterations", "cycles", "validate_every", "save_every", "log_every"),
        *("data.workers", "data.train", "data.validation"),
        *("data.landmarks", "data.validation_landmarks"),
        *("start", "start_hourglass", "gan.feature_checkpoint"),
    }
)


@dataclass
class TrainedNetwork:
    """A network and its optimiser.

    Attributes:
        network: the module itself.
        model: the module as wrapped by torch.compile and Fabric; to be called in training.
        optimizer: Adam, as wrapped by Fabric.
        rate: peak learning rate.
    """

    network: nn.Module
    model: Any
    optimizer: Any
    rate: float

    def set_rate(self, factor: float) -> None:
        """Set the learning rate to `factor` times its peak."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * factor


@dataclass
class RunProgress:
    """The progress of a run.

    Attributes:
        iteration: number of updates done.
        seconds: training time, over all calls.
        skipped: number of unreadable faces skipped by the first process.
        faces: fingerprint of the training faces.
        log: results of all validations.
    """

    iteration: int = 0
    seconds: float = 0.0
    skipped: int = 0
    faces: str = ""
    log: list[Validation] = field(default_factory=list)


@dataclass
class State:
    """A training run.

    Attributes:
        recipe: its configuration.
        fabric: of this process.
        generator: the DIC network.
        critic: the discriminator, if the recipe has one.
        features: the extractor of the feature loss, if the recipe has one.
        ema: the averaged network, if the recipe has one.
        progress: how far the run is.
    """

    recipe: Recipe
    fabric: Fabric
    generator: TrainedNetwork
    critic: TrainedNetwork | None
    features: LightCNNFeatures | None
    ema: AveragedModel | None
    progress: RunProgress

    @property
    def network(self) -> DIC:
        """The network being trained."""
        network: Any = self.generator.network
        return network

    @property
    def best_network(self) -> DIC:
        """The network to validate and to save: the averaged one if there is one."""
        network: Any = self.network if self.ema is None else self.ema.module
        return network


def start(recipe: Recipe, fabric: Fabric, resumed: bool = False) -> State:
    """Return the initial state of a run.

    Args:
        resumed: a saved state will be loaded afterwards, so the recipe's initial checkpoints
            (`start`, `start_hourglass`) are not needed.

    Raises:
        UserError: an initial checkpoint cannot be loaded.
    """
    random.seed(recipe.seed)
    np.random.seed(recipe.seed % 2**32)
    torch.manual_seed(recipe.seed)
    network = DIC(recipe.network, recipe.detach_attention) if resumed else initial_network(recipe)
    # The averaged copy must be made before compilation and wrapping, but on the final device.
    network = network.to(fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    ema = None
    if recipe.ema:
        ema = AveragedModel(network, multi_avg_fn=_averaging(recipe.ema))
    critic, features = None, None
    if recipe.gan:
        critic = _with_optimizer(fabric, LightCNNCritic(), recipe.gan.critic_learning_rate)
        if recipe.gan.feature_weight:
            with _naming_field("gan.feature_checkpoint"):
                features = load_features(Path(recipe.gan.feature_checkpoint)).to(fabric.device)
    generator = _with_optimizer(fabric, network, recipe.learning_rate, recipe.compile)
    return State(recipe, fabric, generator, critic, features, ema, RunProgress())


def initial_network(recipe: Recipe) -> DIC:
    """Return the network that a recipe starts from.

    The last convolution of a new network is zero, so that its output is the bilinear enlargement.

    Raises:
        UserError: an initial checkpoint cannot be loaded.
    """
    network = DIC(recipe.network, recipe.detach_attention)
    for parameter in network.conv_last[2].parameters():
        nn.init.zeros_(parameter)
    if recipe.start:
        with _naming_field("start"):
            loaded = load_checkpoint(Path(recipe.start), recipe.network.steps).network
        if loaded.config != recipe.network:
            difference = _first_difference(loaded.config, recipe.network, "network.")
            raise UserError(f"{recipe.start}: {difference}; set the recipe's field to the same")
        network.load_state_dict(loaded.state_dict())
    if recipe.start_hourglass:
        with _naming_field("start_hourglass"):
            load_hourglass(Path(recipe.start_hourglass), network)
    return network


@contextmanager
def _naming_field(field: str) -> Iterator[None]:
    """Append the recipe field that names the checkpoint to the error if it cannot be loaded."""
    try:
        yield
    except CheckpointError as error:
        raise UserError(f"{error} (set {field}=FILE to another checkpoint)") from error


def _with_optimizer(
    fabric: Fabric, network: nn.Module, rate: float, compiled: bool = False
) -> TrainedNetwork:
    network = network.to(fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = Adam(network.parameters(), rate)
    called: Any = torch.compile(network) if compiled else network
    model, wrapped = fabric.setup(called, optimizer)
    return TrainedNetwork(network, model, wrapped, rate)


def _averaging(decay: float) -> Any:
    """Return the update of an exponential moving average.

    The decay starts at 0.1 and rises to `decay`, so that the initial weights are soon forgotten.
    """

    @torch.no_grad()
    def update(averaged: Sequence[Tensor], current: Sequence[Tensor], count: Tensor | int) -> None:
        n = float(count)
        torch._foreach_lerp_(list(averaged), list(current), 1 - min(decay, (1 + n) / (10 + n)))

    return update


def save(path: Path, state: State) -> None:
    """Write the state atomically.

    Raises:
        UserError: the file cannot be written; an existing one is unchanged.
    """
    parts = {name: part.state_dict() for name, part in _stateful_parts(state).items()}
    write(
        path,
        {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "recipe": asdict(state.recipe),
            "progressed": asdict(state.progress),
            "parts": parts,
            "scaler": state.fabric.strategy.precision.state_dict(),
            "random": _random_states(),
        },
    )


def stored_recipe(path: Path) -> Recipe:
    """Return the recipe in a state file.

    Raises:
        UserError: the file cannot be read or is not a training state.
    """
    return recipe_from(_read_state(path)["recipe"], str(path))


def restore(path: Path, state: State) -> None:
    """Load a state file, if it exists, into the initial state of a run.

    Raises:
        UserError: the file cannot be read, belongs to a run with another recipe, or differs between
            processes.
    """
    if path.exists():
        _load(path, state)
    iteration = state.progress.iteration
    negated_minimum, largest = maximum(state.fabric, [-iteration, iteration])
    if -negated_minimum != largest:
        raise UserError(f"{path}: differs between machines; --out must be a shared folder")


def _load(path: Path, state: State) -> None:
    content = _read_state(path)
    stored = recipe_from(content["recipe"], str(path))
    if difference := _first_difference(stored, state.recipe):
        raise UserError(f"{path}: {difference}; this field cannot change when a run is resumed")
    try:
        for name, part in _stateful_parts(state).items():
            part.load_state_dict(content["parts"][name])
        if content["scaler"]:
            state.fabric.strategy.precision.load_state_dict(content["scaler"])
        _set_random_states(content["random"])
        log = [Validation(**entry) for entry in content["progressed"].pop("log")]
        state.progress = RunProgress(**content["progressed"], log=log)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        line = " ".join(str(error).split())
        raise UserError(
            f"{path}: a damaged training state ({line}); start another run from last.pth"
        ) from error


def _read_state(path: Path) -> dict[str, Any]:
    content, _ = read(path)
    if content.get("format") != FORMAT:
        raise UserError(f"{path}: not a training state")
    if content.get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"{path}: written by another version of dic-toolkit; resume with that version"
        )
    return content


def _stateful_parts(state: State) -> dict[str, Any]:
    """Return everything in a state that has a `state_dict`, by its key in the file."""
    parts: dict[str, Any] = {}
    for name, trained in (("generator", state.generator), ("critic", state.critic)):
        if trained is not None:
            parts |= {name: trained.network, f"{name}_optimizer": trained.optimizer}
    if state.ema is not None:
        parts["ema"] = state.ema
    return parts


def _random_states() -> dict[str, Any]:
    """Return the states of all global random generators.

    This project's code does not use them after initialisation, but libraries may.
    """
    name, keys, position, has_gauss, gauss = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": [name, torch.from_numpy(np.asarray(keys)), position, has_gauss, gauss],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def _set_random_states(states: Mapping[str, Any]) -> None:
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.numpy(), *rest))
    torch.set_rng_state(states["torch"])
    if len(states["cuda"]) == torch.cuda.device_count() > 0:
        torch.cuda.set_rng_state_all(states["cuda"])


def _first_difference(stored: Any, current: Any, prefix: str = "") -> str:
    """Describe the first field, outside CHANGEABLE, that differs; empty if there is none."""
    if type(stored) is not type(current) or not dataclasses.is_dataclass(stored):
        return f"{prefix.rstrip('.')} was {stored}, not {current}" if stored != current else ""
    for part in dataclasses.fields(stored):
        name = prefix + part.name
        values = getattr(stored, part.name), getattr(current, part.name)
        if name not in CHANGEABLE and (difference := _first_difference(*values, name + ".")):
            return difference
    return ""
