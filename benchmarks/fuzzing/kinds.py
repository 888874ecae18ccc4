"""The kinds of files that are mutated: valid samples, their mutation, and what reads them."""

from __future__ import annotations

import hashlib
import io
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fuzzing.mutations import ODD, mutated_binary, mutated_text, mutated_value
from dic.console import UserError
from dic.engine_file import EngineError, read_sidecar, sidecar

MOST_PIXELS = 2**22  # larger pictures are refused before they are decoded, as by a small --memory
PLAN = b"ptrt" + bytes(64)
Sample = tuple[str, bytes]  # file name, content
Mutate = Callable[[Sample, random.Random], Sample]


@dataclass(frozen=True)
class Kind:
    """What is mutated and read.

    Attributes:
        samples: makes small valid files.
        mutate: gives a mutated one.
        read: reads a file as the product does.
        errors: what it may raise.
    """

    samples: Callable[[], list[Sample]]
    mutate: Mutate
    read: Callable[[Path], object]
    errors: tuple[type[Exception], ...] = (UserError,)


def kinds(engine: Path, checkpoint: Path) -> dict[str, Kind]:
    """All kinds by name; engines and checkpoints are mutations of the ones given."""
    return {
        "pictures": Kind(_pictures, _binary, _read_picture, (UserError, *_image_errors())),
        "boxes": Kind(_boxes, _text, _read_boxes),
        "landmarks": Kind(_landmarks, _text_or_binary, _read_landmarks),
        "recipes": Kind(_recipes, _text, _read_recipe),
        "checkpoints": Kind(
            lambda: _checkpoints(checkpoint.read_bytes()), _mutate_checkpoint, _read_checkpoint
        ),
        "engines": Kind(
            lambda: [("a.onnx", engine.read_bytes())],
            _mutate_engine,
            _read_engine,
            (UserError, EngineError),
        ),
        "sidecars": Kind(_sidecars, _mutate_sidecar, _read_sidecar, (UserError, EngineError)),
    }


KINDS = ("pictures", "boxes", "landmarks", "recipes", "checkpoints", "engines", "sidecars")


def _binary(sample: Sample, rng: random.Random) -> Sample:
    return sample[0], mutated_binary(sample[1], rng)


def _text(sample: Sample, rng: random.Random) -> Sample:
    """JSON half of the time by its values."""
    name, data = sample
    if name.endswith(".json") and rng.random() < 0.5:
        return name, json.dumps(mutated_value(json.loads(data), rng)).encode()
    return name, mutated_text(data, rng)


def _text_or_binary(sample: Sample, rng: random.Random) -> Sample:
    return (_binary if sample[0].endswith((".npz", ".pkl")) else _text)(sample, rng)


# Pictures


def _image_errors() -> tuple[type[Exception], ...]:
    from runtime.pictures.header import ImageError

    return (ImageError,)


def _pictures() -> list[Sample]:
    """One or two of each format that is read: colour and grey, with EXIF data and a profile."""
    import cv2
    import pillow_heif
    from PIL import Image, ImageCms

    pixels = np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8)
    colour, grey = Image.fromarray(pixels), Image.fromarray(pixels[..., 0])
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    described = {"exif": exif.tobytes(), "icc_profile": profile}

    def saved(image: Any, kind: str, **options: Any) -> bytes:
        file = io.BytesIO()
        image.save(file, kind, **options)
        return file.getvalue()

    heic = io.BytesIO()
    pillow_heif.from_pillow(colour).save(heic, exif=exif.tobytes())
    deep = cv2.imencode(".png", pixels.astype(np.uint16) * 257)[1].tobytes()
    return [
        ("a.png", saved(colour.convert("RGBA"), "png", **described)),
        ("a.png", deep),
        ("a.png", saved(colour.quantize(16), "png")),
        ("a.jpg", saved(colour, "jpeg", **described)),
        ("a.jpg", saved(grey, "jpeg", progressive=True)),
        ("a.jpg", saved(colour.convert("CMYK"), "jpeg")),
        ("a.webp", saved(colour, "webp", **described)),
        ("a.webp", saved(colour.convert("RGBA"), "webp", lossless=True)),
        ("a.tif", saved(colour, "tiff", compression="tiff_lzw", **described)),
        ("a.tif", saved(grey, "tiff")),
        ("a.gif", saved(colour, "gif")),
        ("a.bmp", saved(colour, "bmp")),
        ("a.bmp", saved(colour.quantize(16), "bmp")),
        ("a.bmp", saved(colour.convert("RGBA"), "bmp")),
        ("a.ppm", saved(colour, "ppm")),
        ("a.ppm", b"P3 # text\n24 20 255\n" + " ".join(map(str, pixels.ravel())).encode()),
        ("a.pam", b"P7\nWIDTH 24\nHEIGHT 20\nDEPTH 3\nMAXVAL 255\nENDHDR\n" + pixels.tobytes()),
        ("a.pgm", saved(grey, "ppm")),
        ("a.jp2", saved(colour, "jpeg2000")),
        ("a.avif", cv2.imencode(".avif", pixels)[1].tobytes()),
        ("a.heic", heic.getvalue()),
    ]


def _read_picture(path: Path) -> None:
    """Decoded, and encoded with what it says of itself, as `runtime.infer` does."""
    from runtime.pictures.encode import encode_picture
    from runtime.pictures.files import decode_picture

    data = path.read_bytes()
    picture = decode_picture(str(path), data, MOST_PIXELS)
    picture.rgb()
    suffixes = (".png", ".jpg", ".webp", ".tif", ".bmp")
    encode_picture(picture, suffixes[len(data) % len(suffixes)])


# Boxes, landmarks, recipes


def _boxes() -> list[Sample]:
    csv = b"picture,x,y,width,height\na.png,1,2,30,30\nb/c.png,4.5,5,20,24\n"
    points = b'"a.png",10,10,30,10,20,20,12,30,28,30\n'
    short = {"a.png": [[1, 2, 30, 30], [4.5, 5, 20, 24]], "b.png": []}
    told = [{"image": "a.png", "faces": [{"box": [1, 2, 30, 30], "angle": 10.0}]}]
    return [
        *(("boxes.csv", csv), ("boxes.csv", points)),
        *(("boxes.json", json.dumps(content).encode()) for content in (short, told)),
    ]


def _read_boxes(path: Path) -> None:
    from runtime.jobs.boxes import Boxes

    Boxes(path).of(path.with_name("a.png"), needed=True)


def _landmarks() -> list[Sample]:
    import pickle

    from train.data.annotations import encode_json, encode_pts

    points = np.random.default_rng(0).uniform(0, 128, (68, 2)).astype(np.float32)
    columns = ",".join(f"x_{n},y_{n}" for n in range(68))
    row = ",".join(f"{v:.2f}" for v in points.ravel())
    arrays = io.BytesIO()
    np.savez(arrays, names=np.array(["a"]), landmarks=points[None], bbox=np.ones((1, 4)))
    return [
        ("a.pts", encode_pts(points)),
        ("a.json", encode_json(points, (1, 2, 30, 30))),
        ("a.csv", f"image,{columns}\na.png,{row}\nb.png,{row}\n".encode()),
        ("a.npz", arrays.getvalue()),
        ("a.pkl", pickle.dumps({"a.png": points, "b.png": points.tolist()})),
    ]


def _read_landmarks(path: Path) -> None:
    from train.data.annotations import read_annotations

    read_annotations(str(path), path.read_bytes())


def _recipes() -> list[Sample]:
    from train.recipe import recipe_path, shipped_recipes

    return [("a.toml", recipe_path(name).read_bytes()) for name in shipped_recipes()]


def _read_recipe(path: Path) -> None:
    from train.recipe import load_recipe

    load_recipe(str(path), ["iterations=10"])


# Checkpoints, engines, plans' sidecars


def _checkpoints(data: bytes) -> list[Sample]:
    """The one given, in PyTorch's format before 1.6 too, and its weights in safetensors'."""
    import safetensors.torch
    import torch

    content = torch.load(io.BytesIO(data), weights_only=True)
    older = io.BytesIO()
    torch.save(content, older, _use_new_zipfile_serialization=False)
    weights = safetensors.torch.save(content["state_dict"])
    return [("a.pth", data), ("older.pth", older.getvalue()), ("a.safetensors", weights)]


def _mutate_checkpoint(sample: Sample, rng: random.Random) -> Sample:
    """By its bytes, or by the entries and tensors in it."""
    import torch

    name, data = sample
    if name != "a.pth" or rng.random() < 0.4:
        return name, mutated_binary(data, rng)
    content = torch.load(io.BytesIO(data), weights_only=True)
    for key in rng.sample(sorted(content), rng.randrange(1, 3)):
        value = content[key]
        if isinstance(value, dict) and value and rng.random() < 0.8:
            content[key] = _other_tensors(value, rng)
        else:
            content = mutated_value(content, rng)
            break
    file = io.BytesIO()
    torch.save(content, file)
    return name, file.getvalue()


def _other_tensors(tensors: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    import torch

    key = rng.choice(list(tensors))
    value = tensors[key]
    if not isinstance(value, torch.Tensor):
        return {**tensors, key: rng.choice(ODD)}
    others = (
        lambda: value[:0],
        lambda: value[None],
        lambda: value.flatten(),
        lambda: value.to(torch.complex64),
        lambda: value.to(torch.int8),
        lambda: value.to(torch.bfloat16),
        lambda: value.to_sparse(),
        lambda: value * float("nan"),
        lambda: torch.zeros(()),
        lambda: torch.zeros(1).expand(10**7),
        lambda: None,
        lambda: mutated_value({"a": 1}, rng),
    )
    changed = dict(tensors)
    if rng.random() < 0.2:
        changed[key + rng.choice(("", ".a", "0"))] = changed.pop(key)
    else:
        changed[key] = rng.choice(others)()
    return changed


def _read_checkpoint(path: Path) -> None:
    from train.checkpoint import load_checkpoint

    load_checkpoint(path)


def _mutate_engine(sample: Sample, rng: random.Random) -> Sample:
    """By its bytes, by its metadata, or by its graph."""
    import onnx

    name, data = sample
    if rng.random() < 0.5:
        return name, mutated_binary(data, rng)
    model = onnx.load_from_string(data)
    if rng.random() < 0.5:
        entry = rng.choice(model.metadata_props)
        kind = rng.randrange(3)
        if kind == 0:
            model.metadata_props.remove(entry)
        elif kind == 1:
            entry.value = str(mutated_value(None, rng))
        else:
            entry.value = mutated_text(entry.value.encode() or b"0", rng).decode("utf-8", "replace")
    else:
        _change_graph(model.graph, rng)
    return name, model.SerializeToString()


def _change_graph(graph: Any, rng: random.Random) -> None:
    node = rng.choice(graph.node)
    kind = rng.randrange(5)
    if kind == 0:
        graph.node.remove(node)
    elif kind == 1:
        node.op_type = rng.choice(graph.node).op_type
    elif kind == 2 and node.input:
        node.input[rng.randrange(len(node.input))] = rng.choice(("", "x", *graph.node[0].output))
    elif kind == 3 and node.attribute:
        attribute = rng.choice(node.attribute)
        for n in range(len(attribute.ints)):
            attribute.ints[n] = rng.choice((-1, 0, 2**20, 2**62))
        attribute.i, attribute.f = rng.choice((-1, 0, 2**62)), rng.choice((-1.0, 1e30))
    else:
        weights = rng.choice(graph.initializer)
        if weights.dims:
            weights.dims[rng.randrange(len(weights.dims))] = rng.choice((0, 1, -1, 2**31, 2**62))


def _read_engine(path: Path) -> None:
    """Described as `export.inspect` does, then loaded and verified."""
    from export.inspect import describe, inspect
    from runtime.engines.load import load_engine

    described = True
    try:
        describe(inspect(path))
    except UserError:
        described = False
    load_engine(path, "cpu", threads=1).close()
    if not described:
        raise UserError("loaded, although it cannot be described")


def _sidecars() -> list[Sample]:
    tensor = {"name": "image", "dtype": "uint8", "sizes": [None, 16, 16, 3]}
    content = {
        "format_version": 1,
        "io": "image",
        "steps": 2,
        "precision": "fp16",
        "target": "gpu",
        "landmarks": 68,
        "scale": 8,
        "samples": "AAAA",
        "export_error": {"limits": {}},
        "plan": {
            "sha256": hashlib.sha256(PLAN).hexdigest(),
            "version_compatible": True,
            "gpu": "NVIDIA H100",
        },
        "inputs": [tensor],
        "outputs": [tensor],
    }
    return [("a.trt.json", json.dumps(content).encode())]


def _mutate_sidecar(sample: Sample, rng: random.Random) -> Sample:
    name, data = sample
    if rng.random() < 0.3:
        return name, mutated_text(data, rng)
    content = json.loads(data)
    for _ in range(rng.randrange(1, 3)):
        content = mutated_value(content, rng)
    return name, json.dumps(content).encode()


def _read_sidecar(path: Path) -> None:
    """By everything that reads a plan's sidecar without a GPU."""
    from export.inspect import describe, inspect
    from runtime.engines.tensorrt.plan_file import allows_host_code, plan_metadata

    plan = path.with_name("a.trt")
    plan.write_bytes(PLAN)
    described = read_sidecar(plan, PLAN)
    allows_host_code(described)
    plan_metadata(plan, described, (), ())
    describe(inspect(plan))
    assert sidecar(plan) == path
