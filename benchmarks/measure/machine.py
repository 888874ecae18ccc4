"""A description of the machine, stored with every result."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from dic.cores import cores

BUSY = 0.25  # share of the processors in use by other work, above which latencies are unreliable
PACKAGES = (
    *("torch", "onnx", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-rtx"),
    *("pycuda", "numpy", "opencv-python-headless"),
)


@dataclass(frozen=True)
class Machine:
    """A machine at the time of a measurement.

    Attributes:
        system: operating system and version.
        processor: its name as reported by the system.
        cores: number of cores that this process may use.
        features: those instruction sets of the processor that networks run faster with.
        megahertz: current clock of each core; empty if the system does not report it.
        gpus: name, driver, clocks and limits of each GPU, from `nvidia-smi`.
        busy: share of the processors that other work used before the measurement, 0..1.
        versions: of Python and the libraries, by package.
        commit: of this project, with a "+" if files had changed; empty without git.
        date: year-month-day.
        command: the command that repeats the measurement.
    """

    system: str
    processor: str
    cores: int
    features: list[str]
    megahertz: list[int]
    gpus: list[str]
    busy: float
    versions: dict[str, str]
    commit: str
    date: str
    command: str


def machine(program: str = "benchmarks") -> Machine:
    """Describe this machine. Takes half a second, to measure how busy it is; see `warn_if_busy`.

    Args:
        program: the module of the command, as in `python -m program …`.
    """
    return Machine(
        system=platform.platform(),
        processor=_processor(),
        cores=cores(),
        features=_features(),
        megahertz=_megahertz(),
        gpus=_gpus(),
        busy=warn_if_busy(),
        versions=_versions(),
        commit=_commit(),
        date=time.strftime("%Y-%m-%d"),
        command=shlex.join(["python", "-m", program, *sys.argv[1:]]),
    )


def resident() -> float:
    """Return the memory that this process has in use, in 10⁶ bytes (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def warn_if_busy() -> float:
    """The share of the processors in use now, 0..1; prints a warning if it is over `BUSY`."""

    def taken() -> tuple[int, int]:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
        ticks = list(map(int, fields))
        return sum(ticks) - ticks[3] - ticks[4], sum(ticks)  # without idle and I/O wait

    try:
        busy, total = taken()
        time.sleep(0.5)
        busy_later, total_later = taken()
    except OSError:
        return 0.0
    share = (busy_later - busy) / max(1, total_later - total)
    if share > BUSY:
        print(
            f"warning: other work uses {share:.0%} of the processors; latencies are unreliable",
            file=sys.stderr,
        )
    return round(share, 3)


def _cpuinfo(field: str) -> list[str]:
    """A field of /proc/cpuinfo for every core; empty if there is no such file."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
    return [line.split(":", 1)[1].strip() for line in lines if line.startswith(field)]


def _processor() -> str:
    names = _cpuinfo("model name")
    if not names:
        return platform.processor()
    # Virtual machines hide the name; family and model identify the generation.
    family, model = _cpuinfo("cpu family")[:1], _cpuinfo("model\t")[:1]
    return f"{names[0]} (family {family[0]}, model {model[0]})" if family and model else names[0]


def _features() -> list[str]:
    flags = set(" ".join(_cpuinfo("flags")[:1]).split())
    wanted = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_tile")
    return [name for name in wanted if name in flags]


def _megahertz() -> list[int]:
    return [round(float(value)) for value in _cpuinfo("cpu MHz")]


def _gpus() -> list[str]:
    fields = "name,driver_version,clocks.sm,clocks.mem,power.limit,memory.total"
    call = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    return _lines(call)


def _commit() -> str:
    folder = Path(__file__).parent
    found = _lines(["git", "-C", str(folder), "rev-parse", "--short=12", "HEAD"])
    if not found:
        return ""
    changed = _lines(["git", "-C", str(folder), "status", "--porcelain", "-uno"])
    return found[0] + ("+" if changed else "")


def _lines(command: list[str]) -> list[str]:
    """The lines that a command prints; empty if it is not installed or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.strip().splitlines()


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
