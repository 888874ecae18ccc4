"""The training processes: start, communication, error handling and signals."""

from __future__ import annotations

import atexit
import logging
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy

from dic.console import UserError
from train.recipe import Recipe

PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


def launch(recipe: Recipe) -> Fabric:
    """Set up Lightning Fabric in this process, which runs alone or was started by `torchrun`.

    Raises:
        UserError: this machine, or this number of processes, cannot run the recipe.
    """
    cuda = torch.cuda.is_available()
    if recipe.precision == "fp16" and not cuda:
        raise UserError("precision 'fp16' needs an NVIDIA GPU; on a CPU use 'bf16' or 'fp32'")
    world = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if recipe.batch_size % (world * recipe.accumulate):
        parts = f" × accumulate {recipe.accumulate}" if recipe.accumulate > 1 else ""
        raise UserError(
            f"batch_size {recipe.batch_size} is not a multiple of {world} processes{parts}; change "
            "batch_size"
        )
    if cuda and local > torch.cuda.device_count():
        raise UserError(
            f"{local} processes, but only {torch.cuda.device_count()} GPUs on this machine; lower "
            "torchrun's --nproc-per-node"
        )
    torch.backends.cudnn.benchmark = cuda  # all batches have the same shape
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    precision: Any = PRECISIONS[recipe.precision]
    # With a single step, the block of the later steps gets no gradients; by default, DDP would wait
    # for them.
    ddp = DDPStrategy(find_unused_parameters=recipe.network.steps == 1)
    fabric = Fabric(
        accelerator="cuda" if cuda else "cpu",
        strategy=ddp if world > 1 else "auto",
        devices=local,
        num_nodes=world // local,
        precision=precision,
    )
    fabric.launch()
    # If the group is only destroyed during interpreter shutdown, gloo's threads sometimes abort.
    atexit.register(leave_process_group)
    return fabric


def leave_process_group() -> None:
    """Leave the distributed process group, if there is one."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def agree(fabric: Fabric, stop: int | None, diverged: bool) -> tuple[int | None, bool]:
    """Combine the status of all processes, so that all of them stop in the same iteration.

    Args:
        stop: the signal that this process received, if any.
        diverged: whether a loss of this process is NaN or infinite.

    Returns:
        a signal that any process received, or None, and whether any process diverged.
    """
    any_stop, any_diverged = maximum(fabric, [stop or 0, int(diverged)])
    return any_stop or None, bool(any_diverged)


def maximum(fabric: Fabric, numbers: list[int]) -> list[int]:
    """Return the maximum of each number over all processes."""
    if fabric.world_size == 1:
        return numbers
    reduced = torch.tensor(numbers, device=fabric.device)
    torch.distributed.all_reduce(reduced, torch.distributed.ReduceOp.MAX)
    maxima: list[int] = reduced.tolist()
    return maxima


class SharedError(UserError):
    """An error that is raised in all processes at once; only the first process prints it."""


def on_first_process(fabric: Fabric, act: Callable[[], None]) -> None:
    """Call `act` in the first process while the others wait for it.

    Raises:
        SharedError: in all processes, if `act` raised a UserError.
    """
    failure = ""
    if fabric.is_global_zero:
        try:
            act()
        except UserError as error:
            failure = str(error)
    failure = fabric.broadcast(failure)
    if failure:
        raise SharedError(failure)


@contextmanager
def explain_errors(compiled: bool) -> Iterator[None]:
    """Convert errors that are due to the machine, such as lack of memory, to a UserError.

    Args:
        compiled: whether torch.compile is used; then any unknown error is attributed to it.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError(
            "out of GPU memory; lower batch_size, or divide it by accumulate=2, 4, …"
        ) from error
    except BrokenProcessPool as error:
        raise UserError(
            "a worker that draws faces was killed, probably for lack of memory; lower data.count"
        ) from error
    except RuntimeError as error:
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if "can't allocate memory" in line:
            raise UserError(
                "out of memory; lower batch_size, or divide it by accumulate=2, 4, …"
            ) from error
        if "DataLoader worker" in line:
            raise UserError(
                f"a worker that reads data was killed ({line}); lower data.workers"
            ) from error
        if not compiled:
            raise
        raise _compile_error(line) from error
    except (UserError, OSError, MemoryError):
        raise
    except Exception as error:
        if not compiled:
            raise
        raise _compile_error((str(error) or type(error).__name__).splitlines()[0]) from error


def _compile_error(reason: str) -> UserError:
    return UserError(f"compile=true fails on this machine ({reason}); set compile=false")


class Signals:
    """Records the signal that requests this process to stop."""

    received: int | None = None

    def handle(self, number: int, _: FrameType | None) -> None:
        # A scheduler and torchrun may both send SIGTERM; only a second Ctrl-C stops at once.
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number


@contextmanager
def watch_signals() -> Iterator[Signals]:
    """Record SIGTERM and Ctrl-C instead of terminating, so that the loop can save its state."""
    signals = Signals()
    old = {n: signal.signal(n, signals.handle) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield signals
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def ignore_signals(_: int) -> None:
    """Ignore SIGTERM and Ctrl-C in a data loader worker.

    If a signal is sent to the whole process group, the workers must outlive their parent's final
    save; the parent then ends them.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
