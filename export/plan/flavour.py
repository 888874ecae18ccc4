"""TensorRT and TensorRT-RTX: two libraries with one API, and the differences between them.

tensorrt: versions 10.1 and later. Plans run on the GPU that builds them, or on others with the
compatibility options. Has a timing cache. For data-centre GPUs (8.0, 9.0, 10.0), and others.

tensorrt_rtx: builds on machines without a GPU, for compute capabilities 8.0 and later or for given
ones. Kernels are compiled when a plan is loaded; a runtime cache takes the place of the timing
cache. For GeForce and RTX cards: RTX_CAPABILITIES. Its int8 is weight-only, for matrix products
(INT8 WoQ GEMM in NVIDIA's support matrices): quantised convolutions may compute in floats.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dic.console import UserError
from dic.driver import compute_capability, has_driver

# NVIDIA's support matrices of TensorRT-RTX 1.5; those of data-centre GPUs are not in them.
RTX_CAPABILITIES = ((7, 5), (8, 6), (8, 9), (12, 0), (12, 1))
MODULES = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}
INSTALLED_BY = {
    "tensorrt": "pip install tensorrt",
    "tensorrt_rtx": "pip install 'dic-toolkit[rtx]'",
}


@dataclass(frozen=True)
class PlanChoices:
    """Build options: the command's, with the same defaults.

    Attributes:
        batch: the optimisation profile's smallest, optimal and largest batch.
        workspace: limit on a layer's workspace, MiB of GPU memory; None for the builder's default.
        optimization_level: 0 to 5; None for the builder's default.
        tf32: allow TF32 in float32 layers.
        timing_cache: file of kernel timings to read and write (TensorRT).
        version_compatible: build plans for later TensorRT versions too (TensorRT).
        hardware_compatible: "ampere_plus" or "same_compute_capability", for other GPUs (TensorRT).
        compute_capability: such as "8.6", or "current"; empty for the default (TensorRT-RTX).
        verbose: print the builder's log.
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
    """An imported builder library.

    Attributes:
        module: the module's name, also the value of `--flavour`.
        label: the name to display.
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
        """Flags for strongly typed networks; 0 if the version knows no other kind, and no flag."""
        flag = getattr(self.trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        return 0 if flag is None else 1 << int(flag)

    def refuse(self, choices: PlanChoices) -> None:
        """Raise UserError if an option is set that this flavour does not have."""
        unsupported: dict[str, object]
        if self.is_rtx:
            unsupported = {
                "--timing-cache": choices.timing_cache,
                "--version-compatible": choices.version_compatible,
                "--hardware-compatible": choices.hardware_compatible,
            }
            instead = "leave it out: its plans are portable, and its runtime has a cache"
        else:
            unsupported = {"--compute-capability": choices.compute_capability}
            instead = "use --hardware-compatible"
        for option, given in unsupported.items():
            if given:
                raise UserError(f"{option}: not an option of {self.label}; {instead}")

    def capability(self, wanted: str) -> Any:
        """TensorRT-RTX's constant for a compute capability.

        Args:
            wanted: such as "8.9", or "current".

        Raises:
            UserError: the library cannot build for it; lists those that it can build for.
        """
        known = {
            name: value
            for name, value in self.trt.ComputeCapability.__members__.items()
            if name != "NONE"
        }
        name = "CURRENT" if wanted == "current" else f"SM{wanted.replace('.', '')}"
        if name not in known:
            supported = ", ".join(
                "current" if n == "CURRENT" else f"{n[2:-1]}.{n[-1]}" for n in sorted(known)
            )
            raise UserError(f"--compute-capability {wanted}: {self.label} builds for {supported}")
        return known[name]


def pick(choice: str, builds: bool = True) -> Flavour:
    """Import a flavour.

    Args:
        choice: "tensorrt", "tensorrt_rtx", or "auto" for the first of them that works here;
            TensorRT-RTX comes first where the GPU is one of RTX_CAPABILITIES.
        builds: whether the builder is needed; otherwise the runtime suffices.

    Raises:
        UserError: none works; gives the reasons.
    """
    reasons = []
    modules = sorted(MODULES, reverse=compute_capability() in RTX_CAPABILITIES)
    for module in modules if choice == "auto" else [choice]:
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
