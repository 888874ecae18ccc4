"""`python -m benchmarks.gate`: check that the gate passes correct graphs and refuses faults.

Correct graphs of networks with random weights of several gains must pass; graphs with planted
faults must not. For each fault the table gives the block that the gate names, and the number of
pictures on which the outputs alone exceed the limit.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

import torch
from torch import nn

from dic.console import Parser
from dic.console import run as run_command
from export import disable_telemetry
from export.choices import Choices, Precision, Target
from train.model.network import DIC, NetworkConfig

if TYPE_CHECKING:
    from export.gate.agreement import Reference
    from export.gate.run import Outputs

FACES = 8
GAINS = (0.8, 1.0, 1.2, 1.5)
Plant = Callable[[DIC], object]  # changes a network in place


def random_network(gain: float, config: NetworkConfig | None = None, seed: int = 0) -> DIC:
    """A network with random weights of standard deviation gain / √n.

    n is the number of products that an output element of the convolution sums.

    Args:
        config: defaults to the full size.
    """
    network = DIC(config or NetworkConfig()).eval()
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            inputs = module.weight[0].numel()
            if isinstance(module, nn.ConvTranspose2d):  # the taps that reach one output element
                taps = module.weight[0, 0].numel() / module.stride[0] ** 2
                inputs = int(module.weight.shape[0] * taps)
            with torch.no_grad():
                module.weight.normal_(0, gain / inputs**0.5, generator=generator)
                if module.bias is not None:
                    module.bias.normal_(0, 0.05, generator=generator)
    return network


def _nudge(name: str) -> Plant:
    """Add 1e-3 to one weight."""

    def plant(network: DIC) -> None:
        network.get_parameter(name).view(-1)[7] += 1e-3

    return plant


def _slope(name: str) -> Plant:
    """Set a PReLU's slope to 0.21."""

    def plant(network: DIC) -> None:
        network.get_parameter(name).fill_(0.21)

    return plant


def _swap(name: str) -> Plant:
    """Exchange the first two output channels of a weight."""

    def plant(network: DIC) -> None:
        weight = network.get_parameter(name)
        weight[:2] = weight[:2].flip(0).clone()

    return plant


def _regroup(network: DIC) -> None:
    """Exchange the heatmap groups of the two eyes."""
    network.components[:2] = network.components[:2].flip(0).clone()


# By name: the block that the gate must name, and the function that plants the fault.
FAULTS: dict[str, tuple[str, Plant]] = {
    "slope 0.21 for 0.2, first_block": ("first_block/", _slope("first_block.up_blocks.1.1.weight")),
    "slope 0.21 for 0.2, lr_blocks": ("block/lr_blocks/", _slope("block.lr_blocks.0.1.weight")),
    "slope 0.21 for 0.2, tail": ("conv_last", _slope("conv_last.1.weight")),
    "swapped channels, conv_first": ("conv_first", _swap("conv_first.0.weight")),
    "swapped channels, hourglass": (
        "hour_glass/hg",
        _swap("hour_glass.hg.low1.conv_block.2.weight"),
    ),
    "swapped channels, fusion": (
        "block/fusion_block",
        _swap("block.fusion_block.body.0.res.0.weight"),
    ),
    "eyes' landmarks exchanged": ("block/fusion_block", _regroup),
    "weight + 1e-3, conv_first": ("conv_first", _nudge("conv_first.0.weight")),
    "weight + 1e-3, up projection": ("first_block/", _nudge("first_block.up_blocks.1.0.weight")),
    "weight + 1e-3, down projection": ("block/down", _nudge("block.down_blocks.1.0.weight")),
    "weight + 1e-3, hr_blocks": ("block/down", _nudge("block.hr_blocks.0.0.weight")),
    "weight + 1e-3, fusion": (
        "block/fusion_block",
        _nudge("block.fusion_block.body.0.res.0.weight"),
    ),
    "weight + 1e-3, face features": (
        "hour_glass/pre_conv_block",
        _nudge("hour_glass.pre_conv_block.0.weight"),
    ),
    "weight + 1e-3, hourglass": (
        "hour_glass/hg",
        _nudge("hour_glass.hg.low2.up1.conv_block.2.weight"),
    ),
    "weight + 1e-3, heatmaps": ("hour_glass/last", _nudge("hour_glass.last.3.weight")),
    "weight + 1e-3, tail": ("conv_last", _nudge("conv_last.0.weight")),
}


@torch.no_grad()
def with_fault(network: DIC, plant: Plant) -> DIC:
    """A copy of a network with a fault."""
    wrong = copy.deepcopy(network)
    plant(wrong)
    return wrong


def main(arguments: list[str]) -> int:
    parser = Parser(
        prog="python -m benchmarks.gate", description=(__doc__ or "").partition("\n")[2]
    )
    parser.add_argument("--gains", type=float, nargs="+", default=GAINS, metavar="G")
    parser.add_argument("--targets", nargs="+", choices=[t.value for t in Target], default=["gpu"])
    parser.add_argument("--right-only", action="store_true", help="check correct graphs only")
    options = parser.parse_args(arguments)
    missed = sum(
        _measure(random_network(gain), gain, target, not options.right_only)
        for gain in options.gains
        for target in map(Target, options.targets)
    )
    return 1 if missed else 0


def _measure(network: DIC, gain: float, target: Target, faults: bool) -> int:
    """Print the rows of a gain; returns how many faults were missed or named in another block."""
    from export.exporter import build
    from export.gate.agreement import reference, run
    from export.gate.blocks import GateError, check_blocks
    from export.gate.check import SEED
    from export.gate.limits import drift_limits
    from export.gate.pictures import synthetic
    from export.graph.interface import Io, Signature

    signature = Signature(Io.IMAGE, network.config.steps, True)
    pictures = synthetic(SEED, FACES).with_extremes()
    choices = Choices(target=target)
    first = pictures.image[:1]
    model = build(network, signature, choices)
    errors = check_blocks(model, network, first, signature, Precision.FP32)
    worst = max(errors, key=lambda e: e.error / e.allowed)
    known = reference(network, pictures, signature.steps)
    given = run(model, pictures, signature)
    drifts = _drifts(given, known)
    limit = drift_limits(drifts[0]).error
    print(
        f"gain {gain}, {target.value}: correct graph; worst block at "
        f"{worst.error / worst.allowed:.2f} of its limit ({worst}); pictures differ by "
        f"{min(drifts):.1e} to {max(drifts):.1e} (allowed {limit:.1e})",
        flush=True,
    )
    if not faults:
        return 0
    missed = 0
    print("| fault | first wrong block | pictures that show it |\n|---|---|---|")
    for name, (where, plant) in FAULTS.items():
        wrong = build(with_fault(network, plant), signature, choices)
        try:
            check_blocks(wrong, network, first, signature, Precision.FP32)
            named = "MISSED"
            missed += 1
        except GateError as error:
            named = str(error).removeprefix("first at ")
            missed += where not in named
        given = run(wrong, pictures, signature)
        shown = sum(drift > limit for drift in _drifts(given, known))
        print(f"| {name} | {named} | {shown} of {len(pictures)} |", flush=True)
    return missed


def _drifts(given: Outputs, known: Reference) -> list[float]:
    """The largest output error of each picture, see `Limits.error`."""
    from export.gate.agreement import output_errors

    rows = (output_errors(name, value, known.steps) for name, value in given.items())
    return [max(errors) for errors in zip(*(row for row in rows if len(row) > 1), strict=True)]


def cli() -> NoReturn:
    disable_telemetry()  # before ONNX Runtime is imported, hence the imports within functions
    run_command(main, "benchmarks")


if __name__ == "__main__":
    cli()
