"""Unrolling: a network's recurrence becomes one ONNX graph."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

import onnx
import onnx_ir
import onnxscript
import torch
from onnx_ir.passes import common as passes
from onnxscript.rewriter.rules.common import (
    fuse_pad_into_conv_rule,
    materialize_reshape_shape_rule,
    normalize_pad_format_conv_rule,
)

from export.graph.interface import Signature, wrap
from export.graph.names import name_nodes
from train.model.network import DIC

OPSET = 20  # what TensorRT 10.0 reads
# Numbers of the largest constant that is computed on: shapes, biases, Helen's 5×194 components.
# What repeats weights (`export.graph.packed`) stays in the graph; engines
# compute it once, when they are loaded.
FOLDED = 1000
LARGEST_WEIGHT = 10_000_000  # numbers, beyond those of any convolution


def unroll(
    network: DIC, signature: Signature, opset: int = OPSET, fold: int = FOLDED
) -> onnx.ModelProto:
    """Trace the recurrence into one graph with a dynamic batch; weights are stored once.

    Args:
        fold: numbers of the largest constant that is computed on.
    """
    # The sample batch is 2: with 1, the exporter would take the batch for a constant.
    sample = signature.sample(2, torch.Generator().manual_seed(0))
    with _quiet():
        program = torch.onnx.export(
            wrap(network, signature),
            (sample,),
            dynamo=True,
            opset_version=opset,
            input_names=[signature.input],
            output_names=list(signature.outputs),
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
            optimize=False,
        )
        assert program is not None
        _simplify(program.model, fold)
    model: onnx.ModelProto = program.model_proto
    name_nodes(model)
    # The exporter notes on every node which line of which file it came from: as large as a small
    # network's weights, and of the machine that it ran on.
    for part in (*model.graph.node, *model.graph.value_info, *model.graph.output, model.graph):
        del part.metadata_props[:]
    return model


def _simplify(model: onnx_ir.Model, fold: int) -> None:
    """What of onnxscript's optimiser changes such a graph.

    The whole of it tries every rule at every node, some in time that grows with the square of
    their number: half of an export's time, for what this does in half a second.
    """
    onnxscript.optimizer.inline(model)
    onnxscript.optimizer.fold_constants(
        model, input_size_limit=fold, output_size_limit=LARGEST_WEIGHT
    )
    rules = [
        materialize_reshape_shape_rule,  # engines then know all sizes but the batch
        normalize_pad_format_conv_rule,
        fuse_pad_into_conv_rule,
    ]
    onnxscript.rewriter.rewrite(model, rules)
    for cleaning in (
        passes.RemoveUnusedNodesPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.DeduplicateInitializersPass(),
        passes.CommonSubexpressionEliminationPass(),
        passes.RemoveUnusedNodesPass(),
        passes.OutputFixPass(),
        passes.NameFixPass(),
    ):
        cleaning(model)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter narrates on stdout, in logs and in warnings about its own future."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "torch.export")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
