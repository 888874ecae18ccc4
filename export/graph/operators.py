"""PyTorch's operations as ONNX operators: those that a DIC network consists of.

Each function takes the recorder (`export.graph.record`), the results as tensors on PyTorch's meta
device, and the operation's arguments. It adds nodes and returns the names of their outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from export.graph.record import Recorder

aten = torch.ops.aten

Operator = Callable[..., Sequence[str]]
Metas = list[Tensor]


def _arithmetic(kind: str) -> Operator:
    def write(r: Recorder, metas: Metas, a: Any, b: Any, alpha: float = 1) -> Sequence[str]:
        if alpha != 1:
            raise NotImplementedError(f"{kind} with a factor")
        return r.node(kind, [r.operand(value, metas[0].dtype) for value in (a, b)])

    return write


def _comparison(kind: str) -> Operator:
    def write(r: Recorder, metas: Metas, a: Tensor, b: Any) -> Sequence[str]:
        dtype = r.common_type(a, b)
        return r.node(kind, [r.operand(value, dtype) for value in (a, b)])

    return write


def _divide(
    r: Recorder, metas: Metas, a: Any, b: Any, rounding_mode: str | None = None
) -> Sequence[str]:
    dtype = metas[0].dtype
    if rounding_mode is not None and (rounding_mode != "trunc" or dtype.is_floating_point):
        raise NotImplementedError(f"a division rounded by {rounding_mode} in {dtype}")
    return r.node("Div", [r.operand(value, dtype) for value in (a, b)])


def _remainder(r: Recorder, metas: Metas, a: Tensor, b: Any) -> Sequence[str]:
    if a.dtype.is_floating_point:
        raise NotImplementedError("a remainder of floating-point numbers")
    return r.node("Mod", [r.name(a), r.operand(b, a.dtype)])


def _convolution(
    r: Recorder,
    metas: Metas,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    output_padding: list[int],
    groups: int,
) -> Sequence[str]:
    x, around = (x, [0] * 4) if transposed else r.without_padding(x)
    pads = [a + b for a, b in zip((*padding, *padding), around, strict=True)]
    attributes: dict[str, Any] = {
        "kernel_shape": list(weight.shape[2:]),
        "strides": list(stride),
        "pads": pads,
        "dilations": list(dilation),
        "group": groups,
    }
    if transposed and any(output_padding):
        attributes["output_padding"] = list(output_padding)
    inputs = [r.name(x), r.name(weight), *([] if bias is None else [r.name(bias)])]
    return r.node("ConvTranspose" if transposed else "Conv", inputs, **attributes)


def _max_pool(
    r: Recorder,
    metas: Metas,
    x: Tensor,
    kernel: list[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    ceil_mode: bool = False,
) -> Sequence[str]:
    (above, left), (down, across) = (list(p) * 2 if len(p) == 1 else p for p in (padding, dilation))
    return r.node(
        "MaxPool",
        [r.name(x)],
        kernel_shape=list(kernel),
        strides=list(stride or kernel),
        pads=[above, left, above, left],
        dilations=[down, across],
        ceil_mode=int(ceil_mode),
    )


def _resize(
    r: Recorder, metas: Metas, x: Tensor, size: Any, align_corners: bool, *scales: Any
) -> Sequence[str]:
    if any(scale is not None for scale in scales):
        raise NotImplementedError("an enlargement by a factor; give the size")
    before, after = x.shape[2:], metas[0].shape[2:]
    factors = [1.0, 1.0, *(new / old for new, old in zip(after, before, strict=True))]
    if any(not factor.is_integer() for factor in factors):
        raise NotImplementedError(f"an enlargement from {tuple(before)} to {tuple(after)}")
    how = "align_corners" if align_corners else "half_pixel"
    inputs = [r.name(x), "", r.operand(torch.tensor(factors), torch.float32)]
    return r.node("Resize", inputs, mode="linear", coordinate_transformation_mode=how)


def _view(r: Recorder, metas: Metas, x: Tensor, size: Any) -> Sequence[str]:
    shape = list(metas[0].shape)
    if r.depends_on_input(x):
        shape[0] = -1  # the batch
    return r.node("Reshape", [r.name(x), r.ints(shape)])


def _split(r: Recorder, metas: Metas, x: Tensor, size: int, dim: int = 0) -> Sequence[str]:
    if x.shape[dim] % size:
        raise NotImplementedError("a split into unequal parts")
    return r.node("Split", [r.name(x)], len(metas), axis=dim, num_outputs=len(metas))


def _slice(
    r: Recorder,
    metas: Metas,
    x: Tensor,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Sequence[str]:
    if metas[0].shape == x.shape:
        return [r.name(x)]
    first = start or 0
    last = min(x.shape[dim] if end is None else end, x.shape[dim])
    return r.node("Slice", [r.name(x), *(r.ints([n]) for n in (first, last, dim, step))])


def _stack(r: Recorder, metas: Metas, parts: list[Tensor], dim: int = 0) -> Sequence[str]:
    axis = dim % metas[0].dim()
    raised = [r.node("Unsqueeze", [r.name(part), r.ints([axis])])[0] for part in parts]
    for name, part in zip(raised, parts, strict=True):
        kind, sizes = r.described(part)
        r.shapes[name] = kind, [*sizes[:axis], 1, *sizes[axis:]]
    return r.node("Concat", raised, axis=axis)


def _reduce(kind: str) -> Operator:
    def write(
        r: Recorder, metas: Metas, x: Tensor, dims: list[int], keepdim: bool = False
    ) -> Sequence[str]:
        return r.node(kind, [r.name(x), r.ints(list(dims))], keepdims=int(keepdim))

    return write


def _clamp(
    r: Recorder, metas: Metas, x: Tensor, low: float | None = None, high: float | None = None
) -> Sequence[str]:
    ends = ["" if end is None else r.operand(end, x.dtype) for end in (low, high)]
    return r.node("Clip", [r.name(x), *(ends if ends[1] else ends[:1])])


def _pad(r: Recorder, metas: Metas, x: Tensor, pads: list[int], value: float = 0) -> Sequence[str]:
    missing = [0] * (x.dim() - len(pads) // 2)
    before, after = missing + pads[-2::-2], missing + pads[::-2]
    inputs = [r.name(x), r.ints(before + after), *([r.operand(value, x.dtype)] if value else [])]
    return r.node("Pad", inputs)


def _top(
    r: Recorder,
    metas: Metas,
    x: Tensor,
    k: int,
    dim: int = -1,
    largest: bool = True,
    ordered: bool = True,
) -> Sequence[str]:
    axis = dim % x.dim()
    return r.node(
        "TopK", [r.name(x), r.ints([k])], 2, axis=axis, largest=int(largest), sorted=int(ordered)
    )


def _softmax(r: Recorder, metas: Metas, x: Tensor, dim: int, to_float: bool) -> Sequence[str]:
    return r.node("Softmax", [r.name(x)], axis=dim)


def _cast(r: Recorder, metas: Metas, x: Tensor, dtype: torch.dtype, **_: Any) -> Sequence[str]:
    return [r.converted(x, dtype)]


def _where(r: Recorder, metas: Metas, choice: Tensor, a: Tensor, b: Tensor) -> Sequence[str]:
    dtype = metas[0].dtype
    return r.node("Where", [r.name(choice), r.operand(a, dtype), r.operand(b, dtype)])


def _unary(kind: str) -> Operator:
    return lambda r, metas, x: r.node(kind, [r.name(x)])


# Operations that change neither shape nor values.
UNCHANGED = frozenset(
    {aten.detach.default, aten.alias.default, aten.clone.default, aten.lift_fresh.default}
)
OPERATORS: dict[Any, Operator] = {
    aten.add.Tensor: _arithmetic("Add"),
    aten.sub.Tensor: _arithmetic("Sub"),
    aten.mul.Tensor: _arithmetic("Mul"),
    aten.div.Tensor: _divide,
    aten.div.Tensor_mode: _divide,
    aten.remainder.Scalar: _remainder,
    aten.gt.Tensor: _comparison("Greater"),
    aten.where.self: _where,
    aten.round.default: _unary("Round"),
    aten.clamp.default: _clamp,
    aten.relu.default: _unary("Relu"),
    aten.leaky_relu.default: lambda r, metas, x, slope=0.01: r.node(
        "LeakyRelu", [r.name(x)], alpha=float(slope)
    ),
    aten._prelu_kernel.default: lambda r, metas, x, slope: r.node(
        "PRelu", [r.name(x), r.name(slope)]
    ),
    aten.convolution.default: _convolution,
    aten.max_pool2d_with_indices.default: _max_pool,
    aten.upsample_bilinear2d.vec: _resize,
    aten.upsample_bilinear2d.default: _resize,
    aten.pixel_shuffle.default: lambda r, metas, x, factor: r.node(
        "DepthToSpace", [r.name(x)], blocksize=factor, mode="CRD"
    ),
    aten.amax.default: _reduce("ReduceMax"),
    aten.sum.dim_IntList: _reduce("ReduceSum"),
    aten._softmax.default: _softmax,
    aten.topk.default: _top,
    aten.cat.default: lambda r, metas, parts, dim=0: r.node(
        "Concat", [r.name(part) for part in parts], axis=dim
    ),
    aten.stack.default: _stack,
    aten.split.Tensor: _split,
    aten.view.default: _view,
    aten._unsafe_view.default: _view,
    aten.permute.default: lambda r, metas, x, order: r.node(
        "Transpose", [r.name(x)], perm=list(order)
    ),
    aten.unsqueeze.default: lambda r, metas, x, dim: r.node(
        "Unsqueeze", [r.name(x), r.ints([dim % (x.dim() + 1)])]
    ),
    aten.select.int: lambda r, metas, x, dim, index: r.node(
        "Gather", [r.name(x), r.ints(index)], axis=dim
    ),
    aten.index_select.default: lambda r, metas, x, dim, index: r.node(
        "Gather", [r.name(x), r.name(index)], axis=dim
    ),
    aten.slice.Tensor: _slice,
    aten.repeat.default: lambda r, metas, x, times: r.node(
        "Tile", [r.name(x), r.ints(list(times))]
    ),
    aten.constant_pad_nd.default: _pad,
    aten._to_copy.default: _cast,
}
