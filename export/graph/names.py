"""Names for what the unrolled graph is made of: which node belongs to which step and block.

The exporter notes the module of every node. From that come the nodes' names, such as
`step2/block/fusion_block/body/0/res/0/Conv`: a parser's complaint, a profile, and our own search
for where a difference begins speak of the network as `train.model.network` does.
"""

from __future__ import annotations

import ast
from collections import Counter

import onnx

SCOPES = "pkg.torch.onnx.name_scopes"
RECOVERY = ("first_block", "block")  # the first thing that a step does
# What `precision` and `packed` put around or in place of the network's own modules.
WRAPPERS = {"network", "part", "parts", "project", "conv"}
RENAMED = {"downs": "down_blocks", "ups": "up_blocks", "mixes": "hr_blocks"}
# Modules whose results are compared; their names and those within them.
COMPARED = ("conv_first", "fusion_block", "lr_blocks", "down_blocks", "conv_last")
COMPARED_HOURGLASS = ("pre_conv_block", "first_conv", "hg", "last")

Place = tuple[int, str]  # step from 1 on, or 0 before the first; block as "hour_glass/hg"


def name_nodes(model: onnx.ModelProto) -> None:
    """Name every node by step, block and operator, in place."""
    step = 0
    before = ""
    taken: Counter[str] = Counter()
    for node in model.graph.node:
        block = _block(node)
        part = block.partition("/")[0]
        if part in RECOVERY and before not in RECOVERY:
            step += 1
        if part:
            before = part
        name = "/".join(filter(None, (f"step{step}" if step else "", block, node.op_type)))
        taken[name] += 1
        node.name = name if taken[name] == 1 else f"{name}_{taken[name]}"


def _block(node: onnx.NodeProto) -> str:
    """The module a node was traced in, as a path; empty where that is the network itself."""
    scopes = next((p.value for p in node.metadata_props if p.key == SCOPES), "['', '']")
    modules = ast.literal_eval(scopes)[:-1]  # the last is the operation
    path = max((m for m in modules if m), key=len, default="")
    parts = [RENAMED.get(part, part) for part in path.split(".") if part not in WRAPPERS]
    return "/".join(parts)


def boundaries(model: onnx.ModelProto) -> dict[Place, str]:
    """The tensor in which each compared block of each step ends, in the order of computation."""
    found: dict[Place, str] = {}
    for node in model.graph.node:
        step, within = split_name(node.name)
        block = compared(within.split("/"))
        if block:
            found.pop((step, block), None)  # its last node counts, and its place in the order
            found[step, block] = node.output[0]
    return found


def split_name(name: str) -> tuple[int, str]:
    """A node's step, 0 where it has none, and its name within the step."""
    head, _, rest = name.partition("/")
    step = int(head[4:]) if head.startswith("step") and head[4:].isdecimal() else 0
    return step, rest if step else name


def compared(path: list[str]) -> str:
    """The block that a module, given as its path, lies in; empty where it lies in none."""
    if path[0] in ("conv_first", "conv_last"):
        return path[0]
    if path[0] == "hour_glass" and path[1:2] and path[1] in COMPARED_HOURGLASS:
        return "/".join(path[:2])
    if path[0] == "block" and path[1:3] == ["fusion_block", "body"]:
        return "block/fusion_block/body"  # before the attention hides most of a branch
    if path[0] in RECOVERY and path[1:2] and path[1] in COMPARED:
        return "/".join(path[: 3 if path[1].endswith("_blocks") else 2])
    return ""
