"""A benchmark run: each part adds to the results and prints its table."""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from dataclasses import replace

from benchmarks.contenders.gather import gather
from benchmarks.measure.accuracy import Strip, measure_accuracy
from benchmarks.measure.data import FaceSet, from_files, synthetic
from benchmarks.measure.footprint import measure_footprints
from benchmarks.measure.latency import measure_latency
from benchmarks.measure.machine import machine
from benchmarks.measure.operators import profile
from benchmarks.measure.roofline import measure_limits
from benchmarks.measure.steps import measure_dial
from benchmarks.report import tables
from benchmarks.report.results import VERSION, Named, Results
from dic.console import UserError
from runtime.engines.contract import Engine
from runtime.engines.onnxruntime import CPU
from train.checkpoint import Checkpoint

FACES = 1000
# PSNR in dB and SSIM that MMEditing reports for its CelebA-HQ test set.
PUBLISHED = {
    "DIC, MMEditing, CelebA-HQ": (25.2319, 0.7422),
    "DICGAN, MMEditing, CelebA-HQ": (23.6241, 0.6721),
}


class Run:
    """The contenders of a run and the results so far; one method per part.

    Args:
        options: the options of `benchmarks.__main__`.
        checkpoint: the reference.
        opened: the stack that closes the engines.

    Attributes:
        results: the results so far.
        strip: faces to show in the report; None until accuracy is measured.

    Raises:
        UserError: the faces of --data cannot be read, or engines do not match the reference.
        EngineError: an engine cannot be loaded.
    """

    def __init__(
        self, options: argparse.Namespace, checkpoint: Checkpoint, opened: ExitStack
    ) -> None:
        self._options, self._checkpoint = options, checkpoint
        self._faces = _given_faces(options)  # first, because it fails fast
        here = machine()
        self._contenders, missing = gather(
            checkpoint, options.engine, options.device, options.peers, opened
        )
        self._device = self._contenders[0].device
        # The engines to measure, by name; without peers.
        self._engines: dict[str, Engine] = {
            one.name: one.engine for one in self._contenders if one.engine and not one.peer
        }
        self._landmarks = any(engine.metadata.landmarks for engine in self._engines.values())
        self.strip: Strip | None = None
        self.results = Results(
            VERSION,
            here,
            {
                "file": options.reference.name,
                "sha256": checkpoint.sha256,
                "parameters": sum(p.numel() for p in checkpoint.network.parameters()),
                "training": dict(checkpoint.provenance),
            },
            [
                Named(one.name, one.backend, one.device, one.precision, one.peer)
                for one in self._contenders
            ],
            self._landmarks,
            [f"{name}: {why}" for name, why in missing.items()],
        )
        for name, engine in self._engines.items():
            if engine.metadata.rest.get("checkpoint_sha256") != checkpoint.sha256:
                print(f"warning: {name} was not exported from {options.reference}", file=sys.stderr)

    def latency(self) -> None:
        """Time every contender at every batch size."""
        self._limits()
        rows, left_out = measure_latency(
            self._contenders, self._options.batch, self._options.rounds, self._options.seconds
        )
        self.results = replace(self.results, latency=rows)
        self._leave_out(*left_out)
        if not rows:
            raise UserError(f"no latency could be measured: {'; '.join(left_out)}")
        _print("Latency", tables.latency(self.results), *tables.latency_notes(self.results))

    def start(self) -> None:
        """Start a process per engine and for PyTorch, and measure its memory."""
        sources = {self._contenders[0].name: ("pytorch", self._options.reference, self._device)}
        for name, engine in self._engines.items():
            sources[name] = ("engine", engine.path, self._options.device)
        footprints = measure_footprints(sources, self._options.starts)
        self.results = replace(self.results, footprints=footprints)
        _print("Start and memory", tables.footprints(self.results))

    def profile(self) -> None:
        """Measure the time of each engine by operator, on CPUs only."""
        self._limits()
        for name, engine in self._engines.items():
            if not engine.backend.endswith(CPU):
                self._leave_out(
                    f"profile of {name}: {engine.backend} reports no times by operator; only ONNX "
                    "Runtime on CPUs does"
                )
                continue
            operators = profile(engine.path, [CPU])
            self.results = replace(
                self.results, operators={**self.results.operators, name: operators}
            )
            _print(f"Operators of {name}, one face", tables.operators(operators))

    def accuracy(self) -> None:
        """Compare faces with the ground truth and the reference."""
        faces = self._faces or synthetic(self._options.faces or FACES)
        rows, self.strip = measure_accuracy(
            self._checkpoint.network, self._device, self._contenders[1:], faces
        )
        published = PUBLISHED if self._options.published else {}
        self.results = replace(self.results, accuracy=rows, faces=faces.source, published=published)
        _print(f"Accuracy on {faces.source}", tables.accuracy(self.results))

    def steps(self) -> None:
        """Measure latency and accuracy for every number of steps."""
        if not self.results.accuracy:
            self.accuracy()
        options = self._options
        name, like = next(iter(self._engines.items()))
        if like.path.suffix != ".onnx":
            self._leave_out(f"quality by steps: {name} is a plan; give an ONNX file first")
            return
        dial = measure_dial(
            self._checkpoint,
            like.metadata,
            options.device,
            self.results.accuracy,
            options.rounds,
            options.seconds,
        )
        self.results = replace(self.results, dial=dial)
        _print("Quality by number of steps", tables.dial(self.results))

    def _leave_out(self, *lines: str) -> None:
        self.results = replace(self.results, missing=[*self.results.missing, *lines])

    def _limits(self) -> None:
        """Measure the machine's limits, once."""
        if self.results.limits is None:
            precisions = [one.precision for one in self._contenders]
            network = self._checkpoint.network
            limits = measure_limits(network, self._landmarks, self._device, precisions)
            self.results = replace(self.results, limits=limits)


def _given_faces(options: argparse.Namespace) -> FaceSet | None:
    """The faces of --data, if a part needs them."""
    if not options.data or not {"accuracy", "steps"} & set(options.what):
        return None
    return from_files(options.data, options.landmarks or "", options.faces)


def _print(title: str, *parts: str) -> None:
    print("\n\n".join([f"\n{title}", *parts]), flush=True)
