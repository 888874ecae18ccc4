"""Recipes: the complete configuration of a training run, read from a TOML file."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from dic.console import UserError
from dic.documents import parse_toml
from dic.landmarks import FLIPS
from train.model.network import NetworkConfig

RECIPES = Path(__file__).parent / "recipes"

Count = Annotated[int, Field(ge=1, le=10**9)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Workers = Annotated[int, Field(ge=0, le=256)]
Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True)
class SyntheticData:
    """Faces drawn by `train.data.synthetic`.

    Faces 0 … count-1 of the sequence `seed` are for training, the next ones for validation.

    Attributes:
        seed: of the sequence of faces.
        count: number of training faces.
        validation: number of validation faces.
        flip: mirror each training face with probability 0.5.
        workers: data loader processes per training process.
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
    """Faces of a data set: a folder of pictures with landmark files, or tar shards.

    `train.data.datasets` describes the supported layouts.

    Attributes:
        train: a folder of pictures, a folder of `.tar` files, or a glob pattern of them
            (`shards/train-*.tar`).
        validation: the same for the validation faces.
        landmarks: a file with the landmarks of all pictures; if empty, they are read from files
            beside the pictures.
        validation_landmarks: the same for the validation pictures.
        flip: mirror each training face with probability 0.5 (68 or 5 landmarks only).
        drawn: fraction of the training faces that are synthetic, new ones in every epoch (68
            landmarks only).
        workers: data loader processes per training process.
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
                raise ValueError(f"data.{name} is missing; set data.{name}=FOLDER")


@dataclass(frozen=True)
class Augment:
    """Ranges of the random augmentation of training faces. By default there is none.

    Attributes:
        turn: largest rotation in degrees, in both directions.
        scale: largest factor by which the crop is enlarged or reduced, minus 1.
        shift: largest shift of the crop on each axis, as a fraction of its side.
        colour: standard deviation of the logarithm of each channel's gain.
        exposure: standard deviation of the logarithm of the common gain; half of it is that of the
            logarithm of gamma.
        grey: fraction of the faces that are converted to grey.
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
    """Random degradation of the inputs: blur, resizing, noise and JPEG, before reduction to 16×16.

    Attributes:
        share: fraction of the faces that are degraded; the others are only reduced to 16×16, as in
            the paper.
        blur: largest standard deviation of the Gaussian blur, in pixels of the 128×128 face.
        noise: largest standard deviation of the noise, in levels of 0..255.
        jpeg: lowest JPEG quality (Pillow's scale); half of the degraded faces are compressed.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    share: Share = 0.0
    blur: Annotated[float, Field(ge=0, le=16)] = 2.0
    noise: Annotated[float, Field(ge=0, le=64)] = 6.0
    jpeg: Annotated[int, Field(ge=1, le=100)] = 50


@dataclass(frozen=True)
class Gan:
    """Adversarial training, as for DICGAN (Ma et al., Section 3.4, eq. 11 to 13).

    Without LightCNN's weights, the critic's own features (`critic_feature_weight`) can take the
    place of LightCNN's, and `consistency_weight` keeps the face faithful to its input.

    Attributes:
        loss: the objective of the critic (the discriminator); "relativistic" compares real with
            restored faces (Jolicoeur-Martineau, ICLR 2019).
        start: number of initial iterations without the feature and adversarial losses.
        critic_updates: updates of the critic per iteration.
        critic_learning_rate: peak learning rate of the critic's Adam; the schedule is the
            generator's.
        feature_weight: weight of the L1 loss on LightCNN features of the last step's face.
        feature_checkpoint: LightCNN weights for this loss (MMEditing's or the authors' file).
        adversarial_weight: weight of the generator's adversarial loss on the last step's face.
        critic_feature_weight: weight of the L1 loss on the critic's features of the last step's
            face (Wang et al., CVPR 2018, feature matching).
        consistency_weight: weight of the L1 loss between the last step's face, reduced to 16×16,
            and the true face, reduced likewise.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    loss: Literal["vanilla", "lsgan", "hinge", "relativistic"] = "vanilla"
    start: Annotated[int, Field(ge=0)] = 0
    critic_updates: Count = 1
    critic_learning_rate: Positive = 1e-4
    feature_weight: NotNegative = 0.1
    feature_checkpoint: str = ""
    adversarial_weight: NotNegative = 0.005
    critic_feature_weight: NotNegative = 0.0
    consistency_weight: NotNegative = 0.0

    def __post_init__(self) -> None:
        if self.feature_weight and not self.feature_checkpoint:
            raise ValueError(
                "gan.feature_checkpoint is missing; set gan.feature_checkpoint=FILE (LightCNN "
                "weights), or gan.feature_weight=0 to train without them"
            )


@dataclass(frozen=True)
class Recipe:
    """The configuration of a training run.

    Attributes:
        name: file name of the recipe without suffix.
        about: what the run reproduces, on what data, with what result.
        network: sizes of the network.
        data: training and validation faces.
        augment: augmentation of the training faces.
        degrade: degradation of the inputs.
        gan: adversarial training; none by default.
        batch_size: faces per update, over all processes.
        accumulate: micro-batches into which each batch is divided, to save memory.
        iterations: number of optimiser updates.
        learning_rate: of Adam; the peak of the schedule.
        warmup: fraction of the iterations during which the learning rate rises linearly from zero.
        schedule: the learning rate after the warm-up: "constant"; "cosine", falling to zero; or
            "milestones", multiplied by `gamma` at each of the `milestones`.
        cycles: equal parts of the run in each of which warm-up and schedule start again (warm
            restarts; Loshchilov & Hutter, 2017).
        milestones: iterations at which the learning rate is multiplied by `gamma`.
        gamma: factor at each milestone.
        pixel_weight: weight of the pixel loss on every step's face (Ma et al., eq. 9).
        pixel_loss: "l1", as in both released implementations, or "psnr", the mean of -PSNR in dB,
            whose gradient is some 100 times larger.
        ssim_weight: weight of 1 - SSIM of the last step's face (Zhao et al., 2017).
        align_weight: weight of the MSE loss on every step's heatmaps (eq. 10).
        peak_weight: additional weight of a heatmap's peak in the MSE, relative to its background. 0
            in the paper, which starts from a trained hourglass; an untrained one otherwise predicts
            zero heatmaps for a long time.
        detach_attention: do not propagate the recovery loss into the landmark network (an option of
            the authors' code).
        start: a checkpoint of any supported layout to initialise the whole network from.
        start_hourglass: a checkpoint to initialise only the landmark network from.
        freeze_hourglass: number of initial iterations in which the landmark network is not updated.
        ema: decay of the exponential moving average of the weights; the averaged weights are
            validated and saved. 0 for no averaging.
        precision: of the forward and backward pass; weights, losses and updates are float32.
        compile: compile the network with torch.compile.
        validate_every: iterations between validations; there is always one at the end.
        save_every: iterations between saves of the training state, from which `--resume` continues.
        log_every: iterations between points in TensorBoard.
        seed: of the initial weights, the order of the faces, augmentation and drawn faces.
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
    cycles: Count = 1
    milestones: tuple[Count, ...] = ()
    gamma: Positive = 0.5
    pixel_weight: NotNegative = 1.0
    pixel_loss: Literal["l1", "psnr"] = "l1"
    ssim_weight: NotNegative = 0.0
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
            raise ValueError("network.landmarks must be 68, because synthetic faces have 68")
        if self.data.flip and landmarks not in FLIPS:
            raise ValueError(
                f"data.flip must be false, because no mirrored numbering of {landmarks} landmarks "
                "is defined"
            )
        if self.data.kind == "files" and self.data.drawn and landmarks != 68:
            raise ValueError(
                f"data.drawn must be 0, because drawn faces have 68 landmarks, not {landmarks}"
            )
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of accumulate {self.accumulate}"
            )
        if self.schedule == "milestones" and not self.milestones:
            raise ValueError("schedule 'milestones' needs milestones; set milestones=[…]")
        if self.schedule == "milestones" and self.cycles > 1:
            raise ValueError("cycles must be 1 with schedule 'milestones', which names iterations")


def shipped_recipes() -> list[str]:
    """Return the names of the recipes in this package."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def recipe_path(name: str) -> Path:
    """The file of a shipped recipe, or of one given by its path; raises UserError without one."""
    path = RECIPES / f"{name}.toml"
    if path.is_file() or (path := Path(name)).is_file():
        return path
    raise UserError(f"no recipe {name!r}; name a file, or one of {', '.join(shipped_recipes())}")


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Load a recipe.

    Args:
        name: of a shipped recipe, or the path of a TOML file.
        overrides: `key=value`, with dotted keys and TOML values, e.g. `network.channels=32`.

    Raises:
        UserError: no such recipe, not a TOML file, or an unknown or invalid field.
    """
    path = recipe_path(name)
    try:
        content = parse_toml(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not a TOML file: {error}") from error
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    content["name"] = path.stem
    _change_data(content, overrides)
    for override in overrides:
        _override(content, override)
    return recipe_from(content, f"recipe {name}")


def _change_data(content: dict[str, Any], overrides: Sequence[str]) -> None:
    """Discard the recipe's `data` section if the overrides select another kind of data."""
    values = dict(override.partition("=")[::2] for override in overrides)
    kind = values.get("data.kind", "files" if "data.train" in values else None)
    if kind is not None and kind != content.get("data", {}).get("kind", "synthetic"):
        content["data"] = {"kind": kind}


def recipe_from(content: dict[str, Any], source: str) -> Recipe:
    """Build a recipe from nested dictionaries, as in a TOML file.

    Args:
        source: where the content is from; begins the error message.

    Raises:
        UserError: an unknown or invalid field.
    """
    data = content.get("data", {})
    if isinstance(data, dict):
        content = content | {"data": {"kind": "synthetic", **data}}
    try:
        return _RECIPE.validate_python(content)
    except ValidationError as error:
        raise UserError(f"{source}: {_explain(error)}") from error


def override(recipe: Recipe, overrides: Sequence[str]) -> Recipe:
    """Return a copy of a recipe with some fields replaced.

    Args:
        overrides: as for `load_recipe`.

    Raises:
        UserError: an unknown or invalid field.
    """
    content = asdict(recipe)
    for line in overrides:
        _override(content, line)
    return recipe_from(content, f"recipe {recipe.name}")


_RECIPE = TypeAdapter(Recipe)


def _override(content: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise UserError(f"{override!r}: not of the form key=value")
    try:
        parsed = parse_toml(f"value = {value}")["value"]
    except ValueError:
        parsed = value  # unquoted strings are allowed on the command line
    *parents, leaf = key.split(".")
    for parent in parents:
        content = content.setdefault(parent, {})
        if not isinstance(content, dict):
            raise UserError(f"{override!r}: {parent} has no fields; set {parent}=VALUE")
    content[leaf] = parsed


def _explain(error: ValidationError) -> str:
    """Describe the first error in one line; for an unknown field, suggest the most similar one."""
    first = error.errors()[0]
    # Pydantic's path includes the discriminator of the `data` union, which is not part of the key.
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
    """Return the dotted keys of all fields."""
    parts = [("data", kind) for kind in KINDS.values()]
    parts += [("network", NetworkConfig), ("gan", Gan), ("augment", Augment), ("degrade", Degrade)]
    nested = {f"{name}.{field.name}" for name, part in parts for field in fields(part)}
    return {field.name for field in fields(Recipe)} | nested
