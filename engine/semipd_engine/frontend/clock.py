"""The two clocks of a front end, passed in so that tests can turn them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    monotonic_s: Callable[[], float] = time.monotonic  # durations; shared by all processes of a machine
    unix_s: Callable[[], float] = time.time  # windows and `created`
