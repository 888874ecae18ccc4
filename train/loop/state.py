"""What a training run is made of, kept whole on disk: `state.pth`.

It is one file, written beside the old one and renamed, so that at any moment there is exactly one
complete state. The data order and the learning rate are functions of the iteration, so the
iteration is their state; everything else that an update changes is in the file.
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
from train.checkpoint import CheckpointError, load_checkpoint, load_hourglass, read, write
from train.loop.processes import most
from train.loop.validation import Validation
from train.model.light_cnn import LightCNNCritic, LightCNNFeatures, load_features
from train.model.network import DIC
from train.recipe import Recipe, recipe_from

FORMAT = "dic-toolkit training state"
FORMAT_VERSION = 1
# What may be changed when a run goes on: how long it is (its later rates follow), how often it
# tells and saves, and where files lie; what the files hold is compared by itself.
CHANGEABLE = frozenset(
    {
        *("about", "name", "iterations", "validate_every", "save_every", "log_every"),
        *("data.workers", "data.train", "data.validation"),
        *("data.landmarks", "data.validation_landmarks"),
        *("start", "start_hourglass", "gan.feature_checkpoint"),
    }
)


@dataclass
class Player:
    """A network that learns: itself, as Fabric wraps it (to call), and Adam, wrapped too."""

    network: nn.Module
    model: Any
    optimizer: Any
    rate: float  # before the schedule's factor

    def set_rate(self, factor: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * factor


@dataclass
class Progressed:
    """How far a run has come."""

    iteration: int = 0
    seconds: float = 0.0
    skipped: int = 0  # times that the first process met an unreadable face
    faces: str = ""  # fingerprint of those to train on
    log: list[Validation] = field(default_factory=list)


@dataclass
class State:
    """Everything that training changes."""

    recipe: Recipe
    fabric: Fabric
    generator: Player
    critic: Player | None
    features: LightCNNFeatures | None
    ema: AveragedModel | None
    progressed: Progressed

    @property
    def network(self) -> DIC:
        """The network being trained."""
        network: Any = self.generator.network
        return network

    @property
    def best_network(self) -> DIC:
        """The network to validate and to keep: averaged where the recipe averages."""
        network: Any = self.network if self.ema is None else self.ema.module
        return network


def start(recipe: Recipe, fabric: Fabric, resumed: bool = False) -> State:
    """A fresh run.

    Args:
        resumed: a state will be loaded: the checkpoints that the run once began with are not.

    Raises:
        UserError: a checkpoint that the recipe starts from cannot be loaded.
    """
    random.seed(recipe.seed)
    np.random.seed(recipe.seed % 2**32)
    torch.manual_seed(recipe.seed)
    network = DIC(recipe.network, recipe.detach_attention) if resumed else fresh(recipe)
    # Averaged before it is compiled or wrapped, of the same layout and device.
    network = network.to(fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    ema = None
    if recipe.ema:
        ema = AveragedModel(network, multi_avg_fn=_averaging(recipe.ema))
    critic, features = None, None
    if recipe.gan:
        critic = _player(fabric, LightCNNCritic(), recipe.gan.critic_learning_rate)
        if recipe.gan.feature_weight:
            with field_named("gan.feature_checkpoint"):
                features = load_features(Path(recipe.gan.feature_checkpoint)).to(fabric.device)
    generator = _player(fabric, network, recipe.learning_rate, recipe.compile)
    return State(recipe, fabric, generator, critic, features, ema, Progressed())


def fresh(recipe: Recipe) -> DIC:
    """The network a recipe starts from; an untrained one begins as bilinear enlargement."""
    network = DIC(recipe.network, recipe.detach_attention)
    for parameter in network.conv_last[2].parameters():
        nn.init.zeros_(parameter)
    if recipe.start:
        with field_named("start"):
            started = load_checkpoint(Path(recipe.start), recipe.network.steps).network
        if started.config != recipe.network:
            raise UserError(f"{recipe.start}: {_other(started.config, recipe.network, 'network.')}")
        network.load_state_dict(started.state_dict())
    if recipe.start_hourglass:
        with field_named("start_hourglass"):
            load_hourglass(Path(recipe.start_hourglass), network)
    return network


@contextmanager
def field_named(field: str) -> Iterator[None]:
    """Say which field of the recipe names a checkpoint that cannot be loaded."""
    try:
        yield
    except CheckpointError as error:
        raise UserError(f"{error} ({field}=FILE names another)") from error


def _player(fabric: Fabric, network: nn.Module, rate: float, compiled: bool = False) -> Player:
    network = network.to(fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = Adam(network.parameters(), rate)
    called: Any = torch.compile(network) if compiled else network
    model, wrapped = fabric.setup(called, optimizer)
    return Player(network, model, wrapped, rate)


def _averaging(decay: float) -> Any:
    """An exponential average that forgets its beginning: the decay rises to `decay`."""

    @torch.no_grad()
    def update(averaged: Sequence[Tensor], current: Sequence[Tensor], count: Tensor | int) -> None:
        n = float(count)
        torch._foreach_lerp_(list(averaged), list(current), 1 - min(decay, (1 + n) / (10 + n)))

    return update


def save(path: Path, state: State) -> None:
    """Write the state, whole or not at all.

    Raises:
        UserError: it cannot be written; an older state stays as it was.
    """
    parts = {name: part.state_dict() for name, part in _parts(state).items()}
    write(
        path,
        {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "recipe": asdict(state.recipe),
            "progressed": asdict(state.progressed),
            "parts": parts,
            "scaler": state.fabric.strategy.precision.state_dict(),
            "random": _random_states(),
        },
    )


def stored_recipe(path: Path) -> Recipe:
    """The recipe of a run, from its state file."""
    return recipe_from(_content(path)["recipe"], str(path))


def resume(path: Path, state: State) -> None:
    """Put a fresh run where the state file left off.

    Raises:
        UserError: unreadable, of a run by another recipe, or not the same for all processes.
    """
    if path.exists():
        _load(path, state)
    here = state.progressed.iteration
    lowest, highest = most(state.fabric, [-here, here])
    if -lowest != highest:
        raise UserError(f"{path}: not the same on every machine; --out must be a shared folder")


def _load(path: Path, state: State) -> None:
    content = _content(path)
    stored = recipe_from(content["recipe"], str(path))
    if differs := _other(stored, state.recipe):
        raise UserError(f"{path}: {differs}; a run goes on as it began, leave that field as it was")
    try:
        for name, part in _parts(state).items():
            part.load_state_dict(content["parts"][name])
        if content["scaler"]:
            state.fabric.strategy.precision.load_state_dict(content["scaler"])
        _set_random_states(content["random"])
        log = [Validation(**entry) for entry in content["progressed"].pop("log")]
        state.progressed = Progressed(**content["progressed"], log=log)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{path}: a damaged training state ({error})") from error


def _content(path: Path) -> dict[str, Any]:
    content, _ = read(path)
    if content.get("format") != FORMAT:
        raise UserError(f"{path}: no training state")
    if content.get("format_version") != FORMAT_VERSION:
        raise UserError(f"{path}: of another version of this toolkit; train on with that one")
    return content


def _parts(state: State) -> dict[str, Any]:
    """What has a state_dict."""
    parts: dict[str, Any] = {}
    for name, player in (("generator", state.generator), ("critic", state.critic)):
        if player is not None:
            parts |= {name: player.network, f"{name}_optimizer": player.optimizer}
    if state.ema is not None:
        parts["ema"] = state.ema
    return parts


def _random_states() -> dict[str, Any]:
    """Of every generator that a library may draw from; training itself draws from none."""
    name, keys, place, has_gauss, gauss = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": [name, torch.from_numpy(np.asarray(keys)), place, has_gauss, gauss],
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


def _other(stored: Any, wanted: Any, prefix: str = "") -> str:
    """The first field that differs and may not, in words; empty where none does."""
    if type(stored) is not type(wanted) or not dataclasses.is_dataclass(stored):
        return f"{prefix.rstrip('.')} was {stored}, not {wanted}" if stored != wanted else ""
    for part in dataclasses.fields(stored):
        name = prefix + part.name
        one, two = getattr(stored, part.name), getattr(wanted, part.name)
        if name not in CHANGEABLE and (found := _other(one, two, name + ".")):
            return found
    return ""
