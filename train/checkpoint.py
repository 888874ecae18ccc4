"""Checkpoints: reading three layouts (ours, MMEditing's, the authors'), writing ours.

The layout is detected from the content, whatever wraps the tensors (`train.torch_file`).
"""

from __future__ import annotations

import enum
import io
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dic.files import write_whole
from train.model.network import DIC, NetworkConfig
from train.pretrained import checkpoint_path
from train.torch_file import CheckpointError, flat, part, read, read_tensors, weights

# The result of the recipe dic-photoreal, from which the shipped engine was exported.
SHIPPED_WEIGHTS = Path(__file__).parent / "weights" / "dic-photoreal.pth"

FORMAT = "dic-toolkit checkpoint"
FORMAT_VERSION = 1
DEFAULT_STEPS = 4  # as in both released networks, whose checkpoints do not record it
MAX_NAMES = 6  # wrong tensors listed by name in an error message; the rest are counted


class Layout(enum.Enum):
    """The project whose checkpoint layout a file has."""

    TOOLKIT = "toolkit"
    MMEDITING = "mmediting"
    ORIGINAL = "original"


@dataclass(frozen=True)
class Checkpoint:
    """A network loaded from a checkpoint, and its origin.

    Attributes:
        network: in eval mode, on the CPU.
        layout: of the file.
        sha256: of the file, in hexadecimal.
        provenance: how the network was trained (recipe, iteration, validation, versions); empty for
            the other projects' layouts.
        trained_steps: number of steps during training; None if the layout does not record it.
    """

    network: DIC
    layout: Layout
    sha256: str
    provenance: Mapping[str, Any]
    trained_steps: int | None


def save_checkpoint(path: Path, network: DIC, provenance: Mapping[str, Any]) -> None:
    """Write a checkpoint in this project's layout, atomically.

    Args:
        path: an existing file is replaced.
        network: whose weights and configuration (including the steps) are stored.
        provenance: stored as is; only numbers, strings, lists and dicts, because it is loaded with
            `weights_only=True`.

    Raises:
        UserError: the file cannot be written.
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
    """Write tensors and plain data with `torch.save`, atomically.

    Raises:
        UserError: the file cannot be written.
    """
    buffer = io.BytesIO()  # saving to a file, torch.save reports a full disk as a RuntimeError
    torch.save(content, buffer)
    write_whole(path, buffer.getbuffer())


def load_checkpoint(path: Path, steps: int | None = None) -> Checkpoint:
    """Load a checkpoint in any of the three layouts.

    Args:
        path: the file, or the name of released weights (`train.pretrained`).
        steps: number of steps of the returned network; by default the recorded number, or
            DEFAULT_STEPS if the layout does not record it.

    Raises:
        CheckpointError: the file cannot be read, is unsafe, or its tensors are not those of a DIC
            network; the message lists the wrong tensors by name.
    """
    path = checkpoint_path(path)
    content, sha256 = read(path)
    try:
        layout, tensors = _detect_layout(content)
        trained = _recorded_steps(content) if layout is Layout.TOOLKIT else None
        config = config_from_shapes(tensors, steps or trained or DEFAULT_STEPS)
        with torch.device("meta"):  # allocates nothing; the sizes in a wrong file may be huge
            network = DIC(config)
        check_tensors(tensors, network, "a DIC network")
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    network.load_state_dict({name: _own(t) for name, t in tensors.items()}, assign=True)
    provenance = content.get("provenance", {}) if layout is Layout.TOOLKIT else {}
    return Checkpoint(network.eval(), layout, sha256, provenance, trained)


def _own(tensor: Tensor) -> Tensor:
    """A parameter's value: float32, dense, in memory that no other tensor of the file shares."""
    dense = torch.contiguous_format
    return tensor.detach().to(torch.float32, copy=True, memory_format=dense)


def load_hourglass(path: Path, network: DIC) -> None:
    """Load the landmark network of a DIC checkpoint, in any layout, into `network`.

    Also loads the authors' separate hourglass checkpoint, whose names lack the prefix `HG.`.

    Raises:
        CheckpointError: the file cannot be read, is unsafe, or its tensors do not match.
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


def _detect_layout(content: dict[str, Any]) -> tuple[Layout, dict[str, Tensor]]:
    """Return the layout, and the generator's tensors under this project's names.

    Raises:
        ValueError: the content is not a DIC checkpoint.
    """
    if content.get("format") == FORMAT:
        version = content.get("format_version")
        if version != FORMAT_VERSION:
            raise ValueError(
                f"checkpoint format {version} is not supported, only {FORMAT_VERSION} is; upgrade "
                "dic-toolkit"
            )
        return Layout.TOOLKIT, weights(flat(content.get("state_dict")))
    if str(content.get("format", "")).endswith("training state"):
        raise ValueError("is a training state; load last.pth or best.pth from the same folder")
    tensors = flat(content)
    network = part(tensors, ("HG.", "hour_glass."))
    if any(name.startswith("HG.") for name in network):
        return Layout.ORIGINAL, _rename_original(weights(network))
    if network:
        return Layout.MMEDITING, weights(network)
    if not tensors:
        raise ValueError("contains no tensors")
    some = ", ".join(list(tensors)[:3])
    raise ValueError(
        f"not a DIC network: no landmark network (hour_glass.*, HG.*) among its "
        f"{len(tensors)} tensors ({some} …)"
    )


def _recorded_steps(content: dict[str, Any]) -> int:
    recorded = content.get("network")
    steps = recorded.get("steps") if isinstance(recorded, dict) else None
    if not isinstance(steps, int):
        raise ValueError("damaged network configuration")
    return steps


# Patterns of the authors' parameter names → our names (MMEditing's). The first match applies.
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
    """Translate the authors' parameter names to ours; unknown names are unchanged.

    The authors number the levels of the hourglass from the innermost (`res4_1` is the outermost of
    four); in our names they are nested, `hg.low2.low2…`.
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
    """Derive a network's configuration from the names and shapes of its tensors.

    Args:
        tensors: under this project's names; may be incomplete.
        steps: number of steps, which the tensors do not determine.

    Raises:
        ValueError: a required tensor is missing or has the wrong rank, or a size is out of range.
    """

    def shape(*names: str, rank: int = 4) -> torch.Size:
        for name in names:
            if name in tensors and tensors[name].dim() == rank:
                return tensors[name].shape
        raise ValueError(f"not a DIC network: {names[0]} is missing or does not have rank {rank}")

    def count(pattern: str) -> int:
        indices = [int(m[1]) for name in tensors if (m := re.match(pattern, name))]
        return 1 + max(indices, default=-1)

    def depth() -> int:
        levels = [m[1].count("low2.") for n in tensors if (m := re.match(_HOURGLASS_LEVEL, n))]
        return 1 + max(levels, default=-1)

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


def check_tensors(tensors: Mapping[str, Tensor], network: nn.Module, description: str) -> None:
    """Check that the names and shapes of `tensors` are those of `network`.

    Args:
        description: of the network, for the error message.

    Raises:
        ValueError: they differ; the message lists the wrong tensors by name.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    missing = [name for name in expected if name not in tensors]
    unexpected = [name for name in tensors if name not in expected]
    misshapen = [
        f"{name} ({_shape(tensors[name].shape)} instead of {_shape(shape)})"
        for name, shape in expected.items()
        if name in tensors and tuple(tensors[name].shape) != shape
    ]
    groups = {"missing": missing, "unexpected": unexpected, "of the wrong shape": misshapen}
    wrong = [f"{len(names)} {kind}: {_listed(names)}" for kind, names in groups.items() if names]
    if wrong:
        raise ValueError(f"its tensors are not those of {description}; {'; '.join(wrong)}")


def _listed(names: list[str]) -> str:
    rest = len(names) - MAX_NAMES
    return ", ".join(names[:MAX_NAMES]) + (f" and {rest} more" if rest > 0 else "")


def _shape(shape: tuple[int, ...] | torch.Size) -> str:
    """Format a shape as 48×3×3×3."""
    return "×".join(map(str, shape)) or "scalar"
