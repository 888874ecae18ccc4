"""Recipes: training runs as data. A recipe file says what it reproduces and every number of it."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from dic.console import UserError
from dic.landmarks import FLIPS
from train.model.network import NetworkConfig

RECIPES = Path(__file__).parent / "recipes"

Count = Annotated[int, Field(ge=1, le=10**9)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Workers = Annotated[int, Field(ge=0, le=256)]
Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True)
class SyntheticData:
    """Faces drawn by `train.data.synthetic`: numbers 0…count-1 of the set `seed` to train on.

    The validation faces are the numbers after them, so none is seen in training.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    kind: Literal["synthetic"] = "synthetic"
    seed: Seed = 0
    count: Annotated[int, Field(ge=1, le=10**6)] = 2500
    validation: Annotated[int, Field(ge=1, le=10**5)] = 100
    flip: bool = True
    workers: Workers = 0


@dataclass(frozen=True)
class FileData:
    """Faces of a data set: a folder of pictures with landmarks beside them, or tar shards.

    What is understood is told by `train.data.datasets`.

    Attributes:
        train: a folder; a folder of `.tar` files; or a pattern of them (`shards/train-*.tar`).
        validation: the same, of faces that are not trained on.
        landmarks: a file with the landmarks of all pictures; empty to find them beside these.
        validation_landmarks: the same for the validation pictures.
        flip: mirror every other picture (known for 68 and 5 landmarks).
        drawn: share of the faces trained on that are drawn (`data.synthetic`) instead, new ones in
            every pass (68 landmarks).
        workers: processes that read pictures, for each process that trains.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    kind: Literal["files"] = "files"
    train: str = ""
    validation: str = ""
    landmarks: str = ""
    validation_landmarks: str = ""
    flip: bool = True
    drawn: Annotated[float, Field(ge=0, lt=1)] = 0.0
    workers: Workers = 4

    def __post_init__(self) -> None:
        for name in ("train", "validation"):
            if not getattr(self, name):
                raise ValueError(f"where is the data? set data.{name}=FOLDER")


@dataclass(frozen=True)
class Augment:
    """How far each training face is varied, every time anew. Nothing is varied by default.

    Attributes:
        turn: degrees, either way.
        scale: the face's square may be this share larger or smaller.
        shift: share of the square's side that its centre moves, on each axis.
        colour: standard deviation of the logarithm of each channel's gain.
        exposure: standard deviation of the logarithm of the gain of all channels, and half of it
            of gamma's.
        grey: share of the faces that become grey.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    turn: Annotated[float, Field(ge=0, le=180)] = 0.0
    scale: Annotated[float, Field(ge=0, le=1)] = 0.0
    shift: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    colour: Annotated[float, Field(ge=0, le=1)] = 0.0
    exposure: Annotated[float, Field(ge=0, le=1)] = 0.0
    grey: Share = 0.0


@dataclass(frozen=True)
class Degrade:
    """Inputs as they are in life: blurred, shrunk to a size, noisy, packed as JPEG; then 16×16.

    Attributes:
        share: of the faces that are degraded; the others are shrunk as in the paper.
        blur: largest standard deviation of a Gaussian, pixels of the 128×128 face.
        noise: largest standard deviation of noise, grey levels.
        jpeg: lowest quality, Pillow's scale; half of the degraded faces are packed.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    share: Share = 0.0
    blur: Annotated[float, Field(ge=0, le=16)] = 2.0
    noise: Annotated[float, Field(ge=0, le=64)] = 6.0
    jpeg: Annotated[int, Field(ge=1, le=100)] = 50


@dataclass(frozen=True)
class Gan:
    """The adversarial part of DICGAN (Ma et al., Section 3.4, eq. 11 to 13).

    Attributes:
        loss: the critic's objective.
        start: iterations of pixel and alignment losses alone, before the critic joins.
        critic_updates: of the critic in each iteration.
        critic_learning_rate: of its Adam; it follows the same schedule as the generator's.
        feature_weight: of the L1 loss on LightCNN features of the last step's face.
        feature_checkpoint: LightCNN weights for it (MMEditing's or the authors' file).
        adversarial_weight: of the generator's adversarial loss on the last step's face.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    loss: Literal["vanilla", "lsgan", "hinge"] = "vanilla"
    start: Annotated[int, Field(ge=0)] = 0
    critic_updates: Count = 1
    critic_learning_rate: Positive = 1e-4
    feature_weight: NotNegative = 0.1
    feature_checkpoint: str = ""
    adversarial_weight: NotNegative = 0.005

    def __post_init__(self) -> None:
        if self.feature_weight and not self.feature_checkpoint:
            raise ValueError(
                "where are the LightCNN weights? set gan.feature_checkpoint=FILE "
                "(or gan.feature_weight=0 to go without)"
            )


@dataclass(frozen=True)
class Recipe:
    """One training run.

    Attributes:
        name: of the recipe file, without its suffix.
        about: what the run reproduces, on what data, with what result.
        network: sizes of the network.
        data: what it is trained on.
        augment: how training faces are varied.
        degrade: how what the network sees of them is damaged.
        gan: the adversarial part, or none.
        batch_size: faces an update, over all processes.
        accumulate: parts that a batch is computed in, one after the other, where memory is short.
        iterations: optimiser updates.
        learning_rate: of Adam; the peak where `warmup` is above 0.
        warmup: share of the run in which the rate rises from zero.
        schedule: what the rate does then: falls along a cosine to zero, is multiplied by `gamma`
            at each of the `milestones`, or stays.
        milestones: iterations.
        gamma: factor at each milestone.
        pixel_weight: of the L1 loss on every step's face (Ma et al., eq. 9).
        align_weight: of the MSE loss on every step's heatmaps (eq. 10).
        peak_weight: how much more a heatmap's peak weighs in the MSE than its background. 0 in the
            paper, whose hourglass starts trained; a fresh one stays at zero heatmaps for long.
        detach_attention: keep the recovery loss out of the landmark network (the authors' option).
        start: a checkpoint, of any layout, to start the whole network from.
        start_hourglass: a checkpoint to start only the landmark network from.
        freeze_hourglass: iterations in which the landmark network stays as it started.
        ema: decay of the averaged weights, which are then validated and kept; 0 for none.
        precision: of the arithmetic; weights, losses and updates are float32 in all of them.
        compile: run the network through torch.compile.
        validate_every: iterations between validations; the last one is always validated.
        save_every: iterations between saved states, from which `--resume` goes on.
        log_every: iterations between points of TensorBoard's curves.
        seed: of weights, order, flips, variations and drawn faces.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    name: str
    about: str
    network: NetworkConfig = field(default_factory=NetworkConfig)
    data: Annotated[SyntheticData | FileData, Field(discriminator="kind")] = field(
        default_factory=SyntheticData
    )
    augment: Augment = field(default_factory=Augment)
    degrade: Degrade = field(default_factory=Degrade)
    gan: Gan | None = None
    batch_size: Count = 8
    accumulate: Count = 1
    iterations: Count = 1000
    learning_rate: Positive = 1e-4
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0
    schedule: Literal["constant", "cosine", "milestones"] = "constant"
    milestones: tuple[Count, ...] = ()
    gamma: Positive = 0.5
    pixel_weight: NotNegative = 1.0
    align_weight: NotNegative = 0.1
    peak_weight: NotNegative = 0.0
    detach_attention: bool = False
    start: str = ""
    start_hourglass: str = ""
    freeze_hourglass: Annotated[int, Field(ge=0)] = 0
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    compile: bool = False
    validate_every: Count = 1000
    save_every: Count = 1000
    log_every: Count = 50
    seed: Seed = 0

    def __post_init__(self) -> None:
        landmarks = self.network.landmarks
        if self.data.kind == "synthetic" and landmarks != 68:
            raise ValueError("network.landmarks must be 68: synthetic faces have no others")
        if self.data.flip and landmarks not in FLIPS:
            raise ValueError(
                f"data.flip must be false: how {landmarks} landmarks mirror is not known"
            )
        if self.data.kind == "files" and self.data.drawn and landmarks != 68:
            raise ValueError("data.drawn must be 0: drawn faces have 68 landmarks")
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size {self.batch_size} cannot be computed in {self.accumulate} equal parts"
            )
        if self.schedule == "milestones" and not self.milestones:
            raise ValueError("schedule 'milestones' needs milestones=[…]")


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
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a TOML file: {error}") from error
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    content["name"] = path.stem
    _change_data(content, overrides)
    for override in overrides:
        _override(content, override)
    return recipe_from(content, f"recipe {name}")


def _change_data(content: dict[str, Any], overrides: Sequence[str]) -> None:
    """Where the command line names data of another kind, forget the recipe's own."""
    set_to = dict(line.partition("=")[::2] for line in overrides)
    kind = set_to.get("data.kind", "files" if "data.train" in set_to else None)
    if kind is not None and kind != content.get("data", {}).get("kind", "synthetic"):
        content["data"] = {"kind": kind}


def recipe_from(content: dict[str, Any], source: str) -> Recipe:
    """A recipe from its fields as plain data.

    Raises:
        UserError: a field that does not exist or does not fit; it begins with `source`.
    """
    data = content.get("data", {})
    if isinstance(data, dict):
        content = content | {"data": {"kind": "synthetic", **data}}
    try:
        return _RECIPE.validate_python(content)
    except ValidationError as error:
        raise UserError(f"{source}: {_explain(error)}") from error


def override(recipe: Recipe, overrides: Sequence[str]) -> Recipe:
    """A recipe with some fields set by `key=value`.

    Raises:
        UserError: a field that does not exist or does not fit.
    """
    content = asdict(recipe)
    for line in overrides:
        _override(content, line)
    return recipe_from(content, f"recipe {recipe.name}")


_RECIPE = TypeAdapter(Recipe)


def _override(content: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise UserError(f"{override!r}: a field of the recipe is set by key=value")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value  # a bare word is a string
    *parents, leaf = key.split(".")
    for parent in parents:
        content = content.setdefault(parent, {})
        if not isinstance(content, dict):
            raise UserError(f"{override!r}: {parent} has no fields")
    content[leaf] = parsed


def _explain(error: ValidationError) -> str:
    """The first thing wrong, in one line; an unknown field with the nearest that exists."""
    first = error.errors()[0]
    # The kind of a union is part of pydantic's path, not of the field's name.
    path = [str(part) for part in first["loc"]]
    key = ".".join(part for part in path if path[0] != "data" or part not in KINDS)
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        near = difflib.get_close_matches(key, _field_names() - {key}, n=1, cutoff=0)
        return f"unknown field {key!r}; did you mean {near[0]!r}?"
    message = first["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    return f"{key}: {message}" if key else message


KINDS: dict[str, type] = {"synthetic": SyntheticData, "files": FileData}


def _field_names() -> set[str]:
    """Every field that can be set."""
    parts = [("data", kind) for kind in KINDS.values()]
    parts += [("network", NetworkConfig), ("gan", Gan), ("augment", Augment), ("degrade", Degrade)]
    inner = {f"{part}.{inner.name}" for part, held in parts for inner in fields(held)}
    return {own.name for own in fields(Recipe)} | inner
