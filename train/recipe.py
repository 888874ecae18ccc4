"""Recipes: training runs as data. A recipe file says what it reproduces and every number of it."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from train.console import UserError
from train.network import NetworkConfig

RECIPES = Path(__file__).parent / "recipes"

Count = Annotated[int, Field(ge=1, le=10**9)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]


@dataclass(frozen=True)
class SyntheticData:
    """Faces drawn by `train.faces`: numbers 0…count-1 of the set `seed` to train on.

    The validation faces are the numbers after them, so none is seen in training.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    seed: Seed = 0
    count: Annotated[int, Field(ge=1, le=10**6)] = 2500
    validation: Annotated[int, Field(ge=1, le=10**5)] = 100
    flip: bool = True


@dataclass(frozen=True)
class Recipe:
    """One training run.

    Attributes:
        name: of the recipe file, without its suffix.
        about: what the run reproduces, on what data, with what result.
        network: sizes of the network.
        data: what it is trained on.
        batch_size: faces an iteration.
        iterations: optimiser updates.
        learning_rate: of Adam; the peak where `warmup` is above 0.
        warmup: share of the run in which the rate rises; then it falls to zero along a cosine.
        pixel_weight: of the L1 loss on every step's face (Ma et al., eq. 9).
        align_weight: of the MSE loss on every step's heatmaps (eq. 10).
        peak_weight: how much more a heatmap's peak weighs in the MSE than its background. 0 in the
            paper, whose hourglass starts trained; a fresh one stays at zero heatmaps for long.
        validate_every: iterations between validations; the last one is always validated.
        seed: of weights, order and flips.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    name: str
    about: str
    network: NetworkConfig = field(default_factory=NetworkConfig)
    data: SyntheticData = field(default_factory=SyntheticData)
    batch_size: Count = 8
    iterations: Count = 1000
    learning_rate: Positive = 1e-4
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0
    pixel_weight: NotNegative = 1.0
    align_weight: NotNegative = 0.1
    peak_weight: NotNegative = 0.0
    validate_every: Count = 1000
    seed: Seed = 0

    def __post_init__(self) -> None:
        if self.network.landmarks != 68:
            raise ValueError("network.landmarks must be 68: synthetic faces have no others")


def shipped_recipes() -> list[str]:
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe by the name of a shipped one or by the path of a TOML file.

    Args:
        overrides: `key=value`, keys dotted (`network.channels=32`), values as TOML writes them.

    Raises:
        UserError: no such recipe, no TOML, or a field that does not exist or does not fit.
    """
    path = RECIPES / f"{name}.toml"
    if not path.is_file():
        path = Path(name)
        if not path.is_file():
            known = ", ".join(shipped_recipes())
            raise UserError(f"no recipe {name!r}: neither a file nor one of {known}")
    try:
        fields = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a TOML file: {error}") from error
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    fields["name"] = path.stem
    for override in overrides:
        _override(fields, override)
    try:
        return _RECIPE.validate_python(fields)
    except ValidationError as error:
        raise UserError(f"recipe {name}: {_explain(error)}") from error


_RECIPE = TypeAdapter(Recipe)


def _override(fields: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise UserError(f"{override!r}: a field of the recipe is set by key=value")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value  # a bare word is a string
    *parents, leaf = key.split(".")
    for parent in parents:
        fields = fields.setdefault(parent, {})
        if not isinstance(fields, dict):
            raise UserError(f"{override!r}: {parent} has no fields")
    fields[leaf] = parsed


def _explain(error: ValidationError) -> str:
    """The first thing wrong, in one line; an unknown field with the nearest that exists."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        near = difflib.get_close_matches(key, _field_names(), n=1, cutoff=0)
        return f"unknown field {key!r}; did you mean {near[0]!r}?"
    message = first["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    return f"{key}: {message}" if key else message


def _field_names() -> list[str]:
    schema = _RECIPE.json_schema()
    parts = {"network": "NetworkConfig", "data": "SyntheticData"}
    inner = [f"{part}.{n}" for part, d in parts.items() for n in schema["$defs"][d]["properties"]]
    return [*schema["properties"], *inner]
