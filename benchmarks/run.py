"""A run of the benchmark: each part adds to the results, and prints its table when it is there."""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from dataclasses import replace

from benchmarks.contenders.gather import gather
from benchmarks.measure.accuracy import Strip, measure_accuracy
from benchmarks.measure.data import FaceSet, from_files, synthetic
from benchmarks.measure.dial import measure_dial
from benchmarks.measure.footprint import measure_footprints
from benchmarks.measure.latency import measure_latency
from benchmarks.measure.machine import machine
from benchmarks.measure.operators import profile
from benchmarks.measure.roofline import measure_limits
from benchmarks.report import tables
from benchmarks.report.results import VERSION, Named, Results
from dic.console import UserError
from runtime.engines.contract import Engine
from runtime.engines.onnxruntime import CPU
from train.checkpoint import Checkpoint

FACES = 1000
# MMEditing's, on its own test pictures of CelebA-HQ.
PUBLISHED = {
    "DIC, MMEditing, CelebA-HQ": (25.2319, 0.7422),
    "DICGAN, MMEditing, CelebA-HQ": (23.6241, 0.6721),
}


class Run:
    """What has been measured so far, and who takes part.

    Args:
        options: of the command (`benchmarks.__main__`).
        checkpoint: the reference.
        opened: closes the engines.

    Attributes:
        found: the results.
        strip: faces to look at, once accuracy has been measured.
    """

    def __init__(
        self, options: argparse.Namespace, checkpoint: Checkpoint, opened: ExitStack
    ) -> None:
        self._options, self._checkpoint = options, checkpoint
        self._faces = _given_faces(options)  # read first, so that what is wrong is told at once
        here = machine()
        self._contenders, missing = gather(
            checkpoint, options.engine, options.device, options.peers, opened
        )
        self._device = self._contenders[0].device
        # Engines that are measured for themselves, by their names.
        self._engines: dict[str, Engine] = {
            one.name: one.engine for one in self._contenders if one.engine and not one.peer
        }
        self._landmarks = any(engine.metadata.landmarks for engine in self._engines.values())
        self.strip: Strip | None = None
        self.found = Results(
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
        self._limits()
        rows, left_out = measure_latency(
            self._contenders, self._options.batch, self._options.rounds, self._options.seconds
        )
        self.found = replace(self.found, latency=rows)
        self._leave_out(*left_out)
        if not rows:
            raise UserError(f"no latency could be measured: {'; '.join(left_out)}")
        _print("Latency", tables.latency(self.found), *tables.latency_notes(self.found))

    def start(self) -> None:
        sources = {self._contenders[0].name: ("pytorch", self._options.reference, self._device)}
        for name, engine in self._engines.items():
            sources[name] = ("engine", engine.path, self._options.device)
        found = measure_footprints(sources, self._options.starts)
        self.found = replace(self.found, footprints=found)
        _print("Start and memory", tables.footprints(self.found))

    def profile(self) -> None:
        self._limits()
        for name, engine in self._engines.items():
            if not engine.backend.endswith(CPU):
                self._leave_out(
                    f"a profile of {name}: only ONNX Runtime on CPUs has one that tells operators' "
                    f"times, not {engine.backend}"
                )
                continue
            found = profile(engine.path, [CPU])
            self.found = replace(self.found, operators={**self.found.operators, name: found})
            _print(f"Operators of {name}, one face", tables.operators(found))

    def accuracy(self) -> None:
        faces = self._faces or synthetic(self._options.faces or FACES)
        rows, self.strip = measure_accuracy(
            self._checkpoint.network, self._device, self._contenders[1:], faces
        )
        published = PUBLISHED if self._options.published else {}
        self.found = replace(self.found, accuracy=rows, faces=faces.source, published=published)
        _print(f"Accuracy on {faces.source}", tables.accuracy(self.found))

    def steps(self) -> None:
        if not self.found.accuracy:
            self.accuracy()
        options = self._options
        name, like = next(iter(self._engines.items()))
        if like.path.suffix != ".onnx":
            self._leave_out(f"steps as a dial: {name} is a plan; name an ONNX engine first")
            return
        dial = measure_dial(
            self._checkpoint,
            like.metadata,
            options.device,
            self.found.accuracy,
            options.rounds,
            options.seconds,
        )
        self.found = replace(self.found, dial=dial)
        _print("Steps as a dial", tables.dial(self.found))

    def _leave_out(self, *lines: str) -> None:
        self.found = replace(self.found, missing=[*self.found.missing, *lines])

    def _limits(self) -> None:
        """Of the machine; measured once."""
        if self.found.limits is None:
            precisions = [one.precision for one in self._contenders]
            network = self._checkpoint.network
            limits = measure_limits(network, self._landmarks, self._device, precisions)
            self.found = replace(self.found, limits=limits)


def _given_faces(options: argparse.Namespace) -> FaceSet | None:
    if not options.data or not {"accuracy", "steps"} & set(options.what):
        return None
    return from_files(options.data, options.landmarks or "", options.faces)


def _print(title: str, *parts: str) -> None:
    print("\n\n".join([f"\n{title}", *parts]), flush=True)
