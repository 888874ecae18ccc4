"""`python -m export.tensorrt`: build a TensorRT or TensorRT-RTX plan from an engine's ONNX file.

The precision is the graph's (networks are strongly typed). What differs between the two builders
is in `export.flavour`. A plan is marked unverified, since it may be built where it cannot run:
PyTorch's results travel with it, to be compared where it is first loaded (`runtime.verify`).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from train.console import Parser, UserError, check_writable, run, write_together
from train.progress import Progress

if TYPE_CHECKING:
    from export.flavour import Flavour, PlanChoices

MIB = 2**20
SUFFIXES = (".trt", ".plan", ".engine")
LEVELS = range(6)  # builder optimisation levels of both flavours


def main(arguments: list[str]) -> int:
    options = _parse(arguments)
    output = options.output
    if output.exists() and options.onnx.exists() and output.samefile(options.onnx):
        raise UserError(f"{output}: is the ONNX file; choose another output")
    for path in filter(None, (output, options.timing_cache)):
        if path.is_dir():
            raise UserError(f"{path}: is a folder; name a file in it")

    check_writable(output)

    from export.flavour import PlanChoices

    choices = PlanChoices(
        batch=options.batch,
        workspace=options.workspace,
        optimization_level=options.optimization_level,
        tf32=options.tf32,
        timing_cache=options.timing_cache,
        version_compatible=options.version_compatible,
        hardware_compatible=options.hardware_compatible,
        compute_capability=tuple(options.compute_capability or ()),
        verbose=options.verbose,
    )
    build(options.onnx, output, options.flavour, choices)
    return 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    """The options and what is wrong with them: a table, and long as one."""
    parser = Parser(
        prog="python -m export.tensorrt",
        description="Build a TensorRT plan from an ONNX file that export.onnx wrote.",
    )
    parser.add_argument("onnx", type=Path, metavar="ONNX")
    parser.add_argument(
        "-o", "--output", type=Path, help="default: the ONNX file's name with .trt, here"
    )
    parser.add_argument(
        "--flavour",
        choices=("auto", "tensorrt", "tensorrt_rtx"),
        default="auto",
        help="which builder (default: tensorrt where it is installed, else tensorrt_rtx)",
    )
    parser.add_argument("--min-batch", type=int, default=1, metavar="N", help="default: 1")
    parser.add_argument(
        "--opt-batch", type=int, metavar="N", help="the batch to be fastest at (default: 8)"
    )
    parser.add_argument("--max-batch", type=int, metavar="N", help="default: 32")
    parser.add_argument(
        "--workspace", type=int, metavar="MIB", help="GPU memory that a layer may use for itself"
    )
    parser.add_argument(
        "--optimization-level",
        type=int,
        choices=LEVELS,
        metavar="0-5",
        help="how long to search for fast kernels (default: the builder's)",
    )
    parser.add_argument(
        "--tf32",
        action="store_true",
        help="let float32 products lose 13 bits on tensor cores; fp32 engines are then held to "
        "fp16's limits",
    )
    parser.add_argument(
        "--timing-cache", type=Path, metavar="FILE", help="reuse and keep kernel timings (tensorrt)"
    )
    parser.add_argument(
        "--version-compatible", action="store_true", help="for later TensorRT too (tensorrt)"
    )
    parser.add_argument(
        "--hardware-compatible",
        choices=("ampere_plus", "same_compute_capability"),
        help="for other GPUs too (tensorrt)",
    )
    parser.add_argument(
        "--compute-capability",
        nargs="+",
        metavar="N.N",
        help="the GPUs to build for: 8.6 12.0, or current (tensorrt_rtx; default: 8.0 and up)",
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="show the builder's log")
    options = parser.parse_args(arguments)
    least = options.min_batch
    most = options.max_batch or max(32, least, options.opt_batch or 0)
    opt = options.opt_batch or min(max(8, least), most)
    if not 1 <= least <= opt <= most:
        parser.error(
            f"--min-batch {least}, --opt-batch {opt} and --max-batch {most} must be at least 1 and "
            "in this order"
        )
    if options.workspace is not None and options.workspace < 1:
        parser.error("--workspace must be at least 1")
    options.batch = (least, opt, most)
    options.output = options.output or Path(options.onnx.with_suffix(".trt").name)
    if options.output.suffix not in SUFFIXES:
        parser.error(f"-o {options.output}: the file's name ends in {', '.join(SUFFIXES)}")
    return options


def build(source: Path, output: Path, flavour_name: str, choices: PlanChoices) -> None:
    """Write the plan of an ONNX engine, and beside it the JSON with its metadata.

    Raises:
        UserError: not an engine's ONNX file, no builder, or it cannot build; nothing is written.
    """
    from onnx.defs import onnx_opset_version

    from export.engine_file import Kind, read_engine_file, sidecar
    from export.flavour import pick

    engine = read_engine_file(source)
    if engine.kind is not Kind.ONNX:
        raise UserError(f"{source}: is a {engine.kind.value} already; give the ONNX file")
    if not engine.is_ours:
        raise UserError(f"{source}: not a DIC engine; make one with python -m export.onnx")
    if (opset := engine.opset) > (newest := onnx_opset_version()):
        raise UserError(
            f"{source}: opset {opset} is newer than the installed onnx knows ({newest}); "
            "upgrade onnx and TensorRT, or export it anew"
        )
    facts = dict(engine.metadata)
    if choices.tf32 and facts["precision"] == "fp32":
        facts["export_error"] = _with_limits_of(facts["export_error"], "fp16")
    flavour = pick(flavour_name)
    flavour.refuse(choices)
    builder = PlanBuilder(flavour, source, choices)
    builder.say(f"{source}: {facts['precision']}, {facts['io']} I/O; building")
    plan = builder.build()
    described = facts | {
        "inputs": [asdict(tensor) for tensor in engine.inputs],
        "outputs": [asdict(tensor) for tensor in engine.outputs],
        "verified": "no",
        "plan": {
            "sha256": hashlib.sha256(plan).hexdigest(),
            "flavour": flavour.module,
            "version": flavour.version,
            "batch": choices.batch,
            "compute_capability": choices.compute_capability,
            "tf32": choices.tf32,
        },
    }
    text = json.dumps(described, indent=1) + "\n"
    files = {output: plan, sidecar(output): memoryview(text.encode())}
    if choices.timing_cache:
        files[choices.timing_cache] = builder.timings
    write_together(files)
    builder.say(
        f"wrote {output} ({len(plan) / 1e6:.1f} MB) and {sidecar(output).name}; unverified until a "
        "GPU has run it against PyTorch's results, which are in it"
    )


def _with_limits_of(export_error: str, precision: str) -> str:
    """What the runtime verifies a plan by, with the limits of a lower precision."""
    from export.gate.limits import LIMITS, Precision

    facts = json.loads(export_error)
    facts["limits"] = LIMITS[Precision(precision)].times(facts.get("tolerance", 1.0)).finite()
    return json.dumps(facts)


class PlanBuilder:
    """Parses an ONNX file and builds a plan of it.

    Args:
        flavour: which library.
        source: the ONNX file; external weights are found beside it.
        choices: what to build for.

    Attributes:
        timings: the timing cache after a build, where one was asked for.
    """

    def __init__(self, flavour: Flavour, source: Path, choices: PlanChoices) -> None:
        self.flavour, self.source, self.choices, self.trt = flavour, source, choices, flavour.trt
        self.timings = memoryview(b"")
        self.bar = Progress(total=None, desc=flavour.label, unit="step", leave=False)
        self.complaints: list[str] = []
        self.stopped = False
        self.logger = self._logger()

    def say(self, line: str) -> None:
        self.bar.say(line)

    def build(self) -> memoryview:
        """The plan.

        Raises:
            UserError: the graph cannot be parsed or built; says which node and why.
            KeyboardInterrupt: the user stopped it.
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
            reason = self.complaints[0] if self.complaints else "it gives no reason (see -v)"
            hint = "; --workspace may be too small" if self.choices.workspace else ""
            raise UserError(f"{self.source}: {self.flavour.label} cannot build it: {reason}{hint}")
        return memoryview(plan)

    def _build(self) -> Any:
        """What the library returns: the plan, or None."""
        trt, choices = self.trt, self.choices
        builder = trt.Builder(self.logger)
        network = builder.create_network(self.flavour.creation_flags)
        parser = trt.OnnxParser(network, self.logger)
        if not parser.parse_from_file(str(self.source)):
            raise UserError(f"{self.source}: {self._parse_error(parser)}")
        config = builder.create_builder_config()
        profile = builder.create_optimization_profile()
        for i in range(network.num_inputs):
            tensor = network.get_input(i)
            sizes = tuple(tensor.shape)[1:]
            profile.set_shape(tensor.name, *((batch, *sizes) for batch in choices.batch))
        config.add_optimization_profile(profile)
        self._configure(config)
        config.progress_monitor = self._monitor()
        self.complaints.clear()
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
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # layers keep their names
        if choices.version_compatible:
            config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        if choices.hardware_compatible:
            name = choices.hardware_compatible.upper()
            levels = trt.HardwareCompatibilityLevel.__members__
            if name not in levels:  # of early 10.x
                raise UserError(f"--hardware-compatible: {self.flavour.version} has no {name}")
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
                    "remove it or name another"
                )

    def _parse_error(self, parser: Any) -> str:
        """The parser's first complaint: node, operator and reason, in one line."""
        if not parser.num_errors:
            return "the parser gives no reason"
        error = parser.get_error(0)
        reason = " ".join(str(error.desc()).split())
        node = error.node_name() if hasattr(error, "node_name") else ""
        operator = error.node_operator() if hasattr(error, "node_operator") else ""
        where = f"node {node} ({operator}): " if node else ""
        return f"{self.flavour.label} cannot read it: {where}{reason[:300]}"

    def _logger(self) -> Any:
        """A logger that keeps errors for our one line, and shows the rest where asked to."""
        keep, show, severities = self.complaints, self.choices.verbose, self.trt.ILogger.Severity
        bar = self.bar

        class Logger(self.trt.ILogger):  # type: ignore[misc,name-defined]
            def log(self, severity: Any, message: str) -> None:
                line = " ".join(message.split())
                if severity in (severities.INTERNAL_ERROR, severities.ERROR):
                    keep.append(line[:300])
                if show:
                    bar.say(f"{severity.name.lower()}: {line}")

        return Logger()

    def _monitor(self) -> Any:
        """The library's progress on our bar. It must not raise: the library would not know."""
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
        """Ctrl-C stops the build at its next step, where the library lets go.

        Python's own exception could be raised in a callback, where the library would swallow it.
        """
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread hears signals
            return

        def stop(*_: object) -> None:
            self.stopped = True
            signal.signal(signal.SIGINT, before)  # who presses it twice is in a hurry

        before = signal.signal(signal.SIGINT, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


def cli() -> NoReturn:
    run(main, "rtx")


if __name__ == "__main__":
    cli()
