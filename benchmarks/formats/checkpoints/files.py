"""Files of the matrix that are no plain `torch.save`: older and foreign formats, and damage."""

from __future__ import annotations

import gzip
import io
import pickle
import tarfile
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

Content = Mapping[str, Any]


@dataclass(frozen=True)
class File:
    """How a file is saved.

    Attributes:
        name: of the format.
        save: writes a content, whose tensors are float32, to a path.
        refused: a pattern of the error that must name the reason; empty if it must be read.
        suffix: of the file.
        slow: to make, because of what is imported.
    """

    name: str
    save: Callable[[Content, Path], object]
    refused: str = ""
    suffix: str = ".pth"
    slow: bool = False


def encoded(content: Any, **options: Any) -> bytes:
    """What `torch.save` writes."""
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def _tensors(content: Content) -> dict[str, Tensor]:
    return dict(content["state_dict"])


def _legacy(content: Content, path: Path) -> None:
    path.write_bytes(encoded(content, _use_new_zipfile_serialization=False))


def _of_device(device: str, zipped: bool = True) -> Callable[[Content, Path], object]:
    """As if every storage lay on a device that is not here."""

    def save(content: Content, path: Path) -> None:
        with mock.patch("torch.serialization.location_tag", return_value=device):
            path.write_bytes(encoded(content, _use_new_zipfile_serialization=zipped))

    return save


def _swapped(content: Content, path: Path) -> None:
    """As a big-endian machine writes it: every storage and the mark of the order."""
    data = encoded(content)
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            held = source.read(name)
            if name.endswith("/byteorder"):
                held = b"big"
            elif "/data/" in name:
                held = np.frombuffer(held, "<u4").byteswap().tobytes()
            target.writestr(name, held)


def _compressed(content: Content, path: Path) -> None:
    """Repacked by an archiver, with compression; PyTorch's own records are stored."""
    data = encoded(content)
    with (
        zipfile.ZipFile(io.BytesIO(data)) as source,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            target.writestr(name, source.read(name))


def _whole_module(content: Content, path: Path) -> None:
    from benchmarks.formats.checkpoints.content import SMALL
    from train.model.network import DIC

    torch.save(DIC(SMALL), path)


def _torchscript(content: Content, path: Path) -> None:
    with warnings.catch_warnings(action="ignore"):  # PyTorch 2.13: torch.jit is deprecated
        torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), path)


def _exported(content: Content, path: Path) -> None:
    program = torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(1, 2),))
    with warnings.catch_warnings(action="ignore"):
        torch.export.save(program, path.with_suffix(".pt2"))
    path.with_suffix(".pt2").replace(path)


def _safetensors(content: Content, path: Path) -> None:
    from safetensors.torch import save_file

    save_file(_tensors(content), path, {"format": "pt"})


def _npz(content: Content, path: Path) -> None:
    with path.open("wb") as file:
        arrays: dict[str, Any] = {name: t.numpy() for name, t in _tensors(content).items()}
        np.savez(file, **arrays)


def _old_tar(content: Content, path: Path) -> None:
    """The format of PyTorch before 0.2: a tar of tensors, storages and the pickle."""
    members = {
        "sys_info": {"protocol_version": 1000, "little_endian": True, "type_sizes": {}},
        "pickle": {},
    }
    with tarfile.open(path, "w:", format=tarfile.PAX_FORMAT) as archive:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            data = pickle.dumps(members.get(name, 0), 2)
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def _in_archive(kind: str) -> Callable[[Content, Path], object]:
    """An archive that holds the file."""

    def save(content: Content, path: Path) -> None:
        data = encoded(content)
        if kind == "gzip":
            path.write_bytes(gzip.compress(data, 1))
        elif kind == "zip":
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("weights/ckpt.pth", data)
        else:
            with tarfile.open(path, "w:gz" if kind == "tar.gz" else "w:") as archive:
                info = tarfile.TarInfo("ckpt.pth")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))

    return save


def _distributed(content: Content, path: Path) -> None:
    """The folder that `torch.distributed.checkpoint` writes."""
    from torch.distributed.checkpoint.state_dict_saver import save

    with warnings.catch_warnings(action="ignore"):
        save(dict(_tensors(content)), checkpoint_id=path, no_dist=True)


def _bytes(data: bytes) -> Callable[[Content, Path], object]:
    return lambda content, path: path.write_bytes(data)


def _onnx(content: Content, path: Path) -> None:
    from onnx import TensorProto, helper, save

    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    node = helper.make_node("Identity", ["x"], ["y"])
    graph = helper.make_graph([node], "g", [value], [helper.make_empty_tensor_value_info("y")])
    save(helper.make_model(graph), path)


def _cut(share: float) -> Callable[[Content, Path], object]:
    def save(content: Content, path: Path) -> None:
        data = encoded(content)
        path.write_bytes(data[: int(share * len(data))])

    return save


def _cut_after(save: Callable[[Content, Path], object], share: float) -> Callable[..., object]:
    """The first part of a file of another format."""

    def saved(content: Content, path: Path) -> None:
        save(content, path)
        data = path.read_bytes()
        path.write_bytes(data[: int(share * len(data))])

    return saved


def _damaged(content: Content, path: Path) -> None:
    """A page of zeros in the middle, as an interrupted copy leaves it."""
    data = bytearray(encoded(content))
    middle = len(data) // 2
    data[middle : middle + 4096] = bytes(4096)
    path.write_bytes(data)


LFS = b"""version https://git-lfs.github.com/spec/v1
oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393
size 91234567
"""
HTML = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body>Not found</body></html>\n"
HDF5 = b"\x89HDF\r\n\x1a\n" + bytes(500)


FILES = (
    File("torch.save", lambda content, path: torch.save(content, path)),
    File("torch.save before 1.6", _legacy),
    File("saved on cuda:0", _of_device("cuda:0")),
    File("saved on cuda:7 before 1.6", _of_device("cuda:7", zipped=False)),
    File("saved on mps", _of_device("mps")),
    File("saved on a big-endian machine", _swapped),
    File("pickle protocol 4", lambda content, path: torch.save(content, path, pickle_protocol=4),
         "pickle protocol 4"),
    File("named .pth.tar", lambda content, path: torch.save(content, path), suffix=".pth.tar"),
    File("named .ckpt", lambda content, path: torch.save(content, path), suffix=".ckpt"),
    File("named .bin", lambda content, path: torch.save(content, path), suffix=".bin"),
    File("repacked with compression", _compressed),
    File("safetensors", _safetensors, suffix=".safetensors"),
    File("safetensors named .pth", _safetensors),
    File("safetensors, cut", _cut_after(_safetensors, 0.5), "truncated|damaged", ".safetensors"),
    File("PyTorch before 0.2", _old_tar, "tar archive"),
    File("a whole nn.Module", _whole_module, "would run train.model.network.DIC.*state_dict"),
    File("TorchScript", _torchscript, "TorchScript program.*state_dict"),
    File("torch.export", _exported, "torch.export program.*state_dict", ".pt2", slow=True),
    File("NumPy's .npz", _npz, "NumPy archive", ".npz"),
    File("a folder of torch.distributed.checkpoint", _distributed, "dcp_to_torch", slow=True),
    File("a folder", lambda content, path: path.mkdir(), "folder"),
    File("ONNX named .pth", _onnx, "damaged, or not a PyTorch"),
    File("Keras's HDF5", _bytes(HDF5), "HDF5", ".h5"),
    File("within gzip", _in_archive("gzip"), "gzip.*unpack"),
    File("within zip", _in_archive("zip"), "ZIP archive.*unpack"),
    File("within tar", _in_archive("tar"), "tar archive.*unpack"),
    File("within tar.gz", _in_archive("tar.gz"), "gzip.*unpack"),
    File("Git LFS's pointer", _bytes(LFS), "Git LFS.*git lfs pull"),
    File("a web page", _bytes(HTML), "web page"),
    File("an error as JSON", _bytes(b'{"error": "not found"}\n'), "not a PyTorch"),
    File("empty", _bytes(b""), "contains nothing"),
    File("one byte", _bytes(b"\x80"), "damaged"),
    File("zeros", _bytes(bytes(10_000)), "damaged"),
    *(File(f"first {share:.0%}", _cut(share), "damaged") for share in (0.01, 0.5, 0.99)),
    File("zeros in the middle", _damaged, "damaged"),
)  # fmt: skip
