"""Tells whoever waits what is being built, and how long it took."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def timed(what: str) -> Iterator[None]:
    print(f"building {what}", file=sys.stderr, flush=True)
    started_s = time.monotonic()
    yield
    print(f"built in {time.monotonic() - started_s:.0f} s", file=sys.stderr, flush=True)
