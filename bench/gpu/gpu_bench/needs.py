"""What a part cannot do without. A part that lacks it says so in one line and counts as not run, never as passed."""

from __future__ import annotations

import ctypes
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

EXIT_NEEDS = 2
EXIT_TIME_IS_UP = 3


class Needs(Exception):
    """Its text completes the sentence "needs …"."""


def end_needing(error: Needs) -> NoReturn:
    print(f"needs {error}", flush=True)
    sys.exit(EXIT_NEEDS)


def run_part(part: Callable[[], int]) -> NoReturn:
    """End the process as the runner reads it. SIGTERM interrupts the part, which then stops what it has started."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code = part()
    except Needs as error:
        end_needing(error)
    except ModuleNotFoundError as error:
        end_needing(Needs(f"the module {error.name}: bring it by bench/gpu/bundle"))
    sys.exit(code)


def require_gpu() -> None:
    """Raises: Needs. Asks for the driver first: torch takes its time to say that there is none."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        raise Needs("an NVIDIA GPU: there is no driver here (libcuda.so.1)") from None
    try:
        import torch  # noqa: PLC0415  (a part without a GPU must be able to say so)
    except ImportError as error:
        raise Needs(f"torch ({error})") from None
    if not torch.cuda.is_available():
        raise Needs("an NVIDIA GPU: torch.cuda.is_available() is False")
