"""Checkpoints: our own format, MMEditing's and the authors', told apart by their content.

A checkpoint is data. It is read with `weights_only=True`, so a pickle that would run code is
refused; nothing else is ever unpickled.
"""

from __future__ import annotations

import enum
import hashlib
import io
import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dic.console import UserError
from dic.files import write_whole
from train.model.network import DIC, NetworkConfig
from train.pretrained import checkpoint_path

# What the engine that the runtime ships was exported from: the recipe dic-synthetic's result.
SHIPPED_WEIGHTS = Path(__file__).parent / "weights" / "dic-synthetic.pth"

FORMAT = "dic-toolkit checkpoint"
FORMAT_VERSION = 1
DEFAULT_STEPS = 4  # of both released networks
NAMED_AT_MOST = 6  # wrong tensors named in one error line; the rest are counted


class Layout(enum.Enum):
    """Whose checkpoint it is."""

    TOOLKIT = "toolkit"
    MMEDITING = "mmediting"
    ORIGINAL = "original"


class CheckpointError(UserError):
    """The file is no usable DIC checkpoint; the message is one line and says why."""


@dataclass(frozen=True)
class Checkpoint:
    """A network with its weights, and where it came from.

    Attributes:
        network: in eval mode, on the CPU.
        layout: which of the three layouts the file had.
        sha256: of the file, in hexadecimal.
        provenance: how it was trained (recipe, iteration, seed, versions); empty for others'.
        trained_steps: the number of steps it was trained with; None where the layout does not say.
    """

    network: DIC
    layout: Layout
    sha256: str
    provenance: Mapping[str, Any]
    trained_steps: int | None


def save_checkpoint(path: Path, network: DIC, provenance: Mapping[str, Any]) -> None:
    """Write a checkpoint in our own format, whole or not at all.

    Args:
        path: where to; a file there is replaced.
        network: its weights and its configuration (steps included) are kept.
        provenance: numbers, strings, lists and dicts only, so that it loads with `weights_only`.

    Raises:
        UserError: it cannot be written.
    """
    content = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "network": asdict(network.config),
        "state_dict": network.state_dict(),
        "provenance": dict(provenance),
    }
    write(path, content)


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write tensors and plain data, whole or not at all.

    Raises:
        UserError: it cannot be written.
    """
    buffer = io.BytesIO()  # torch.save on a file reports a full disk as a bare RuntimeError
    torch.save(content, buffer)
    write_whole(path, buffer.getbuffer())


def load_checkpoint(path: Path, steps: int | None = None) -> Checkpoint:
    """Read a checkpoint of any of the three layouts.

    Args:
        path: the file, or the name of released weights (`train.pretrained`).
        steps: overrides the number of steps, which only our own format records (default 4).

    Raises:
        CheckpointError: unreadable, unsafe, or its tensors are not a DIC network's; wrong
            tensors are listed by name.
    """
    path = checkpoint_path(path)
    content, sha256 = read(path)
    try:
        layout, tensors = _recognise(content)
        trained = _recorded_steps(content) if layout is Layout.TOOLKIT else None
        config = config_from_shapes(tensors, steps or trained or DEFAULT_STEPS)
        with torch.device("meta"):  # shapes only: a wrong file may promise terabytes
            check_tensors(tensors, DIC(config), "a DIC network")
        network = DIC(config)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    network.load_state_dict(tensors)
    provenance = content.get("provenance", {}) if layout is Layout.TOOLKIT else {}
    return Checkpoint(network.eval(), layout, sha256, provenance, trained)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The named tensors of any PyTorch checkpoint.

    Raises:
        CheckpointError: unreadable, unsafe, or without tensors.
    """
    content, _ = read(path)
    try:
        return _held(content)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error


def load_hourglass(path: Path, network: DIC) -> None:
    """Give `network` the landmark network of a DIC checkpoint of any layout.

    The authors' separate hourglass file (the same names without `HG.`) is understood too.

    Raises:
        CheckpointError: unreadable, unsafe, or its tensors do not fit.
    """
    tensors = {name.removeprefix("module."): t for name, t in read_tensors(path).items()}
    tensors = {name.removeprefix("generator."): t for name, t in tensors.items()}
    if any(name.startswith("compress_in.") for name in tensors):
        tensors = {f"HG.{name}": tensor for name, tensor in tensors.items()}
    if any(name.startswith("HG.") for name in tensors):
        tensors = _rename_original(tensors)
    inner = {
        name.removeprefix("hour_glass."): tensor
        for name, tensor in tensors.items()
        if name.startswith("hour_glass.")
    }
    try:
        check_tensors(inner, network.hour_glass, "this recipe's landmark network")
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    network.hour_glass.load_state_dict(inner)


def read(path: Path) -> tuple[dict[str, Any], str]:
    """A checkpoint's content, and the SHA-256 of its file in hexadecimal.

    Raises:
        CheckpointError: unreadable, unsafe, or no dictionary.
    """
    try:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            size = file.tell()
            file.seek(0)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of pickle protocols; what fails is reported below
                content = torch.load(file, map_location="cpu", weights_only=True) if size else None
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from error
    except pickle.UnpicklingError as error:
        # torch's message is paragraphs; the name of what it refused is what a user needs.
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        why = f"it would run {refused[1]}" if refused else "it is damaged or no PyTorch file"
        raise CheckpointError(
            f"{path}: refused, {why}; only tensors and plain data are loaded"
        ) from error
    except Exception as error:  # a damaged file can make the unpickler raise anything
        raise CheckpointError(f"{path}: damaged or no PyTorch checkpoint") from error
    if not isinstance(content, dict):
        held = "nothing" if content is None else type(content).__name__
        raise CheckpointError(f"{path}: holds {held}, not a checkpoint")
    return content, sha256


def _recognise(content: dict[str, Any]) -> tuple[Layout, dict[str, Tensor]]:
    """The layout, and the tensors under this project's names."""
    if content.get("format") == FORMAT:
        version = content.get("format_version")
        if version != FORMAT_VERSION:
            raise ValueError(
                f"checkpoint format {version} is not known here (this version reads "
                f"{FORMAT_VERSION}); upgrade dic-toolkit"
            )
        return Layout.TOOLKIT, _tensors(content.get("state_dict"))
    if str(content.get("format", "")).endswith("training state"):
        raise ValueError("a training state; the network is in last.pth and best.pth beside it")
    tensors = _held(content)
    # The averaged weights are the better ones where a run kept them.
    for prefix in ("generator_ema.", "generator.", "module."):
        inner = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        tensors = inner or tensors
    if any(name.startswith("HG.") for name in tensors):
        return Layout.ORIGINAL, _rename_original(tensors)
    if any(name.startswith("hour_glass.") for name in tensors):
        return Layout.MMEDITING, tensors
    some = ", ".join(list(tensors)[:3])
    raise ValueError(
        f"not a DIC network: no landmark network (hour_glass.*, HG.*) among its "
        f"{len(tensors)} tensors ({some} …)"
    )


def _held(content: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors of a checkpoint of anybody's, wherever in it they are."""
    for key in ("state_dict", "netG"):
        if isinstance(content.get(key), dict):
            return _tensors(content[key])
    return _tensors(content)


def _tensors(held: object) -> dict[str, Tensor]:
    if not isinstance(held, Mapping):
        raise ValueError("holds no state_dict")
    tensors = {str(k): v for k, v in held.items() if isinstance(v, Tensor)}
    if not tensors:
        raise ValueError("holds no tensors")
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or not tensor.is_floating_point():
            raise ValueError(f"{name} is a {tensor.layout} {tensor.dtype} tensor, not plain floats")
    return tensors


def _recorded_steps(content: dict[str, Any]) -> int:
    recorded = content.get("network")
    steps = recorded.get("steps") if isinstance(recorded, dict) else None
    if not isinstance(steps, int):
        raise ValueError("its network configuration is damaged")
    return steps


# The authors' module names → ours (MMEditing's). First match wins.
_ORIGINAL_NAMES: tuple[tuple[str, str], ...] = (
    (r"^conv_in\.", "conv_first."),
    (r"^out\.", "conv_last."),
    (r"^conv_out\.0\.", "conv_last.2."),
    (r"^(first_block|block)\.compress_in\.", r"\1.conv_first."),
    (r"^(first_block|block)\.compress_out\.", r"\1.conv_last."),
    (r"^(first_block|block)\.upBlocks\.", r"\1.up_blocks."),
    (r"^(first_block|block)\.downBlocks\.", r"\1.down_blocks."),
    (r"^(first_block|block)\.uptranBlocks\.", r"\1.lr_blocks."),
    (r"^(first_block|block)\.downtranBlocks\.", r"\1.hr_blocks."),
    (r"^block\.fusion_block\.conv_in\.", "block.fusion_block.conv_first."),
    (r"^block\.fusion_block\.resnet\.", "block.fusion_block.body."),
    (r"^HG\.compress_in\.", "hour_glass.first_conv."),
    (r"^HG\.hg_conv_out\.1\.conv_block\.0\.", "hour_glass.last.1."),
    (r"^HG\.hg_conv_out\.2\.", "hour_glass.last.3."),
    (r"^HG\.hg_conv_out\.0\.", "hour_glass.last.0."),
    (r"^HG\.", "hour_glass."),
)
_ORIGINAL_LEVEL = re.compile(r"^HG\.hg\.(?:res(\d+)_([123])|res_center)\.(.*)$")


def _rename_original(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The authors' tensors under our names; a name that matches nothing stays as it is.

    The authors number the hourglass's levels from the inside (`res4_1` is the outermost of four),
    we nest them: `hg.low2.low2…`.
    """
    levels = [int(m[1]) for name in tensors if (m := _ORIGINAL_LEVEL.match(name)) and m[1]]
    depth = max(levels, default=0)
    part = {"1": "up1", "2": "low1", "3": "low3"}

    def rename(name: str) -> str:
        if match := _ORIGINAL_LEVEL.match(name):
            level, branch, rest = match.groups()
            nested = "low2." * (depth if level is None else depth - int(level))
            inner = nested.removesuffix(".") if level is None else nested + part[branch]
            return f"hour_glass.hg.{inner}.{rest}"
        for pattern, ours in _ORIGINAL_NAMES:
            renamed, hits = re.subn(pattern, ours, name)
            if hits:
                return renamed
        return name

    return {rename(name): tensor for name, tensor in tensors.items()}


def config_from_shapes(tensors: Mapping[str, Tensor], steps: int) -> NetworkConfig:
    """Read a network's sizes off its tensors' names and shapes.

    Args:
        tensors: under this project's names; a few may be missing.
        steps: the one number that no tensor shows.

    Raises:
        ValueError: a tensor that tells a size is missing or misshapen.
    """

    def shape(*names: str, rank: int = 4) -> torch.Size:
        for name in names:
            if name in tensors and tensors[name].dim() == rank:
                return tensors[name].shape
        raise ValueError(f"not a DIC network: lacks {names[0]}, or it has another rank")

    def count(pattern: str) -> int:
        found = [int(m[1]) for name in tensors if (m := re.match(pattern, name))]
        return 1 + max(found, default=-1)

    def depth() -> int:
        found = [m[1].count("low2.") for n in tensors if (m := re.match(_HOURGLASS_LEVEL, n))]
        return 1 + max(found, default=-1)

    up = shape("first_block.up_blocks.0.0.weight", "block.up_blocks.0.0.weight")
    last = shape("hour_glass.last.3.weight")
    return NetworkConfig(
        channels=up[0],
        groups=count(r"(?:first_)?block\.up_blocks\.(\d+)\."),
        projection=up[2] - 4,
        fusion_blocks=count(r"block\.fusion_block\.body\.(\d+)\."),
        hourglass_channels=last[1],
        hourglass_depth=depth(),
        landmarks=last[0],
        steps=steps,
    )


_HOURGLASS_LEVEL = re.compile(r"hour_glass\.hg\.((?:low2\.)*)(?:up1|low1|low3)\.")


def check_tensors(tensors: Mapping[str, Tensor], network: nn.Module, whose: str) -> None:
    """Raise ValueError where names or shapes are not those of `network`; `whose` names it."""
    wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    missing = [name for name in wanted if name not in tensors]
    surplus = [name for name in tensors if name not in wanted]
    misshapen = [
        f"{name} {_shape(tensors[name].shape)} for {_shape(shape)}"
        for name, shape in wanted.items()
        if name in tensors and tuple(tensors[name].shape) != shape
    ]
    wrong = [
        f"{len(names)} {kind}: {_listed(names)}"
        for kind, names in (("missing", missing), ("surplus", surplus), ("misshapen", misshapen))
        if names
    ]
    if wrong:
        raise ValueError(f"its tensors are not those of {whose}; {'; '.join(wrong)}")


def _listed(names: list[str]) -> str:
    rest = len(names) - NAMED_AT_MOST
    return ", ".join(names[:NAMED_AT_MOST]) + (f" and {rest} more" if rest > 0 else "")


def _shape(shape: tuple[int, ...] | torch.Size) -> str:
    return "×".join(map(str, shape)) or "scalar"
