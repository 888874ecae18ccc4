"""`python -m benchmarks.gpu_check`, or `make gpu-check`: check all GPU features on a machine.

For a machine with an NVIDIA GPU and without a network. Missing packages are installed from a folder
of wheels (tensorrt-rtx, onnxruntime-gpu, cuda-bindings with cuda-pathfinder) and sources (PyCUDA,
compiled on the machine).
Every stage is a separate process with a timeout. If one fails, its error message is recorded and
the next stage runs. Output:

    summary.md, summary.json   status, duration and last lines of every stage
    log.txt                    everything that the stages printed
    compact.json, full.json    results of `python -m benchmarks`; compact/ and full/ are reports
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NoReturn

from benchmarks.gpu_parts import PARTS, RUNS
from benchmarks.report.markdown import table
from dic.console import Parser, UserError, run
from dic.files import write_whole
from dic.outputs import check_outputs
from export import disable_telemetry

PACKAGES = ("tensorrt_rtx", "onnxruntime_gpu", "pycuda", "cuda_bindings")
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
CAPABILITIES = ("8.0", "current")  # in addition to the default
DONE, SOME_FAILED, NOTHING_DONE = 0, 1, 2
PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"


@dataclass
class Stage:
    """The result of a stage.

    Attributes:
        name: the stage's name.
        status: "passed", "failed" or "skipped".
        seconds: its duration.
        said: its answer or error message, or its last lines of output.
    """

    name: str
    status: str
    seconds: float
    said: str


@dataclass
class Check:
    """A running check.

    Attributes:
        out: folder for results.
        work: folder for engines and installed packages; kept, so that a second check is faster.
        wheels: folder of packages to install, or None.
        checkpoint: the compact network's checkpoint.
        deadline: when the check must end, in `time.monotonic` seconds.
        stages: the results so far.
    """

    out: Path
    work: Path
    wheels: Path | None
    checkpoint: Path
    deadline: float
    stages: list[Stage] = field(default_factory=list)

    @property
    def site(self) -> Path:
        """The folder that packages are installed to."""
        return self.work.resolve() / "site"

    def python(self, name: str, arguments: Sequence[object], seconds: float) -> bool:
        """Run `python -m …` as a stage; see `command`."""
        return self.command(name, [sys.executable, "-m", *map(str, arguments)], seconds)

    def command(self, name: str, command: Sequence[str], seconds: float) -> bool:
        """Run a command as a stage.

        Args:
            name: the stage's name.
            command: program and arguments.
            seconds: timeout; the whole check's deadline may shorten it.

        Returns:
            whether it passed: it ended in time with status 0.
        """
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
                    os.killpg(process.pid, signal.SIGKILL)  # the whole process group
                    text, _ = process.communicate()
                    text += f"\nstopped after {left:.0f} s\n"
        except OSError as error:
            text = f"{error.filename}: {error.strerror}\n"
        with (self.out / "log.txt").open("a") as log:
            log.write(f"\n===== {name}: {' '.join(command)}\n{text}")
        lines = [line for line in text.strip().splitlines() if line.strip()]
        shown = [line for line in lines if line.startswith(("error", "answer: "))] or lines[-2:]
        self.note(name, status, " ".join(shown[-2:]), time.monotonic() - began)
        return status == PASSED

    def note(self, name: str, status: str, said: str, seconds: float = 0.0) -> None:
        """Record a stage's result and rewrite the summary files, so that they are complete."""
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
    """Record the driver, the GPU and the versions of the libraries."""
    check.command("driver", ["nvidia-smi"], 30)
    check.python("machine", ["benchmarks.gpu_check", "--part", "machine"], 60)


def install(check: Check) -> None:
    """Install each file separately, so that one failure does not stop the others; sources last."""
    if check.wheels is None:
        check.note("install", SKIPPED, "no packages to install (--wheels DIR)")
        return
    files = [*sorted(check.wheels.glob("*.whl")), *sorted(check.wheels.glob("*.tar.gz"))]
    for package in PACKAGES:
        if not any(file.name.lower().startswith(package) for file in files):
            check.note(f"install {package}", SKIPPED, f"not in {check.wheels}")
    # --no-deps: the wheels require other versions of packages that the machine has.
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--upgrade"]
    pip += ["--no-build-isolation", "--target", str(check.site)]
    for file in files:
        check.command(f"install {file.name}", [*pip, str(file)], 240)


def engines(check: Check) -> None:
    """Export the compact network in every precision, and the full-size one in fp32 and fp16."""
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
    """Build a plan from every ONNX file, and the compact fp32 one for other GPUs."""
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
    """Load each engine; the runtime verifies it against PyTorch's reference outputs."""
    for path in [*sorted(check.work.glob("*.trt")), *sorted(check.work.glob("*.onnx"))]:
        part = ["benchmarks.gpu_check", "--part", "load", path]
        if check.python(f"run {path.name}", part, 60):
            _loaded(path).touch()
        else:
            _loaded(path).unlink(missing_ok=True)


def tests(check: Check) -> None:
    """Run the tests that need a GPU."""
    check.python("tests marked gpu", ["pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider"], 120)


def endurance(check: Check) -> None:
    """Run one engine many times from several threads; see `part_endure`."""
    path = next(iter(_running(check, "compact", ".trt", ".onnx")), None)
    if path is None:
        check.note(f"{RUNS} runs", SKIPPED, "no engine runs on the GPU here")
        return
    part = ["benchmarks.gpu_check", "--part", "endure", path]
    check.python(f"{RUNS} runs of {path.name}", part, 120)


def photographs(check: Check) -> None:
    """Restore photographs in GPU memory, by the CUDA kernels; see `part_photographs`."""
    path = next(iter(_running(check, "compact-fp32", ".trt")), None)
    if path is None:
        check.note("photographs", SKIPPED, "no plan runs on the GPU here")
        return
    part = ["benchmarks.gpu_check", "--part", "photographs", path]
    check.python(f"photographs by {path.name}", part, 60)


def measure(check: Check) -> None:
    """Run the benchmark on the engines that load here, and write its report."""
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
    for stage in (machine, install, engines, plans, load, tests, photographs, endurance, measure)
}


def _loaded(path: Path) -> Path:
    """The marker file of an engine that was loaded and verified."""
    return path.with_name(f".{path.name}.runs")


def _running(check: Check, size: str, *suffixes: str) -> list[Path]:
    """Engines of a size that were loaded here, in the order of the suffixes."""
    found = [path for end in suffixes for path in sorted(check.work.glob(f"{size}*{end}"))]
    return [path for path in found if _loaded(path).exists()]


def main(arguments: list[str]) -> int:
    parser = Parser(
        prog="python -m benchmarks.gpu_check", description="Check all GPU features on this machine."
    )
    add = parser.add_argument
    add("--out", type=Path, default=Path("build/gpu-check/out"), metavar="DIR")
    add("--work", type=Path, default=Path("build/gpu-check/work"), metavar="DIR")
    add("--wheels", type=Path, metavar="DIR", help="packages to install before the check")
    add(
        "--checkpoint",
        type=Path,
        metavar="CKPT",
        help="the compact network (default: the shipped one)",
    )
    add("--minutes", type=float, default=8.0, help="for the whole check (default: %(default)s)")
    add("--only", nargs="+", choices=list(STAGES), metavar="STAGE", help=", ".join(STAGES))
    add("--part", nargs="+", help="run the part of a stage (internal)")
    options = parser.parse_args(arguments)
    if options.part:
        name, *rest = options.part
        PARTS[name](*rest)
        return DONE
    if options.wheels and not options.wheels.is_dir():
        raise UserError(f"{options.wheels}: is not a folder; give a folder of packages")
    checkpoint = options.checkpoint
    if checkpoint is None:
        from train.checkpoint import SHIPPED_WEIGHTS

        checkpoint = SHIPPED_WEIGHTS
    written = [options.out / name for name in ("log.txt", "summary.md", "summary.json")]
    check_outputs(written, [checkpoint])
    for folder in (options.out, options.work):
        folder.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):
        (options.out / "log.txt").unlink()
    deadline = time.monotonic() + 60 * options.minutes
    check = Check(options.out, options.work, options.wheels, checkpoint, deadline)
    for name in options.only or STAGES:
        STAGES[name](check)
    print((options.out / "summary.md").read_text())
    return _status(check.stages)


def _status(stages: Sequence[Stage]) -> int:
    """The exit status: 0 if all stages passed, 1 if some did, 2 if none did."""
    passed = {stage.status == PASSED for stage in stages}
    if passed == {True}:
        return DONE
    return SOME_FAILED if True in passed else NOTHING_DONE


def cli() -> NoReturn:
    from dic.engine_file import EngineError

    disable_telemetry()
    run(main, "benchmarks", EngineError)


if __name__ == "__main__":
    cli()
