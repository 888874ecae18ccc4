"""`python -m benchmarks.gpu_check`, or `make gpu-check`: everything said about GPUs, run on one.

For a machine with an NVIDIA GPU and no network. What it lacks is brought along in a folder of
wheels (tensorrt-rtx, onnxruntime-gpu) and sources (PyCUDA, built there by its own compiler).
Stages are processes of their own, each with its share of the time: what cannot be installed or
does not run is written down with its exact message, and the rest goes on. What comes out:

    summary.md, summary.json   every stage: how it ended, how long it took, and its answer
    log.txt                    all that the stages printed
    compact.json, full.json    results as of `python -m benchmarks`; compact/, full/ their reports
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NoReturn

from benchmarks.report.tables import table
from dic.console import Parser, UserError, run
from dic.files import write_whole

PACKAGES = ("tensorrt_rtx", "onnxruntime_gpu", "pycuda")
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
CAPABILITIES = ("8.0", "current")  # beside the default
RUNS = 10_000
DONE, SOME_FAILED, NOTHING_DONE = 0, 1, 2
PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"


@dataclass
class Stage:
    """A stage that has run.

    Attributes:
        name: what it did.
        status: "passed", "failed" or "skipped".
        seconds: that it took.
        said: its last lines; where it failed, why.
    """

    name: str
    status: str
    seconds: float
    said: str


@dataclass
class Check:
    """A check under way.

    Attributes:
        out: where results go.
        work: where engines and installed packages go; kept, so that a second check is quicker.
        wheels: what was brought along, if anything.
        checkpoint: of the compact network.
        deadline: when it should be over, by `time.monotonic`.
    """

    out: Path
    work: Path
    wheels: Path | None
    checkpoint: Path
    deadline: float
    stages: list[Stage] = field(default_factory=list)

    @property
    def site(self) -> Path:
        return self.work.resolve() / "site"

    def python(self, name: str, arguments: Sequence[object], seconds: float) -> bool:
        """A stage that is `python -m …`; whether it passed."""
        return self.command(name, [sys.executable, "-m", *map(str, arguments)], seconds)

    def command(self, name: str, command: Sequence[str], seconds: float) -> bool:
        left = min(seconds, self.deadline - time.monotonic())
        if left < 5:
            self.note(name, SKIPPED, "no time left")
            return False
        print(f"[{name}] {' '.join(command)}", file=sys.stderr, flush=True)
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(self.site), os.getcwd()])}
        began = time.monotonic()
        text, status = "", FAILED
        try:
            with subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                errors="replace", env=environment, start_new_session=True,
            ) as process:  # fmt: skip
                try:
                    text, _ = process.communicate(timeout=left)
                    status = PASSED if process.returncode == 0 else FAILED
                    text += "" if process.returncode == 0 else f"\nstatus {process.returncode}\n"
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)  # and what it has started
                    text, _ = process.communicate()
                    text += f"\nstopped after {left:.0f} s\n"
        except OSError as error:
            text = f"{error.filename}: {error.strerror}\n"
        with (self.out / "log.txt").open("a") as log:
            log.write(f"\n===== {name}: {' '.join(command)}\n{text}")
        lines = [line for line in text.strip().splitlines() if line.strip()]
        told = [line for line in lines if line.startswith(("error", "answer: "))] or lines[-2:]
        self.note(name, status, " ".join(told[-2:]), time.monotonic() - began)
        return status == PASSED

    def note(self, name: str, status: str, said: str, seconds: float = 0.0) -> None:
        """Keep how a stage ended, in files that are whole after each."""
        self.stages.append(Stage(name, status, round(seconds, 1), said[:500]))
        print(f"[{name}] {status}: {said[:200]}", file=sys.stderr, flush=True)
        rows = [
            (s.name, s.status, f"{s.seconds:.0f}", s.said.replace("|", "/")) for s in self.stages
        ]
        text = "# GPU check\n\n" + table(("stage", "", "s", "answer"), rows) + "\n"
        write_whole(self.out / "summary.md", text.encode())
        stages = [asdict(stage) for stage in self.stages]
        write_whole(self.out / "summary.json", json.dumps(stages, indent=1).encode())


def machine(check: Check) -> None:
    check.command("driver", ["nvidia-smi"], 30)
    check.python("machine", ["benchmarks.gpu_check", "--part", "machine"], 60)


def install(check: Check) -> None:
    """Each file on its own: one that fails does not take the others along. Sources come last."""
    if check.wheels is None:
        check.note("install", SKIPPED, "nothing was brought along (--wheels DIR)")
        return
    files = [*sorted(check.wheels.glob("*.whl")), *sorted(check.wheels.glob("*.tar.gz"))]
    for package in PACKAGES:
        if not any(file.name.lower().startswith(package) for file in files):
            check.note(f"install {package}", SKIPPED, f"not in {check.wheels}")
    # Their wheels ask for what the machine's image has in other versions: --no-deps.
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--upgrade"]
    pip += ["--no-build-isolation", "--target", str(check.site)]
    for file in files:
        check.command(f"install {file.name}", [*pip, str(file)], 240)


def engines(check: Check) -> None:
    part = ["benchmarks.gpu_check", "--part"]
    for precision in PRECISIONS:
        path = check.work / f"compact-{precision}.onnx"
        check.python(f"export compact {precision}", [*part, "export", check.checkpoint, path], 120)
    full = check.work / "full.pth"
    if not full.exists():
        check.python("full-size checkpoint, random weights", [*part, "random", full], 60)
    for precision in ("fp32", "fp16"):
        path = check.work / f"full-{precision}.onnx"
        check.python(f"export full {precision}", [*part, "export", full, path], 150)


def plans(check: Check) -> None:
    build = ["export.tensorrt", "--flavour", "auto", "--max-batch", 256]
    for source in sorted(check.work.glob("*.onnx")):
        check.python(
            f"plan of {source.name}", [*build, source, "-o", source.with_suffix(".trt")], 90
        )
    source = check.work / "compact-fp32.onnx"
    for capability in CAPABILITIES:
        target = check.work / f"compact-{capability}.trt"
        chosen = ["--compute-capability", capability]
        check.python(f"plan for {capability}", [*build, source, "-o", target, *chosen], 90)


def load(check: Check) -> None:
    """Does each engine run here, and give PyTorch's faces? The runtime's own check."""
    for path in [*sorted(check.work.glob("*.trt")), *sorted(check.work.glob("*.onnx"))]:
        part = ["benchmarks.gpu_check", "--part", "load", path]
        if check.python(f"run {path.name}", part, 60):
            _loaded(path).touch()
        else:
            _loaded(path).unlink(missing_ok=True)


def tests(check: Check) -> None:
    check.python("tests marked gpu", ["pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider"], 120)


def endurance(check: Check) -> None:
    path = next(iter(_running(check, "compact", ".trt", ".onnx")), None)
    if path is None:
        check.note(f"{RUNS} runs", SKIPPED, "no engine runs on the GPU here")
        return
    part = ["benchmarks.gpu_check", "--part", "endure", path]
    check.python(f"{RUNS} runs of {path.name}", part, 120)


def measure(check: Check) -> None:
    for size, checkpoint, batches, faces in (
        ("compact", check.checkpoint, (1, 4, 16, 64, 256), 200),
        ("full", check.work / "full.pth", (1, 8, 64), 16),
    ):
        paths = _running(check, size, ".trt", ".onnx")
        if not paths or not checkpoint.exists():
            check.note(f"benchmarks {size}", SKIPPED, "no engine runs on the GPU here")
            continue
        line = ["benchmarks", "all", "--device", "cuda", "--peers", "--starts", 1]
        line += ["--engine", *paths, "--reference", checkpoint, "--batch", *batches]
        line += ["--rounds", 20, "--seconds", 12, "--faces", faces]
        found = check.out / f"{size}.json"
        check.python(f"benchmarks {size}", [*line, "--json", found], 200)
        if found.exists():
            part = ["benchmarks.gpu_check", "--part", "report", found]
            check.python(f"report {size}", part, 60)


STAGES: dict[str, Callable[[Check], None]] = {
    stage.__name__: stage
    for stage in (machine, install, engines, plans, load, tests, endurance, measure)
}


def _loaded(path: Path) -> Path:
    return path.with_name(f".{path.name}.runs")


def _running(check: Check, size: str, *suffixes: str) -> list[Path]:
    """Engines of a size that have run here, plans first."""
    found = [path for end in suffixes for path in sorted(check.work.glob(f"{size}*{end}"))]
    return [path for path in found if _loaded(path).exists()]


# What a stage's own process does


def part_machine() -> None:
    import torch

    from benchmarks.measure import machine as here

    print(json.dumps(asdict(here.machine("benchmarks.gpu_check")), indent=1))
    if not torch.cuda.is_available():
        raise UserError("PyTorch sees no GPU")
    name, capability = torch.cuda.get_device_name(), torch.cuda.get_device_capability()
    print(f"answer: {name}, compute capability {capability[0]}.{capability[1]}")


def part_random(path: str) -> None:
    import torch

    from train.checkpoint import save_checkpoint
    from train.model.network import DIC, NetworkConfig

    torch.manual_seed(0)
    save_checkpoint(Path(path), DIC(NetworkConfig()), {"recipe": "none: random weights"})


def part_export(checkpoint: str, path: str) -> None:
    from benchmarks.contenders.builds import built
    from export.choices import Choices, Precision
    from export.graph.interface import Io, Signature
    from train.checkpoint import load_checkpoint

    found = load_checkpoint(Path(checkpoint))
    trained = "random" not in str(found.provenance.get("recipe"))
    # Random weights make heatmaps of noise, whose peaks jump: there faces alone are compared.
    signature = Signature(Io.IMAGE, found.network.config.steps, trained)
    precision = Precision(Path(path).stem.rpartition("-")[2])
    built(found, signature, Choices(precision=precision), Path(path))


def part_load(path: str) -> None:
    import logging

    from runtime.engines.load import load_engine

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    with load_engine(path, "cuda") as engine:
        print(f"answer: runs by {engine.backend} on {engine.device}, as PyTorch does")


def part_endure(path: str) -> None:
    """Many runs of changing batches from four threads; results against the first, memory."""
    import numpy as np
    import torch

    from runtime.engines.load import load_engine

    def memory() -> tuple[float, float]:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        free, total = torch.cuda.mem_get_info()
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6, (total - free) / 1e6

    with load_engine(path, "cuda") as engine:
        given = engine.inputs[0].name
        batches = [b for b in (1, 2, 8, 32) if b <= (engine.max_batch or b)]
        rng = np.random.default_rng(0)
        images = {b: rng.integers(0, 256, (b, 16, 16, 3), np.uint8) for b in batches}
        wanted = {b: engine.run({given: image})["face"] for b, image in images.items()}
        wrong: list[str] = []

        def work(seed: int, runs: int) -> None:
            order = np.random.default_rng(seed).choice(batches, runs)
            try:
                for n, b in enumerate(order):
                    face = engine.run({given: images[b]})["face"]
                    if n % 50 == 0 and np.abs(face.astype(int) - wanted[b]).max() > 1:
                        wrong.append(f"run {n} of thread {seed}: other faces")
            except Exception as error:
                wrong.append(f"thread {seed}: {error}")

        def all_threads(runs: int) -> None:
            threads = [threading.Thread(target=work, args=(n, runs // 4)) for n in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        all_threads(RUNS // 10)
        before = memory()
        all_threads(RUNS)
        after = memory()
    grown = [b - a for a, b in zip(before, after, strict=True)]
    said = f"host {grown[0]:+.1f} MB, GPU {grown[1]:+.1f} MB over {RUNS} runs"
    print(f"answer: {said}; {wrong or 'all right'}")
    if wrong or max(grown) > 20:
        raise UserError(f"grew by {grown} MB; {'; '.join(wrong) or 'a leak'}")


def part_report(path: str) -> None:
    """A report in a process of its own: its libraries may be missing where the figures are not."""
    from benchmarks.report import results
    from benchmarks.report.pages import write_report

    found = Path(path)
    write_report(results.read(found), None, found.with_suffix(""))


PARTS: dict[str, Callable[..., None]] = {
    "machine": part_machine,
    "random": part_random,
    "export": part_export,
    "load": part_load,
    "endure": part_endure,
    "report": part_report,
}


def main(arguments: list[str]) -> int:
    parser = Parser(prog="python -m benchmarks.gpu_check", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--out", type=Path, default=Path("build/gpu-check/out"), metavar="DIR")
    add("--work", type=Path, default=Path("build/gpu-check/work"), metavar="DIR")
    add("--wheels", type=Path, metavar="DIR", help="packages that were brought along")
    add("--checkpoint", type=Path, metavar="CKPT", help="of the compact network (default: shipped)")
    add("--minutes", type=float, default=8.0, help="for all of it (default: %(default)s)")
    add("--only", nargs="+", choices=list(STAGES), metavar="STAGE", help=", ".join(STAGES))
    add("--part", nargs="+", help="what a stage's own process does")
    options = parser.parse_args(arguments)
    if options.part:
        name, *rest = options.part
        PARTS[name](*rest)
        return DONE
    if options.wheels and not options.wheels.is_dir():
        raise UserError(f"{options.wheels}: is no folder")
    from train.checkpoint import SHIPPED_WEIGHTS

    for folder in (options.out, options.work):
        folder.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):
        (options.out / "log.txt").unlink()
    deadline = time.monotonic() + 60 * options.minutes
    checkpoint = options.checkpoint or SHIPPED_WEIGHTS
    check = Check(options.out, options.work, options.wheels, checkpoint, deadline)
    for name in options.only or STAGES:
        STAGES[name](check)
    print((options.out / "summary.md").read_text())
    return _status(check.stages)


def _status(stages: Sequence[Stage]) -> int:
    passed = {stage.status == PASSED for stage in stages}
    if passed == {True}:
        return DONE
    return SOME_FAILED if True in passed else NOTHING_DONE


def cli() -> NoReturn:
    from dic.console import UserError as TrainError
    from dic.engine_file import EngineError

    run(main, "benchmarks", EngineError, TrainError)


if __name__ == "__main__":
    cli()
