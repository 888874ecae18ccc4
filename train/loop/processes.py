"""The processes that train: how they start, agree, fail together, and leave when told to."""

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
    """Lightning Fabric for this process: alone, or one of `torchrun`'s.

    Raises:
        UserError: the recipe needs what this machine lacks.
    """
    cuda = torch.cuda.is_available()
    if recipe.precision == "fp16" and not cuda:
        raise UserError("precision 'fp16' needs an NVIDIA GPU; on a CPU use 'bf16' or 'fp32'")
    world = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if recipe.batch_size % (world * recipe.accumulate):
        raise UserError(
            f"batch_size {recipe.batch_size} cannot be shared equally by {world} processes"
            + (f" in {recipe.accumulate} parts each" if recipe.accumulate > 1 else "")
        )
    if cuda and local > torch.cuda.device_count():
        raise UserError(f"{local} processes, and only {torch.cuda.device_count()} GPUs here")
    torch.backends.cudnn.benchmark = cuda  # all batches have one shape
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    precision: Any = PRECISIONS[recipe.precision]
    # With one step the block of the later steps takes no part, and would be waited for.
    shared = DDPStrategy(find_unused_parameters=recipe.network.steps == 1)
    fabric = Fabric(
        accelerator="cuda" if cuda else "cpu",
        strategy=shared if world > 1 else "auto",
        devices=local,
        num_nodes=world // local,
        precision=precision,
    )
    fabric.launch()
    # Left to the interpreter's end, gloo's threads at times abort a process that has finished.
    atexit.register(leave_group)
    return fabric


def leave_group() -> None:
    """Leave the group of processes, where this one is in one."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def agree(fabric: Fabric, stop: int | None, broken: bool) -> tuple[int | None, bool]:
    """What any process has met, every process learns: a signal, a loss that is no number."""
    any_stop, any_broken = most(fabric, [stop or 0, int(broken)])
    return any_stop or None, bool(any_broken)


def most(fabric: Fabric, numbers: list[int]) -> list[int]:
    """The largest of each number over all processes."""
    if fabric.world_size == 1:
        return numbers
    shared = torch.tensor(numbers, device=fabric.device)
    torch.distributed.all_reduce(shared, torch.distributed.ReduceOp.MAX)
    found: list[int] = shared.tolist()
    return found


class SharedError(UserError):
    """What every process fails with at once; one of them says it."""


def together(fabric: Fabric, act: Callable[[], None]) -> None:
    """Let the first process act, and the others wait for it, or fail with it.

    Raises:
        SharedError: in every process, where `act` raised a UserError in the first.
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
def explained(compiled: bool) -> Iterator[None]:
    """What goes wrong with the machine, told as a UserError in one line.

    Args:
        compiled: the network runs through torch.compile, whose code may fail in any way.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError(
            "out of GPU memory; lower batch_size, or compute it in parts (accumulate=2, 4, …)"
        ) from error
    except BrokenProcessPool as error:
        raise UserError("a process that draws faces was killed; is the memory full?") from error
    except RuntimeError as error:
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if "can't allocate memory" in line:
            raise UserError("out of memory; lower batch_size, or use accumulate") from error
        if "DataLoader worker" in line:
            raise UserError(
                f"a process that reads data was killed ({line}); lower data.workers"
            ) from error
        if not compiled:
            raise
        raise UserError(f"compile=true fails on this machine ({line}); go without") from error
    except (UserError, OSError, MemoryError):
        raise
    except Exception as error:
        if not compiled:
            raise
        line = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"compile=true fails on this machine ({line}); go without") from error


class Signals:
    """The signal that asks this process to leave, once it has come."""

    received: int | None = None

    def note(self, number: int, _: FrameType | None) -> None:
        # A scheduler and torchrun may both send SIGTERM; a second Ctrl-C means at once.
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number


@contextmanager
def watch_signals() -> Iterator[Signals]:
    """Within, SIGTERM and Ctrl-C are noted, not obeyed: the loop saves its state and leaves."""
    signals = Signals()
    old = {n: signal.signal(n, signals.note) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield signals
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def leave_signals_to_the_parent(_: int) -> None:
    """A signal to the whole group must not take the workers from the parent, which saves first.

    They leave when it does.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
