"""Measure a live service through HTTP in a few seconds: what the lanes model needs to know of this machine.

Both caps must be 100 and nothing else may run meanwhile. All engines are loaded at once (a least-loaded proxy spreads equal
requests evenly), because engines on one machine slow each other down.
"""

from __future__ import annotations

import asyncio
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import httpx

from semipd_bench.lanes_model import MachineModel
from semipd_bench.load import Load, Target, open_client
from semipd_bench.outcome import Outcome
from semipd_bench.trace import TraceRequest
from semipd_core.errors import SemipdError

BUDGET_S = 10.0  # the rest of 20 s is for planning and for setting the split


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One burst of equal requests: `rows` per engine. One output token probes prefill, more probe decode."""

    rows: int
    prompt_tokens: int
    output_tokens: int
    is_needed: bool = False  # taken even when the time is up

    @property
    def is_prefill(self) -> bool:
        return self.output_tokens == 1

    @property
    def effort(self) -> float:
        """Grows with the time it takes: prompt tokens, and steps weighted as about 30 of them."""
        steps = 0 if self.is_prefill else self.output_tokens * (1 + self.rows / 16)
        return self.rows * self.prompt_tokens + 30 * steps


# What matters most comes first; a later probe is left out when it would not fit into the time.
PROBES = (
    Probe(rows=1, prompt_tokens=16, output_tokens=1, is_needed=True),
    Probe(rows=1, prompt_tokens=128, output_tokens=1, is_needed=True),
    Probe(rows=1, prompt_tokens=16, output_tokens=10, is_needed=True),
    Probe(rows=6, prompt_tokens=16, output_tokens=14, is_needed=True),
    Probe(rows=1, prompt_tokens=320, output_tokens=1),
    Probe(rows=12, prompt_tokens=16, output_tokens=18),
    Probe(rows=1, prompt_tokens=128, output_tokens=1),
    Probe(rows=1, prompt_tokens=16, output_tokens=10),
    Probe(rows=6, prompt_tokens=16, output_tokens=14),
    Probe(rows=1, prompt_tokens=16, output_tokens=1),
    Probe(rows=1, prompt_tokens=320, output_tokens=1),
)


class MeasurementFailed(SemipdError):
    """The service did not answer as a measurement needs it to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """y = base + slope * x, both at least 0."""

    base: float
    slope: float


def fit_line(points: Sequence[tuple[float, float]]) -> Line:
    """Least squares; a negative slope or base becomes 0 and the other is fitted alone.

    Raises: ValueError without points.
    """
    if not points:
        raise ValueError("a line through no points")
    mean_x = statistics.fmean(x for x, _ in points)
    mean_y = statistics.fmean(y for _, y in points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0
    base = mean_y - slope * mean_x
    if slope < 0:
        return Line(base=mean_y, slope=0.0)
    if base < 0:
        return Line(base=0.0, slope=sum(x * y for x, y in points) / sum(x * x for x, _ in points))
    return Line(base=base, slope=slope)


def build_model(
    prefill: Sequence[tuple[int, float]],
    decode: Sequence[tuple[int, float]],
    *,
    engines: int,
    chunk_tokens: int,
    max_rows: int,
) -> MachineModel:
    """From (prompt tokens, TTFT ms) and (rows, step ms). A prompt of more than a chunk pays the base once per chunk."""
    line = fit_line([(tokens, ms) for tokens, ms in prefill])
    # TTFT of a short prompt is HTTP plus one chunk; a chunk's fixed part is taken to be half of the intercept.
    steps = fit_line([(rows, ms) for rows, ms in decode])
    base_ms = line.base / 2
    per_token_ms = max(line.slope - base_ms / chunk_tokens, line.slope / 2)
    return MachineModel(
        engines=engines,
        prefill_base_ms=base_ms,
        prefill_ms_per_token=per_token_ms,
        decode_base_ms=steps.base,
        decode_ms_per_row=steps.slope,
        overhead_ms=line.base / 2,
        chunk_tokens=chunk_tokens,
        max_rows=max_rows,
    )


def common_gap_ms(outcomes: Sequence[Outcome]) -> float | None:
    """The median gap between tokens while all of `outcomes` were decoding; None if they never were."""
    if not all(o.token_s for o in outcomes):
        return None
    start_s = max(o.token_s[0] for o in outcomes)
    end_s = min(o.token_s[-1] for o in outcomes)
    gaps = [(b - a) * 1e3 for o in outcomes for a, b in o.gaps() if start_s <= a and b <= end_s]
    return statistics.median(gaps) if gaps else None


async def measure_machine(
    target: Target,
    *,
    engines: int,
    chunk_tokens: int,
    max_rows: int,
    say: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
) -> MachineModel:
    """Prefill at a few lengths, decode at a few batch sizes; larger ones are left out when the time is up.

    Raises: MeasurementFailed if a request fails.
    """
    deadline_s = clock() + BUDGET_S
    prefill: dict[int, float] = {}
    decode: dict[int, float] = {}
    seconds_per_effort = 0.0
    async with open_client(target) as client:
        await _burst(client, target, engines, Probe(rows=1, prompt_tokens=16, output_tokens=4), clock)
        for probe in (p for p in PROBES if p.rows <= max_rows):
            began_s = clock()
            if not probe.is_needed and began_s + probe.effort * seconds_per_effort > deadline_s:
                continue
            outcomes = await _burst(client, target, engines, probe, clock)
            seconds_per_effort = max(seconds_per_effort, (clock() - began_s) / probe.effort)
            if probe.is_prefill:
                # The slowest of the engines that share the machine counts; of two bursts, the quieter.
                slowest_ms = max(o.ttft_ms or 0.0 for o in outcomes)
                prefill[probe.prompt_tokens] = min(prefill.get(probe.prompt_tokens, math.inf), slowest_ms)
            elif (step_ms := common_gap_ms(outcomes)) is not None:
                decode[probe.rows] = min(decode.get(probe.rows, math.inf), step_ms)
    if not decode:
        raise MeasurementFailed(
            "calibration: no decode step was measured; does the service stream token by token?"
        )
    say(describe(prefill, decode, engines))
    return build_model(
        list(prefill.items()),
        list(decode.items()),
        engines=engines,
        chunk_tokens=chunk_tokens,
        max_rows=max_rows,
    )


def describe(prefill: Mapping[int, float], decode: Mapping[int, float], engines: int) -> str:
    first = ", ".join(f"{tokens} tokens {ms:.0f} ms" for tokens, ms in sorted(prefill.items()))
    steps = ", ".join(f"{rows} rows {ms:.0f} ms" for rows, ms in sorted(decode.items()))
    return f"measured with {engines} engines at work: TTFT {first}; decode step {steps}"


async def _burst(
    client: httpx.AsyncClient, target: Target, engines: int, probe: Probe, clock: Callable[[], float]
) -> list[Outcome]:
    request = TraceRequest(at_s=0.0, prompt_tokens=probe.prompt_tokens, output_tokens=probe.output_tokens)
    load = Load(target, seed=f"calibration-{clock()}", clock=clock)
    outcomes = await asyncio.gather(*(load.send(client, i, request) for i in range(engines * probe.rows)))
    failed = next((o.error for o in outcomes if o.error is not None), None)
    if failed is not None:
        raise MeasurementFailed(f"calibration: a request failed: {failed}")
    return list(outcomes)
