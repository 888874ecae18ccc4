"""What checkpoints of the matrix hold: three layouts, tensors of every type, all wrappers."""

from __future__ import annotations

import argparse
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dic.sizes import LQ_SIZE
from train.model.network import DIC, NetworkConfig

DATA = Path(__file__).parents[3] / "tests" / "data"  # files of the two known implementations
STEPS = 2
SMALL = NetworkConfig(
    channels=4, groups=2, projection=2, fusion_blocks=1,
    hourglass_channels=8, hourglass_depth=2, steps=STEPS,
)  # fmt: skip
OTHERS = NetworkConfig(channels=8, groups=3, fusion_blocks=2, hourglass_channels=16, steps=STEPS)
# One tensor of every network, by the part of its name that all layouts share.
SOME = "up_blocks.0.0.weight"

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Network:
    """A network in the layout of one project.

    Attributes:
        layout: the project.
        config: its sizes.
        tensors: float32, by the project's names without wrappers.
        wrapped: the content of the file that the project writes, with given tensors in it.
    """

    layout: str
    config: NetworkConfig
    tensors: Tensors
    wrapped: Callable[[Tensors], dict[str, Any]]


def networks() -> list[Network]:
    """A small network of each project; those of others computed the outputs in tests/data."""

    def of_toolkit(tensors: Tensors) -> dict[str, Any]:
        return {
            "format": "dic-toolkit checkpoint",
            "format_version": 1,
            "network": {"steps": STEPS},
            "state_dict": tensors,
            "provenance": {},
        }

    def read(name: str) -> Tensors:
        content = torch.load(DATA / f"dic_small_{name}.pth", weights_only=True)
        return {k.removeprefix("generator."): v for k, v in content["state_dict"].items()}

    torch.manual_seed(0)
    return [
        Network("ours", SMALL, dict(DIC(SMALL).state_dict()), of_toolkit),
        Network(
            "MMEditing",
            OTHERS,
            read("mmediting"),
            lambda held: {
                "meta": {"mmedit_version": "0.8.0", "iter": 150000},
                "state_dict": {f"generator.{k}": v for k, v in held.items()},
            },
        ),
        Network(
            "the authors'",
            OTHERS,
            read("original"),
            lambda held: {"epoch": 40, "state_dict": held, "optimizer": {}, "best_pred": 22.9},
        ),
    ]


def probe() -> Tensor:
    """The input on which outputs are compared, (1, 3, 16, 16)."""
    pixels = np.random.default_rng(0).uniform(-0.5, 0.5, (1, 3, LQ_SIZE, LQ_SIZE))
    return torch.from_numpy(pixels.astype(np.float32))


@dataclass(frozen=True)
class Change:
    """What tensors become.

    Attributes:
        name: of the change.
        made: the changed tensors.
        refused: a pattern of the error that must name the reason; empty if they must be read.
    """

    name: str
    made: Callable[[Tensors], Tensors]
    refused: str = ""


def _to(dtype: torch.dtype) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name: t.to(dtype) for name, t in tensors.items()}


def _one(change: Callable[[Tensor], Tensor]) -> Callable[[Tensors], Tensors]:
    """One convolution's weight changed."""

    def made(tensors: Tensors) -> Tensors:
        name = next(n for n in tensors if n.endswith((SOME, SOME.replace("up_b", "upB"))))
        return {**tensors, name: change(tensors[name])}

    return made


def _mixed(tensors: Tensors) -> Tensors:
    kinds = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    return {name: t.to(kinds[n % 4]) for n, (name, t) in enumerate(tensors.items())}


def _counted(tensors: Tensors) -> Tensors:
    counters = {"num_batches_tracked": torch.tensor(7), "block.calls": torch.tensor([3])}
    return {**tensors, **counters, "trained": torch.tensor(True)}


def _flat(tensors: Tensors) -> Tensors:
    """All in one storage, as sharded trainers and flattened optimizers have them."""
    whole = torch.cat([torch.zeros(3), *(t.flatten() for t in tensors.values())])
    sizes = [3, *(t.numel() for t in tensors.values())]
    parts = whole.split(sizes)[1:]
    return {n: p.view(t.shape) for (n, t), p in zip(tensors.items(), parts, strict=True)}


def _strided(tensors: Tensors) -> Tensors:
    """In channels-last layout, and every second element of a larger storage."""
    held = {}
    for name, t in tensors.items():
        wide = torch.stack((t, torch.zeros_like(t)), -1)[..., 0]
        held[name] = t.to(memory_format=torch.channels_last) if t.dim() == 4 else wide
    return held


def _negated(tensors: Tensors) -> Tensors:
    """Views whose bit says that they are negative: torch.imag of a conjugate."""
    return {name: torch.complex(torch.zeros_like(t), -t).conj().imag for name, t in tensors.items()}


def _parameters(tensors: Tensors) -> Tensors:
    return {name: torch.nn.Parameter(t) for name, t in tensors.items()}


def _quantised(tensor: Tensor) -> Tensor:
    with warnings.catch_warnings(action="ignore"):  # PyTorch 2.13: deprecated
        return torch.quantize_per_tensor(tensor, 0.01, 0, torch.qint8)


def _compressed_rows(tensor: Tensor) -> Tensor:
    with warnings.catch_warnings(action="ignore"):  # PyTorch 2.13: in beta state
        return tensor.flatten(1).to_sparse_csr()


DENSE = "not dense floating point"
CHANGES = (
    Change("float32", dict),
    Change("float16", _to(torch.float16)),
    Change("bfloat16", _to(torch.bfloat16)),
    Change("float64", _to(torch.float64)),
    Change("float8_e4m3fn", _to(torch.float8_e4m3fn)),
    Change("float8_e5m2", _to(torch.float8_e5m2)),
    Change("four types mixed", _mixed),
    Change("counters of whole numbers beside them", _counted),
    Change("parameters with gradients", _parameters),
    Change("strided views", _strided),
    Change("views of one storage", _flat),
    Change("negated views", _negated),
    Change("int8", _to(torch.int8), DENSE),
    Change("one of int64", _one(lambda t: t.long()), DENSE),
    Change("one complex", _one(lambda t: t.to(torch.complex64)), DENSE),
    Change("one quantised", _one(_quantised), DENSE),
    Change("one sparse", _one(lambda t: t.to_sparse()), DENSE),
    Change("one sparse, rows compressed", _one(_compressed_rows), DENSE),
    Change("one on the meta device", _one(lambda t: t.to("meta")), "holds no data"),
    Change("one of a single element, expanded", _one(lambda t: torch.zeros(1).expand(t.shape)),
           "more than the file stores"),
    Change("one missing", lambda held: dict(list(held.items())[1:]), "1 missing"),
    Change("one of another shape", _one(lambda t: t[None]), "(is missing|wrong shape)"),
    Change("one more", lambda held: {**held, "extra": torch.zeros(2)}, "1 unexpected: extra"),
    Change("one empty", _one(lambda t: t[:0]), "(wrong shape|out of range|at least)"),
)  # fmt: skip


@dataclass(frozen=True)
class Wrapper:
    """What stands around the tensors in a file.

    Attributes:
        name: of the wrapper.
        made: the file's content, of the bare tensors.
        refused: as for `Change`.
    """

    name: str
    made: Callable[[Tensors], Any]
    refused: str = ""


def _keyed(key: str) -> Callable[[Tensors], Any]:
    return lambda held: {key: held}


def _prefixed(prefix: str) -> Callable[[Tensors], Tensors]:
    return lambda held: {prefix + name: t for name, t in held.items()}


def _inserted(part: str) -> Callable[[Tensors], Tensors]:
    """With a wrapper around modules within the network, as `fully_shard` of each block leaves."""

    def made(held: Tensors) -> Tensors:
        split = (name.split(".") for name in held)
        return {
            ".".join((*parts[:1], part, *parts[1:])): t
            for parts, t in zip(split, held.values(), strict=True)
        }

    return made


def _averaged(plain: str, averaged: str) -> Callable[[Tensors], Any]:
    """With weights that are not averaged beside them, which must not be taken."""
    return lambda held: {plain: {n: torch.ones(t.shape) for n, t in held.items()}, averaged: held}


def _optimised(held: Tensors) -> dict[str, Any]:
    """With an optimizer's state, which has tensors too, and a random state."""
    moments = {n: {"step": torch.tensor(1.0), "exp_avg": t} for n, t in enumerate(held.values())}
    state = {"state": moments, "param_groups": [{"lr": 1e-4, "params": list(moments)}]}
    return {"model": held, "optimizer": state, "rng": torch.get_rng_state(), "epoch": 3}


def _lightning(held: Tensors) -> dict[str, Any]:
    return {
        "epoch": 3,
        "global_step": 100,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": _prefixed("model.")(held) | {"discriminator.0.weight": torch.zeros(3)},
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {"ModelCheckpoint{'monitor': 'psnr'}": {"best_model_score": torch.tensor(1)}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}}],
        "lr_schedulers": [],
        "hyper_parameters": {"lr": 1e-4, "options": argparse.Namespace(size=16)},
    }


def _deepspeed(held: Tensors) -> dict[str, Any]:
    return {
        "module": held,
        "buffer_names": [],
        "param_shapes": [OrderedDict((n, t.shape) for n, t in held.items())],
        "ds_config": {"zero_optimization": {"stage": 1}},
        "ds_version": "0.17.0",
    }


def _with_numpy(held: Tensors) -> dict[str, Any]:
    return {
        "state_dict": held,
        "best_psnr": np.float64(25.2),
        "history": np.arange(3.0),
        "rng": np.random.default_rng(0).bit_generator.state,
    }


def _with_arguments(held: Tensors) -> dict[str, Any]:
    arguments = argparse.Namespace(lr=1e-4, out=Path("runs/1"), sizes=(16, 128))
    return {"args": arguments, "state_dict": held}


def _metadata(held: Tensors) -> OrderedDict[str, Tensor]:
    """As `Module.state_dict()` gives it: ordered, with versions as an attribute."""
    content = OrderedDict(held)
    content._metadata = OrderedDict({"": {"version": 1}})  # type: ignore[attr-defined]
    return content


def _deep(held: Tensors) -> Any:
    content: Any = held
    for _ in range(50):
        content = {"inner": content}
    return content


class Unknown:
    """A class of the program that saved the file."""


KEYS = ("state_dict", "model", "model_state_dict", "generator", "netG", "params", "params_ema",
        "ema", "module", "weights")  # fmt: skip
PREFIXES = ("module.", "_orig_mod.", "generator.", "net_g.", "module.generator.", "model.net.",
            "_orig_mod.module.", "module._orig_mod.generator.", "generator_ema.",
            "_forward_module.")  # fmt: skip
PARTS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "module")
WRAPPERS = (
    Wrapper("none", dict),
    Wrapper("none, ordered with versions", _metadata),
    *(Wrapper(key, _keyed(key)) for key in KEYS),
    *(Wrapper(f"{prefix}*", _prefixed(prefix)) for prefix in PREFIXES),
    *(Wrapper(f"*.{part}.*", _inserted(part)) for part in PARTS),
    Wrapper("optimizer beside it", _optimised),
    Wrapper("params and params_ema", _averaged("params", "params_ema")),
    Wrapper("g and g_ema", _averaged("g", "g_ema")),
    Wrapper("Lightning", _lightning),
    Wrapper("DeepSpeed", _deepspeed),
    Wrapper("fifty dictionaries", _deep),
    Wrapper("NumPy's numbers beside it", _with_numpy),
    Wrapper("argparse's arguments beside it", _with_arguments),
    Wrapper("an object of the program beside it", lambda held: {"state_dict": held, "a": Unknown()},
            "would run benchmarks.formats.checkpoints.content.Unknown"),
    Wrapper("a list", lambda held: [held], "contains a list"),
    Wrapper("lists of names and values", lambda held: {"state_dict": list(held.items())},
            "contains no tensors"),
    Wrapper("one flat parameter", lambda held: {"state_dict": {"_flat_param": torch.zeros(9)}},
            "not a DIC network"),
    Wrapper("another network", lambda held: {"state_dict": {"conv1.weight": torch.zeros(64, 3)}},
            "not a DIC network"),
)  # fmt: skip


def float32(tensors: Mapping[str, Tensor]) -> Tensors:
    """Tensors as PyTorch's own `load_state_dict` converts them."""
    return {name: t.detach().to(torch.float32) for name, t in tensors.items()}
