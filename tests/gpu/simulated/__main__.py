"""`python -m simulated MODULE ARGUMENT…`: a command of the product on a machine with a GPU.

When the process exits, what leaked or broke a rule is printed, and its status is 99.
"""

from __future__ import annotations

import atexit
import importlib
import os
import sys

from . import Machine, installed

BROKEN = 99


def finish(machine: Machine) -> None:
    """Runs last at the exit: after the engines' finalisers."""
    try:
        machine.finish()
    except AssertionError as error:
        print(f"broken rules: {error}", file=sys.stderr, flush=True)
        os._exit(BROKEN)


if __name__ == "__main__":
    made = Machine()
    atexit.register(finish, made)
    stand_ins = installed(made)
    stand_ins.__enter__()  # until the process ends
    module, *sys.argv[1:] = sys.argv[1:]
    importlib.import_module(module).cli()
