"""Turns of a lane with several ranks: the first rank takes them, and the others compute inside.

Only one process of a lane ever holds the device's lock, so lanes whose ranks wait for one another cannot wait for each other.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from semipd_engine.lane.arbiter import FreeTurns, Turns
from semipd_engine.lane.followers import Followers


class LedTurns:
    """The first rank's."""

    def __init__(self, turns: Turns | FreeTurns, followers: Followers) -> None:
        self._turns = turns
        self._followers = followers

    @property
    def compute_ns(self) -> int:
        return self._turns.compute_ns

    @contextmanager
    def step(self) -> Iterator[None]:
        with self._turns.step():
            yield

    @contextmanager
    def turn(self) -> Iterator[None]:
        with self._turns.turn():
            self._followers.open_turn()
            yield


class GatedTurns:
    """Another rank's: each is open once the first rank says so."""

    def __init__(self, gate_fd: int) -> None:
        self._gate_fd = gate_fd

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Raises: EOFError if the first rank is gone."""
        if not os.read(self._gate_fd, 1):
            raise EOFError
        yield
