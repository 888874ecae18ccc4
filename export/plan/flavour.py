"""TensorRT and TensorRT-RTX: one API under two names, and all that differs between them here.

tensorrt       10.x and 11.x. Plans for the GPU that builds them, or for others where the
compatibility options say so; a timing cache.
tensorrt_rtx   Builds on machines without a GPU, for compute capabilities 8.0 and later or those
named; compiles for the GPU at hand when a plan is loaded, where the runtime
cache makes up for the timing cache that it does not have.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dic.console import UserError
from dic.driver import has_driver

MODULES = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}
INSTALLED_BY = {
    "tensorrt": "pip install tensorrt",
    "tensorrt_rtx": "pip install 'dic-toolkit[rtx]'",
}


@dataclass(frozen=True)
class PlanChoices:
    """What a plan is built for; the command's options, with its defaults.

    Attributes:
        batch: smallest, most frequent and largest of the optimisation profile.
        workspace: GPU memory that a layer may use for itself, MiB.
        optimization_level: 0 to 5; None for the builder's own.
        compute_capability: such as "8.6", or "current" (TensorRT-RTX).
    """

    batch: tuple[int, int, int] = (1, 8, 32)
    workspace: int | None = None
    optimization_level: int | None = None
    tf32: bool = False
    timing_cache: Path | None = None
    version_compatible: bool = False
    hardware_compatible: str | None = None
    compute_capability: tuple[str, ...] = ()
    verbose: bool = False


@dataclass(frozen=True)
class Flavour:
    """One of the two, imported.

    Attributes:
        module: its name, the value of `--flavour`.
        label: for people to read.
        trt: the module.
    """

    module: str
    label: str
    trt: Any

    @property
    def version(self) -> str:
        return str(self.trt.__version__)

    @property
    def is_rtx(self) -> bool:
        return self.module == "tensorrt_rtx"

    @property
    def creation_flags(self) -> int:
        """Strongly typed networks; what knows no others may not know the flag."""
        flag = getattr(self.trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        return 0 if flag is None else 1 << int(flag)

    def refuse(self, choices: PlanChoices) -> None:
        """Raise UserError for choices that this flavour does not have."""
        lacking: dict[str, object]
        if self.is_rtx:
            lacking = {
                "--timing-cache": choices.timing_cache,
                "--version-compatible": choices.version_compatible,
                "--hardware-compatible": choices.hardware_compatible,
            }
            instead = "its plans are portable, and its runtime keeps a cache"
        else:
            lacking = {"--compute-capability": choices.compute_capability}
            instead = "see --hardware-compatible"
        for option, given in lacking.items():
            if given:
                raise UserError(f"{option}: {self.label} does not have it; {instead}")

    def capability(self, wanted: str) -> Any:
        """The compute capability of a name such as 8.9 or current.

        Raises:
            UserError: it cannot be built for; lists those that can.
        """
        known = {
            name: value
            for name, value in self.trt.ComputeCapability.__members__.items()
            if name != "NONE"
        }
        name = "CURRENT" if wanted == "current" else f"SM{wanted.replace('.', '')}"
        if name not in known:
            said = ", ".join(
                "current" if n == "CURRENT" else f"{n[2:-1]}.{n[-1]}" for n in sorted(known)
            )
            raise UserError(f"--compute-capability {wanted}: {self.label} builds for {said}")
        return known[name]


def pick(choice: str, builds: bool = True) -> Flavour:
    """Import the flavour of a name, or under "auto" the first that works here.

    Args:
        builds: whether it needs its builder, or only its runtime.

    Raises:
        UserError: none works; says why.
    """
    reasons = []
    for module in list(MODULES) if choice == "auto" else [choice]:
        try:
            trt = importlib.import_module(module)
        except ModuleNotFoundError as error:
            missing = error.name == module
            reasons.append(
                f"{module} is not installed ({INSTALLED_BY[module]})"
                if missing
                else f"{module} is installed but lacks {error.name}"
            )
            continue
        except (ImportError, OSError, RuntimeError) as error:
            reasons.append(f"{module} is installed but does not load: {error}")
            continue
        flavour = Flavour(module, MODULES[module], trt)
        if builds and not hasattr(trt, "Builder"):
            reasons.append(f"{module} is installed without its builder")
        elif not flavour.is_rtx and not has_driver():
            reasons.append(f"{module} needs an NVIDIA GPU with a working driver")
        else:
            return flavour
    raise UserError("; ".join(reasons))
