"""Files written by `torch.save`: read as data, within their own size, whatever wraps the tensors.

Files are read with `weights_only=True`, so a pickle that would run code is refused.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dic.console import UserError
from dic.files import open_regular

# PyTorch stores tensors uncompressed. More bytes than this many times the file's are no weights.
LARGEST_EXPANSION = 4
TORCHSCRIPT = re.compile(r"(^|/)(constants\.pkl|code/.*)$")  # members that only programs have


class CheckpointError(UserError):
    """The file is not a usable DIC checkpoint. The message is one line and says why."""


def read(path: Path) -> tuple[dict[str, Any], str]:
    """Read a file written by `torch.save`; only tensors and plain data are loaded.

    Returns:
        the content, and the SHA-256 of the file in hexadecimal.

    Raises:
        CheckpointError: the file cannot be read, is no regular file, is unsafe, would take more
            memory than its size warrants, or does not contain a dictionary.
    """
    try:
        with open_regular(path) as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            size = file.tell()
            content = _load(path, file) if size else None
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from error
    if not isinstance(content, dict):
        actual = "nothing" if content is None else f"a {type(content).__name__}"
        raise CheckpointError(f"{path}: contains {actual}, not a checkpoint")
    return content, sha256


def _load(path: Path, file: io.BufferedReader) -> Any:
    _check_archive(path, file)
    file.seek(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols; errors are raised below
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # PyTorch's message has several paragraphs; only the name of the refused object matters.
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        why = f"it would run {refused[1]}" if refused else "it is damaged or not a PyTorch file"
        raise CheckpointError(
            f"{path}: refused, {why}; only tensors and plain data are loaded"
        ) from error
    except Exception as error:  # a damaged file can make the unpickler raise anything
        raise CheckpointError(f"{path}: damaged, or not a PyTorch checkpoint") from error


def _check_archive(path: Path, file: io.BufferedReader) -> None:
    """Check what a ZIP archive's directory says before anything is expanded.

    Raises:
        CheckpointError: it holds a program, or expands to far more than the file.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return  # PyTorch's older format, or damage, which loading tells
    if any(TORCHSCRIPT.search(member.filename) for member in members):
        raise CheckpointError(
            f"{path}: is a TorchScript program, not a checkpoint; save the network's state_dict"
        )
    expanded, size = sum(member.file_size for member in members), file.seek(0, 2)
    if expanded > LARGEST_EXPANSION * size:
        raise CheckpointError(
            f"{path}: refused, its {size / 1e6:.1f} MB would expand to {expanded / 1e6:.0f} MB"
        )


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of any PyTorch checkpoint, by their names in the innermost state dict.

    Raises:
        CheckpointError: the file cannot be read, is unsafe, or contains no tensors.
    """
    content, _ = read(path)
    held: Mapping[Any, Any] = content
    while not any(isinstance(value, Tensor) for value in held.values()):
        inner = [value for value in held.values() if isinstance(value, Mapping) and flat(value)]
        if not inner:
            raise CheckpointError(f"{path}: contains no tensors")
        held = max(inner, key=lambda mapping: len(flat(mapping)))
    try:
        return weights(flat(held))
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error


def flat(content: object, prefix: str = "") -> dict[str, Tensor]:
    """All tensors of nested mappings, by their keys joined with dots, however they are wrapped.

    A mapping that occurs several times, or within itself, counts where it occurs first.
    """
    tensors: dict[str, Tensor] = {}
    entered = {id(content)}
    open_ones = [(prefix, iter(content.items()))] if isinstance(content, Mapping) else []
    while open_ones:  # not by recursion: there may be any number of levels
        before, items = open_ones[-1]
        for key, value in items:
            if isinstance(value, Tensor):
                tensors[f"{before}{key}"] = value
            elif isinstance(value, Mapping) and id(value) not in entered:
                entered.add(id(value))
                open_ones.append((f"{before}{key}.", iter(value.items())))
                break
        else:
            open_ones.pop()
    return tensors


def part(tensors: Mapping[str, Tensor], marks: tuple[str, ...]) -> dict[str, Tensor]:
    """The tensors of one network among others, without the prefix that its wrappers gave them.

    The prefix is what stands before a mark, a name that only this network has. Averaged weights
    (EMA) are preferred if there are several.

    Args:
        tensors: by name, see `flat`.
        marks: such as "hour_glass.".

    Returns:
        empty if no name has a mark.
    """
    mark = re.compile(rf"^(.*?)(?<![^.])(?:{'|'.join(map(re.escape, marks))})")
    prefixes = dict.fromkeys(found[1] for name in tensors if (found := mark.match(name)))
    if not prefixes:
        return {}
    chosen = max(prefixes, key=lambda prefix: ("ema" in prefix.lower(), -len(prefix)))
    return {n.removeprefix(chosen): t for n, t in tensors.items() if n.startswith(chosen)}


def weights(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Check that tensors are dense floating point, and as large as the file made them.

    Whole numbers of one element are counters, and left out.

    Raises:
        ValueError: names the first that is not, or there are none.
    """
    if not tensors:
        raise ValueError("contains no tensors")
    kept = {}
    for name, tensor in tensors.items():
        dense = tensor.layout == torch.strided
        if dense and tensor.numel() == 1 and not tensor.is_floating_point():
            continue
        if not dense or not tensor.is_floating_point():
            raise ValueError(
                f"{name} is a {tensor.layout} {tensor.dtype} tensor, not dense floating point"
            )
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise ValueError(f"{name} has {tensor.numel()} elements, more than the file stores")
        kept[name] = tensor
    return kept
