"""Measures a stretch of time: the operator's use of the machine, its rounds, and the writes of everybody."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from semipd_bench.scale.api_requests import Requests, parse_cpu_s, parse_requests, writes_between
from semipd_bench.scale.operator_process import OperatorFigures, OperatorProcess
from semipd_bench.scale.processes import Usage
from semipd_bench.scale.result import Span

POLL_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reading:
    at_s: float
    usage: Usage
    requests: Requests
    api_server_cpu_s: float


@dataclass(slots=True)
class Rounds:
    """Collects each round's length once, from figures that are read more often than rounds end."""

    seconds: list[float] = field(default_factory=list)
    engines: list[int] = field(default_factory=list)
    _seen: int | None = None

    def note(self, figures: OperatorFigures) -> None:
        if self._seen is not None and figures.rounds > self._seen:
            self.seconds.append(figures.round_s)
            self.engines.append(figures.engines_reporting)
        self._seen = figures.rounds


class Meter:
    """Of one operator. `figures` is what it said last; polls go on while `measuring`."""

    def __init__(self, operator: OperatorProcess, read_metrics: Callable[[], str]) -> None:
        self.figures: OperatorFigures | None = None
        self.rounds = Rounds()
        self._operator = operator
        self._read_metrics = read_metrics
        self._start: _Reading
        self._writes = 0

    @contextlib.asynccontextmanager
    async def measuring(self) -> AsyncIterator[Meter]:
        """Raises: OperatorEnded."""
        self._start = await self._read()
        self.figures = await self._operator.figures()
        self._writes = self.figures.writes if self.figures else 0
        self.rounds = Rounds()
        polling = asyncio.create_task(self._poll())
        try:
            yield self
        finally:
            polling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await polling

    async def span(self) -> Span:
        """From the beginning of `measuring` until now."""
        now = await self._read()
        return Span(
            seconds=now.at_s - self._start.at_s,
            operator_cpu_s=now.usage.cpu_s - self._start.usage.cpu_s,
            api_server_cpu_s=now.api_server_cpu_s - self._start.api_server_cpu_s,
            rss_mb=now.usage.rss_mb,
            peak_rss_mb=now.usage.peak_rss_mb,
            writes=writes_between(self._start.requests, now.requests),
            operator_writes=(self.figures.writes if self.figures else 0) - self._writes,
            rounds_s=tuple(self.rounds.seconds),
        )

    async def _read(self) -> _Reading:
        text = await asyncio.to_thread(self._read_metrics)
        return _Reading(
            at_s=time.monotonic(),
            usage=self._operator.usage,
            requests=parse_requests(text),
            api_server_cpu_s=parse_cpu_s(text),
        )

    async def _poll(self) -> None:
        while True:
            figures = await self._operator.figures()
            if figures is not None:
                self.figures = figures
                self.rounds.note(figures)
            await asyncio.sleep(POLL_S)

    async def wait(self, is_so: Callable[[OperatorFigures], bool], timeout_s: float) -> bool:
        """Whether it came to be so in time."""
        deadline_s = time.monotonic() + timeout_s
        while self.figures is None or not is_so(self.figures):
            if time.monotonic() > deadline_s:
                return False
            await asyncio.sleep(POLL_S / 4)
        return True

    async def wait_rounds(self, count: int, timeout_s: float) -> bool:
        """Whether `count` rounds more have ended in time."""
        wanted = len(self.rounds.seconds) + count
        return await self.wait(lambda _: len(self.rounds.seconds) >= wanted, timeout_s)
