"""Streams of lines, each in order, as one in order of time. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from itertools import count

from semipd_kubectl.logs.lines import EPOCH_NS, LogLine


def merge(streams: Iterable[Iterable[LogLine]]) -> Iterator[LogLine]:
    """Reads each stream no further than it must. A line without a time stays behind the one before it."""
    return heapq.merge(*(_timed(stream) for stream in streams), key=lambda line: line.time_ns)


def _timed(stream: Iterable[LogLine]) -> Iterator[LogLine]:
    """A stream's times never go back: where clocks were set, its own order counts."""
    latest_ns = EPOCH_NS
    for line in stream:
        latest_ns = max(latest_ns, line.time_ns)
        yield line if line.time_ns == latest_ns else _at(line, latest_ns)


def _at(line: LogLine, time_ns: int) -> LogLine:
    return LogLine(time_ns=time_ns, time=line.time, pod=line.pod, container=line.container, text=line.text)


class Reorder:
    """Lines as they arrive, held for `hold_s` so that a slower stream's older line still comes first."""

    def __init__(self, hold_s: float) -> None:
        self._hold_s = hold_s
        self._held: list[tuple[int, int, float, LogLine]] = []
        self._numbers = count()

    def push(self, line: LogLine, now_s: float) -> None:
        """`now_s`: any clock, the same one in `pop`."""
        heapq.heappush(self._held, (line.time_ns, next(self._numbers), now_s, line))

    def pop(self, now_s: float) -> Iterator[LogLine]:
        """Those whose time has come: the oldest first, each no earlier than `hold_s` after it arrived."""
        while self._held and now_s >= self._held[0][2] + self._hold_s:
            yield heapq.heappop(self._held)[3]

    @property
    def due_s(self) -> float | None:
        """When the next line may leave; None while nothing is held."""
        return self._held[0][2] + self._hold_s if self._held else None
