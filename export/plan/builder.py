"""Build a plan from an ONNX file, with a progress bar; Ctrl-C stops the build."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dic.console import UserError
from dic.progress import Progress
from dic.tensorrt_log import NO_REASON, plan_logger
from export.plan.flavour import Flavour, PlanChoices
from export.plan.layers import layer_types

MIB = 2**20


class PlanBuilder:
    """Parses an ONNX file and builds a plan.

    Args:
        flavour: the library that builds.
        source: the ONNX file; external weights are read from the same folder.
        choices: build options.

    Attributes:
        timings: the serialised timing cache after a build, if `choices.timing_cache` is set.
        layers: number of computing layers by type after a build; see `layer_types`.
    """

    def __init__(self, flavour: Flavour, source: Path, choices: PlanChoices) -> None:
        self.flavour, self.source, self.choices, self.trt = flavour, source, choices, flavour.trt
        self.timings = memoryview(b"")
        self.layers: dict[str, int] = {}
        self.bar = Progress(total=None, desc=flavour.label, unit="step", leave=False)
        self.stopped = False
        show = self.bar.say if choices.verbose else None
        self.logger = plan_logger(flavour.trt, show)

    def say(self, line: str) -> None:
        """Print a line to standard error without disturbing the progress bar."""
        self.bar.say(line)

    def build(self) -> memoryview:
        """Build the plan.

        Returns:
            the serialised plan.

        Raises:
            UserError: the graph cannot be parsed or built; names the node and the reason.
            KeyboardInterrupt: Ctrl-C stopped the build.
        """
        try:
            with self._interruptible():
                plan = self._build()
            if plan is not None and self.bar.total:
                self.bar.update(self.bar.total - self.bar.n)
        finally:
            self.bar.close()
        if self.stopped:
            raise KeyboardInterrupt
        if plan is None:
            # Later errors follow from the first.
            reason = self.logger.first
            reason += " (-v shows the log)" if reason == NO_REASON else ""
            hint = "; try a larger --workspace" if self.choices.workspace else ""
            raise UserError(f"{self.source}: {self.flavour.label} cannot build it: {reason}{hint}")
        return memoryview(plan)

    def _build(self) -> Any:
        """Parse and build; the library's return value, a plan or None."""
        trt, choices = self.trt, self.choices
        builder = trt.Builder(self.logger)
        network = builder.create_network(self.flavour.creation_flags)
        parser = trt.OnnxParser(network, self.logger)
        if not parser.parse_from_file(str(self.source)):
            raise UserError(f"{self.source}: {self._parse_error(parser)}")
        self.layers = layer_types(trt, network)
        config = builder.create_builder_config()
        profile = builder.create_optimization_profile()
        for i in range(network.num_inputs):
            tensor = network.get_input(i)
            sizes = tuple(tensor.shape)[1:]
            profile.set_shape(tensor.name, *((batch, *sizes) for batch in choices.batch))
        config.add_optimization_profile(profile)
        self._configure(config)
        config.progress_monitor = self._monitor()
        self.logger.clear()
        plan = builder.build_serialized_network(network, config)
        if choices.timing_cache and plan is not None:
            self.timings = memoryview(config.get_timing_cache().serialize())
        return plan

    def _configure(self, config: Any) -> None:
        trt, choices = self.trt, self.choices
        if choices.workspace is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, choices.workspace * MIB)
        if choices.optimization_level is not None:
            config.builder_optimization_level = choices.optimization_level
        (config.set_flag if choices.tf32 else config.clear_flag)(trt.BuilderFlag.TF32)
        config.profiling_verbosity = (
            trt.ProfilingVerbosity.DETAILED
        )  # so that profiles show layer names
        if choices.version_compatible:
            config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        if choices.hardware_compatible:
            name = choices.hardware_compatible.upper()
            levels = trt.HardwareCompatibilityLevel.__members__
            if name not in levels:  # missing in early 10.x
                raise UserError(
                    f"--hardware-compatible: {self.flavour.label} {self.flavour.version} has no "
                    f"{name}; upgrade it"
                )
            config.hardware_compatibility_level = levels[name]
        if choices.compute_capability:
            named = [self.flavour.capability(wanted) for wanted in choices.compute_capability]
            config.num_compute_capabilities = len(named)
            for i, capability in enumerate(named):
                config.set_compute_capability(capability, i)
        if choices.timing_cache:
            held = choices.timing_cache.read_bytes() if choices.timing_cache.is_file() else b""
            cache = config.create_timing_cache(held)
            if cache is None or not config.set_timing_cache(cache, False):
                raise UserError(
                    f"{choices.timing_cache}: not a timing cache of this TensorRT and GPU; "
                    "remove it or give another"
                )

    def _parse_error(self, parser: Any) -> str:
        """The parser's first error: node, operator and reason, in one line."""
        if not parser.num_errors:
            return f"{self.flavour.label} cannot parse it: no reason given (-v shows the log)"
        error = parser.get_error(0)
        reason = " ".join(str(error.desc()).split())
        node = error.node_name() if hasattr(error, "node_name") else ""
        operator = error.node_operator() if hasattr(error, "node_operator") else ""
        where = f"node {node} ({operator}): " if node else ""
        return f"{self.flavour.label} cannot parse it: {where}{reason[:300]}"

    def _monitor(self) -> Any:
        """A monitor that updates the progress bar. It must not raise: TensorRT ignores that."""
        outer = self

        class Monitor(self.trt.IProgressMonitor):  # type: ignore[misc,name-defined]
            def __init__(self) -> None:
                super().__init__()
                self.top = ""

            def phase_start(self, name: str, parent: str | None, steps: int) -> None:
                if parent is None:
                    self.top = name
                    outer.bar.reset(total=steps)
                else:
                    outer.bar.set_postfix_str(name, refresh=False)

            def step_complete(self, name: str, step: int) -> bool:
                if name == self.top:
                    outer.bar.update()
                return not outer.stopped

            def phase_finish(self, name: str) -> None:
                pass

        return Monitor()

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Make Ctrl-C stop the build at the monitor's next step.

        Python's KeyboardInterrupt could be raised in a callback, where TensorRT would discard it.
        """
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread receives signals
            return

        def stop(*_: object) -> None:
            self.stopped = True
            signal.signal(signal.SIGINT, before)  # a second Ctrl-C interrupts at once

        before = signal.signal(signal.SIGINT, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
