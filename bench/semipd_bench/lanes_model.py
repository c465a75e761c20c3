"""What a trace would feel like under a split: a small discrete simulation of two lanes per engine.

Pure. How long steps take and how fast lanes are at their caps a `Machine` says: `MachineModel` knows this machine's CPU form of
sharing (a lane alone runs at its cap; two busy lanes whose caps sum to more than 100 share the time in proportion to their
caps, otherwise each runs at its cap), `profiled_machine` what `semipd profile` has measured. Prefill takes chunks, shortest
prompt first with aging; decode takes all rows, first come first served; a proxy gives each arrival to the engine with the
fewest open requests. It leaves out the KV cache's size and the prefix cache.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Protocol

from semipd_bench.trace import Trace
from semipd_core.partition import Partition


class Machine(Protocol):
    """Steps of one engine in lone ms, the speed of its lanes, and how many such engines there are."""

    @property
    def engines(self) -> int: ...
    @property
    def overhead_ms(self) -> float: ...
    @property
    def chunk_tokens(self) -> int: ...
    @property
    def max_rows(self) -> int: ...
    @property
    def aging_tokens_per_s(self) -> float: ...

    def prefill_ms(self, tokens: int, context_tokens: float) -> float:
        """`context_tokens`: KV entries read by a row, its own included, on average."""
        ...

    def decode_ms(self, rows: int, context_tokens: float) -> float:
        """`context_tokens`: KV entries read by all rows."""
        ...

    def speeds(
        self, partition: Partition, *, prefill_busy: bool, decode_busy: bool
    ) -> tuple[float, float]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineModel:
    """One engine's measured speed, each lane alone at cap 100, and how many such engines there are."""

    engines: int
    prefill_base_ms: float  # per chunk
    prefill_ms_per_token: float
    decode_base_ms: float  # per step
    decode_ms_per_row: float
    overhead_ms: float = 0.0  # of a request, outside the lanes
    chunk_tokens: int = 128
    max_rows: int = 32
    aging_tokens_per_s: float = 15.0

    def prefill_ms(self, tokens: int, context_tokens: float = 0.0) -> float:  # noqa: ARG002 - as `Machine`
        return self.prefill_base_ms + self.prefill_ms_per_token * tokens

    def slower(self, factor: float) -> MachineModel:
        """The same machine with every step `factor` times as long."""
        return replace(
            self,
            prefill_base_ms=self.prefill_base_ms * factor,
            prefill_ms_per_token=self.prefill_ms_per_token * factor,
            decode_base_ms=self.decode_base_ms * factor,
            decode_ms_per_row=self.decode_ms_per_row * factor,
        )

    def decode_ms(self, rows: int, context_tokens: float = 0.0) -> float:  # noqa: ARG002 - as `Machine`
        return self.decode_base_ms + self.decode_ms_per_row * rows

    def speeds(self, partition: Partition, *, prefill_busy: bool, decode_busy: bool) -> tuple[float, float]:
        return lane_speeds(partition, prefill_busy=prefill_busy, decode_busy=decode_busy)


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted:
    """One request of the trace, in order of arrival."""

    at_s: float
    ttft_ms: float
    tpot_ms: float | None  # None: one token


def lane_speeds(partition: Partition, *, prefill_busy: bool, decode_busy: bool) -> tuple[float, float]:
    """Speed of the prefill and the decode lane, as a part of the whole device; 0 for an idle lane."""
    prefill = partition.prefill_percent / 100 if prefill_busy else 0.0
    decode = partition.decode_percent / 100 if decode_busy else 0.0
    scale = 1.0 if prefill + decode <= 1.0 or not (prefill and decode) else 1.0 / (prefill + decode)
    return prefill * scale, decode * scale


def simulate(machine: Machine, partition: Partition, trace: Trace) -> list[Predicted]:
    """Run the whole trace to its last token."""
    engines = [_Engine(machine, partition) for _ in range(machine.engines)]
    requests = []
    for request in trace.requests:
        for engine in engines:
            engine.advance(request.at_s * 1e3)
        # Ties go to the engine with the least prompt left, as a proxy's rotation would about even out.
        engine = min(engines, key=lambda e: (e.open_requests, e.waiting_tokens))
        requests.append(engine.submit(request.at_s * 1e3, request.prompt_tokens, request.output_tokens))
    for engine in engines:
        engine.advance(math.inf)
    return [request.predicted(machine.overhead_ms) for request in requests]


@dataclass(slots=True, eq=False)
class _Request:
    arrived_ms: float
    prompt_left: int
    output_left: int
    wanted: int
    context_tokens: int = 0  # computed so far
    first_ms: float = math.nan
    last_ms: float = math.nan

    def predicted(self, overhead_ms: float) -> Predicted:
        spread = self.last_ms - self.first_ms
        return Predicted(
            at_s=self.arrived_ms / 1e3,
            ttft_ms=self.first_ms - self.arrived_ms + overhead_ms,
            tpot_ms=spread / (self.wanted - 1) if self.wanted > 1 else None,
        )


@dataclass(slots=True, eq=False)
class _Engine:
    """One engine in flight. `*_left_ms` is what the step in hand still needs at full speed; 0 when idle."""

    machine: Machine
    partition: Partition
    now_ms: float = 0.0
    waiting: list[_Request] = field(default_factory=list)
    decoding: list[_Request] = field(default_factory=list)
    chunk: list[tuple[_Request, int]] = field(default_factory=list)
    rows: list[_Request] = field(default_factory=list)
    prefill_left_ms: float = 0.0
    decode_left_ms: float = 0.0

    @property
    def open_requests(self) -> int:
        return len(self.waiting) + len(self.decoding)

    @property
    def waiting_tokens(self) -> int:
        return sum(r.prompt_left for r in self.waiting)

    def submit(self, at_ms: float, prompt_tokens: int, output_tokens: int) -> _Request:
        request = _Request(at_ms, prompt_tokens, output_tokens, output_tokens)
        self.waiting.append(request)
        return request

    def advance(self, until_ms: float) -> None:
        """Run both lanes up to `until_ms`, or until nothing is left to do."""
        while True:
            self._start_steps()
            prefill, decode = self.machine.speeds(
                self.partition, prefill_busy=bool(self.chunk), decode_busy=bool(self.rows)
            )
            step_ms = min(
                self.prefill_left_ms / prefill if prefill else math.inf,
                self.decode_left_ms / decode if decode else math.inf,
            )
            if self.now_ms + step_ms > until_ms or math.isinf(step_ms):
                self._elapse(until_ms - self.now_ms, prefill, decode)
                return
            self._elapse(step_ms, prefill, decode)
            self._finish_steps()

    def _elapse(self, elapsed_ms: float, prefill: float, decode: float) -> None:
        if math.isinf(elapsed_ms):
            return
        self.now_ms += elapsed_ms
        self.prefill_left_ms = max(self.prefill_left_ms - elapsed_ms * prefill, 0.0)
        self.decode_left_ms = max(self.decode_left_ms - elapsed_ms * decode, 0.0)

    def _start_steps(self) -> None:
        if not self.chunk and self.waiting:
            self.chunk = list(self._next_chunk())
            entries = sum(request.context_tokens + tokens for request, tokens in self.chunk)
            self.prefill_left_ms = self.machine.prefill_ms(
                sum(tokens for _, tokens in self.chunk), entries / len(self.chunk)
            )
        if not self.rows and self.decoding:
            self.rows = self.decoding[: self.machine.max_rows]
            self.decode_left_ms = self.machine.decode_ms(
                len(self.rows), sum(request.context_tokens for request in self.rows)
            )

    def _next_chunk(self) -> Iterator[tuple[_Request, int]]:
        budget = self.machine.chunk_tokens
        for request in sorted(self.waiting, key=self._prefill_order):
            tokens = min(budget, request.prompt_left)
            yield request, tokens
            budget -= tokens
            if not budget:
                return

    def _prefill_order(self, request: _Request) -> float:
        waited_s = (self.now_ms - request.arrived_ms) / 1e3
        return request.prompt_left - self.machine.aging_tokens_per_s * waited_s

    def _finish_steps(self) -> None:
        if self.chunk and self.prefill_left_ms <= 1e-9:
            self._finish_chunk()
        if self.rows and self.decode_left_ms <= 1e-9:
            for request in self.rows:
                self._emit(request)
            self.decoding = [r for r in self.decoding if r.output_left]
            self.rows = []

    def _finish_chunk(self) -> None:
        for request, tokens in self.chunk:
            request.prompt_left -= tokens
            request.context_tokens += tokens
            if not request.prompt_left:
                self._emit(request)
                if request.output_left:
                    self.decoding.append(request)
        self.waiting = [r for r in self.waiting if r.prompt_left]
        self.chunk = []

    def _emit(self, request: _Request) -> None:
        if math.isnan(request.first_ms):
            request.first_ms = self.now_ms
        request.last_ms = self.now_ms
        request.context_tokens += 1
        request.output_left -= 1
