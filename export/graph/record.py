"""Record a module's forward pass as an ONNX graph.

The module runs once, on stand-ins that have a shape and a type but no values. PyTorch dispatches
every operation to the recorder, which writes the ONNX operator of the same meaning. What does not
depend on the input is computed (`fold`), or becomes nodes that runtimes compute when they load the
graph. Loops and branches of the module are thereby unrolled.

PyTorch's own exporter (`torch.onnx.export`) captures, decomposes and translates any model, at some
20 ms an operation. A DIC network needs the 40 operations of `export.graph.operators`; all else is
an error. A test compares the two exporters (tests/export/test_record.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from export.graph.operators import OPERATORS, UNCHANGED, Operator

BATCH = 2  # of the stand-in; a size that depends on it is an error unless it is the first
DTYPES = {
    torch.float32: TensorProto.FLOAT,
    torch.float16: TensorProto.FLOAT16,
    torch.bfloat16: TensorProto.BFLOAT16,
    torch.uint8: TensorProto.UINT8,
    torch.int64: TensorProto.INT64,
    torch.bool: TensorProto.BOOL,
}


class Traced(Tensor):
    """A tensor that depends on the module's input: a shape and a type, without values.

    Attributes:
        meta: the same on PyTorch's meta device, from which the shapes of results are inferred.
        value: its name in the graph; empty until a padding is applied.
        padded: the tensor before padding, and the zeros at its top, left, bottom and right, which
            the next convolution takes as its own padding.
    """

    meta: Tensor
    value: str
    padded: tuple[Traced, list[int]] | None

    @staticmethod
    def __new__(cls, meta: Tensor, value: str) -> Traced:
        make: Any = Tensor._make_wrapper_subclass
        made = make(cls, meta.shape, dtype=meta.dtype, device="cpu")
        made.meta, made.value, made.padded = meta, value, None
        assert isinstance(made, Traced)
        return made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Tensor:
        raise RuntimeError(f"{func}: outside the recorder")


@dataclass
class Graph:
    """A recorded graph.

    Attributes:
        nodes: in the order of computation, without names; values have preliminary names.
        scopes: of each node: the name of the innermost module that it was recorded in.
        initializers: constants by name.
        shapes: type and shape of each node's outputs; the batch is "batch".
        outputs: names of the module's results.
    """

    nodes: list[onnx.NodeProto]
    scopes: list[str]
    initializers: dict[str, TensorProto]
    shapes: dict[str, tuple[int, list[int | str]]]
    outputs: list[str]


def record(module: nn.Module, sample: Tensor, name: str, fold: int) -> Graph:
    """Record a module's forward pass.

    Args:
        module: in evaluation mode; takes a tensor, and returns a tuple of tensors.
        sample: an input; the first size is the batch.
        name: of the input.
        fold: operations on constants of up to this many elements are computed.

    Raises:
        NotImplementedError: an operation is not in `OPERATORS`, or mixes the batch's elements.
    """
    recorder = Recorder(module, fold)
    shape = (BATCH, *sample.shape[1:])
    source = Traced(torch.empty(shape, dtype=sample.dtype, device="meta"), name)
    with recorder.entered(module), torch.no_grad(), recorder:
        results = module(source)
    outputs = []
    for result in results:
        value = recorder.name(result)
        if value in outputs or value == name:
            (value,) = recorder.node("Identity", [value], again=True)
            recorder.shapes[value] = recorder.described(result)
        outputs.append(value)
    return Graph(recorder.nodes, recorder.scopes, recorder.initializers, recorder.shapes, outputs)


class Recorder(TorchDispatchMode):
    """See `record`."""

    def __init__(self, module: nn.Module, fold: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.nodes: list[onnx.NodeProto] = []
        self.scopes: list[str] = []
        self.initializers: dict[str, TensorProto] = {}
        self.shapes: dict[str, tuple[int, list[int | str]]] = {}
        self._fold = fold
        self._scope = [""]
        self._values: dict[tuple[Any, ...], tuple[str, ...]] = {}  # outputs of equal nodes
        self._stored: dict[tuple[Any, ...], str] = {}  # names of equal constants
        # By id of constant tensors, which `_kept` keeps alive so that no id is used twice.
        self._labels = {
            id(t): label for label, t in (*module.named_parameters(), *module.named_buffers())
        }
        self._named: dict[int, str] = {}
        self._origins: dict[int, tuple[Any, Any, Any, int]] = {}  # the operation, and which result
        self._equals: dict[int, Tensor] = {}
        self._kept: list[Tensor] = []

    @contextmanager
    def entered(self, module: nn.Module) -> Iterator[None]:
        """Keep track of the module that is running."""
        hooks = []
        for label, part in module.named_modules():
            hooks.append(part.register_forward_pre_hook(lambda *_, s=label: self._scope.append(s)))
            hooks.append(part.register_forward_hook(lambda *_: self._leave()))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _leave(self) -> None:
        self._scope.pop()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = list(_tensors((*args, *kwargs.values())))
        if any(isinstance(tensor, Traced) for tensor in tensors):
            return self._on_data(func, args, kwargs)
        result = func(*args, **kwargs)
        results = [result] if isinstance(result, Tensor) else list(_tensors(result))
        self._kept += results
        if func in UNCHANGED:
            if result is not args[0]:
                self._equals[id(result)] = args[0]
        elif not func._schema.is_mutable and any(
            tensor.numel() > self._fold or self._is_computed(tensor) for tensor in tensors
        ):
            for index, one in enumerate(results):
                self._origins[id(one)] = (func, args, kwargs, index)
        return result

    def _on_data(self, func: Any, args: Any, kwargs: Any) -> Any:
        if func in UNCHANGED:
            return args[0]
        inferred = func(*_map(_meta, args), **_map(_meta, kwargs))
        single = isinstance(inferred, Tensor)
        metas = [inferred] if single else list(inferred)
        if any(meta.dim() == 0 or meta.shape[0] != BATCH for meta in metas):
            raise NotImplementedError(f"{func}: mixes the elements of a batch")
        if func is torch.ops.aten.constant_pad_nd.default and (pads := _around(args)):
            padded = Traced(metas[0], "")
            padded.padded = (args[0], pads)
            return padded
        names = self._operator(func)(self, metas, *args, **kwargs)
        results = [Traced(meta, name) for meta, name in zip(metas, names, strict=False)]
        for result in results:
            self.shapes[result.value] = self.described(result)
        # Not all results have an ONNX equal: the places of a pooling's maxima have none.
        results += [Traced(meta, "") for meta in metas[len(results) :]]
        return results[0] if single else type(inferred)(results)

    def _operator(self, func: Any) -> Operator:
        if func not in OPERATORS:
            raise NotImplementedError(
                f"{func}: has no ONNX equivalent in export/graph/operators.py; add one to OPERATORS"
            )
        return OPERATORS[func]

    def described(self, tensor: Tensor) -> tuple[int, list[int | str]]:
        """ONNX type and shape; the first size of what depends on the input is "batch"."""
        sizes: list[int | str] = list(tensor.shape)
        if isinstance(tensor, Traced):
            sizes[0] = "batch"
        return DTYPES[tensor.dtype], sizes

    # -- names ----------------------------------------------------------------------------------

    def name(self, tensor: Tensor) -> str:
        """The tensor's name in the graph, of which it or its constant becomes a part."""
        if isinstance(tensor, Traced):
            if not tensor.value and tensor.padded is not None:
                source, (top, left, bottom, right) = tensor.padded
                pads = self.ints([0, 0, top, left, 0, 0, bottom, right])
                (tensor.value,) = self.node("Pad", [self.name(source), pads])
                self.shapes[tensor.value] = self.described(tensor)
            return tensor.value
        known = self._named.get(id(tensor))
        if known is None:
            known = self._named[id(tensor)] = self._constant(tensor)
        return known

    def _is_computed(self, tensor: Tensor) -> bool:
        """Whether a constant is computed by nodes."""
        while id(tensor) in self._equals:
            tensor = self._equals[id(tensor)]
        return id(tensor) in self._origins

    def _constant(self, tensor: Tensor) -> str:
        self._kept.append(tensor)
        if id(tensor) in self._equals:
            return self.name(self._equals[id(tensor)])
        if id(tensor) in self._origins:
            func, args, kwargs, index = self._origins[id(tensor)]
            metas = func(*_map(_meta, args), **_map(_meta, kwargs))
            metas = [metas] if isinstance(metas, Tensor) else list(metas)
            name = self._operator(func)(self, metas, *args, **kwargs)[index]
            self.shapes[name] = self.described(tensor)
            return name
        data = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        kind, shape = DTYPES[tensor.dtype], tuple(tensor.shape)
        key = (kind, shape, hashlib.sha256(data).digest())
        if key not in self._stored:
            label = self._labels.get(id(tensor)) or f"constant_{len(self.initializers) + 1}"
            self._stored[key] = label
            self.initializers[label] = TensorProto(
                name=label, data_type=kind, dims=shape, raw_data=data
            )
        return self._stored[key]

    @staticmethod
    def depends_on_input(tensor: Tensor) -> bool:
        """Whether the first size of a tensor is the batch."""
        return isinstance(tensor, Traced)

    @staticmethod
    def without_padding(tensor: Tensor) -> tuple[Tensor, list[int]]:
        """A tensor before it was padded, unless the graph has its padding already; and the zeros at
        its top, left, bottom and right.
        """
        if isinstance(tensor, Traced) and tensor.padded is not None and not tensor.value:
            return tensor.padded
        return tensor, [0] * 4

    @staticmethod
    def common_type(a: Any, b: Any) -> torch.dtype:
        """The type that PyTorch compares two operands in."""
        return torch.result_type(_meta(a), _meta(b))

    def ints(self, numbers: int | Sequence[int]) -> str:
        """The name of an int64 constant."""
        return self._constant(torch.tensor(numbers, dtype=torch.int64))

    def operand(self, value: Tensor | float, dtype: torch.dtype) -> str:
        """The name of an operand, converted to a type."""
        if not isinstance(value, Tensor):
            return self._constant(torch.tensor(value, dtype=dtype))
        if value.dtype == dtype:
            return self.name(value)
        return self.converted(value, dtype)

    def converted(self, value: Tensor, dtype: torch.dtype) -> str:
        """The name of a tensor cast to a type."""
        (name,) = self.node("Cast", [self.name(value)], to=DTYPES[dtype])
        _, sizes = self.described(value)
        self.shapes[name] = (DTYPES[dtype], sizes)
        return name

    def node(
        self,
        kind: str,
        inputs: Sequence[str],
        count: int = 1,
        again: bool = False,
        **attributes: Any,
    ) -> tuple[str, ...]:
        """Add a node, or take an equal one that is there.

        Args:
            count: of outputs.
            again: add the node even if an equal one is there.

        Returns:
            the names of its outputs.
        """
        key = (kind, *inputs, repr(sorted(attributes.items())), count)
        if again or key not in self._values:
            outputs = tuple(f"{len(self.nodes)}:{index}" for index in range(count))
            self._values[key] = outputs
            self.nodes.append(helper.make_node(kind, inputs, outputs, **attributes))
            self.scopes.append(self._scope[-1])
        return self._values[key]


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _map(change: Callable[[Any], Any], values: Any) -> Any:
    """Change the values in lists, tuples and dictionaries."""
    if isinstance(values, dict):
        return {key: _map(change, value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return type(values)(_map(change, value) for value in values)
    return change(values)


def _meta(value: Any) -> Any:
    if isinstance(value, Traced):
        return value.meta
    return value.to("meta") if isinstance(value, Tensor) and value.dim() else value


def _around(args: Any) -> list[int] | None:
    """A zero padding of the last two dimensions: top, left, bottom, right; None for others."""
    source, pads, value = (*args, 0)[:3]
    if not isinstance(source, Traced) or source.dim() != 4 or len(pads) != 4 or value:
        return None
    left, right, top, bottom = pads
    return [top, left, bottom, right] if min(pads) >= 0 else None
