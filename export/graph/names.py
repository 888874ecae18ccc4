"""Name a graph's nodes by step and block, such as `step2/block/fusion_block/body/0/res/0/Conv`.

The recorder knows the module that every node was recorded in. The names use the module names of
`train.model.network`, so that parser errors, profiles and the gate refer to the same parts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import onnx

RECOVERY = ("first_block", "block")  # the first module that runs in a step
# Attributes of the wrapper modules in `precision` and `packed`, left out of names.
WRAPPERS = {"network", "part", "parts", "project", "conv"}
# Attributes of `packed` → the attributes of the network that they replace.
RENAMED = {"downs": "down_blocks", "ups": "up_blocks", "mixes": "hr_blocks"}
# The blocks that the gate compares, within the recovery blocks and within the hourglass.
COMPARED = ("conv_first", "fusion_block", "lr_blocks", "down_blocks", "conv_last")
COMPARED_HOURGLASS = ("pre_conv_block", "first_conv", "hg", "last")

Place = tuple[int, str]  # step, from 1 (0: before the first), and block, like "hour_glass/hg"


def node_names(nodes: Sequence[tuple[str, str]]) -> list[str]:
    """Names of nodes by step, block and operator, made unique by a number.

    Args:
        nodes: of each, in the order of computation: the name of the module it was recorded in, such
            as "network.block.conv_first.0", and its operator.
    """
    step = 0
    before = ""
    taken: Counter[str] = Counter()
    names = []
    for scope, operator in nodes:
        block = _block(scope)
        part = block.partition("/")[0]
        if part in RECOVERY and before not in RECOVERY:
            step += 1
        if part:
            before = part
        name = "/".join(filter(None, (f"step{step}" if step else "", block, operator)))
        taken[name] += 1
        names.append(name if taken[name] == 1 else f"{name}_{taken[name]}")
    return names


def _block(scope: str) -> str:
    """The path of a module in the network; empty for the network itself."""
    parts = [RENAMED.get(part, part) for part in scope.split(".") if part not in WRAPPERS]
    return "/".join(parts)


def boundaries(model: onnx.ModelProto) -> dict[Place, str]:
    """The output tensor of each compared block of each step, in the order of computation."""
    found: dict[Place, str] = {}
    for node in model.graph.node:
        step, within = split_name(node.name)
        block = compared(within.split("/"))
        if block:
            found.pop((step, block), None)  # re-inserted at the position of the block's last node
            found[step, block] = node.output[0]
    return found


def split_name(name: str) -> tuple[int, str]:
    """A node name's step (0 if it has none) and the rest of the name."""
    head, _, rest = name.partition("/")
    step = int(head[4:]) if head.startswith("step") and head[4:].isdecimal() else 0
    return step, rest if step else name


def compared(path: list[str]) -> str:
    """The compared block that contains the module with this path; empty if there is none."""
    if path[0] in ("conv_first", "conv_last"):
        return path[0]
    if path[0] == "hour_glass" and path[1:2] and path[1] in COMPARED_HOURGLASS:
        return "/".join(path[:2])
    if path[0] == "block" and path[1:3] == ["fusion_block", "body"]:
        return "block/fusion_block/body"  # before the attention scales most of a branch down
    if path[0] in RECOVERY and path[1:2] and path[1] in COMPARED:
        return "/".join(path[: 3 if path[1].endswith("_blocks") else 2])
    return ""
