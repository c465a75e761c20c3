"""Keep the lanes of one engine busy and count what they do: closed loops for a while, rates from the lanes' own steps."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import httpx

from semipd_bench.load import Load, open_client
from semipd_bench.outcome import Outcome
from semipd_bench.service import Service
from semipd_bench.trace import TraceRequest
from semipd_core.errors import SemipdError
from semipd_core.partition import Role
from semipd_core.telemetry import EngineReport, StepSample

SETTLE_S = 1.5
WATCH_S = 0.5
REPORT_AGE_S = 1.5  # a report may be this old: what it says of rows is then of the window before
START_S = 60.0  # for the first tokens of all decoding rows
REFILL_TOKENS = 400  # of a decoding row, longer than any window


class LoadFailed(SemipdError):
    """A request of the measured load failed: the numbers would mean nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """`rows` sequences decoding all the time, `prompts` prompts waiting or computed all the time; 0 for none.

    One row is streamed and tells of all, which take part in the same steps: the clients of the others would compute on the
    device that is measured.
    """

    rows: int
    prompts: int
    row_prompt_tokens: int = 32
    prompt_tokens: int = 384


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Of one window. TPOT is the median gap between tokens; None without decoding rows."""

    prefill_tokens_per_s: float
    decode_tokens_per_s: float
    tpot_ms: float | None


async def measure_rates(service: Service, demand: Demand, window_s: float, seed: str) -> Rates:
    """Load the engine with `demand` and measure `window_s` seconds of it.

    Raises: LoadFailed.
    """
    async with open_client(service.target) as client:
        decoding = Load(service.target, seed=f"{seed}-rows", clock=time.monotonic)
        silent = Load(service.target, seed=f"{seed}-silent", clock=time.monotonic)
        prefilling = Load(service.target, seed=f"{seed}-prompts", clock=time.monotonic)
        loops = [
            asyncio.create_task(_loop(client, decoding if i == 0 else silent, _row(demand), i, stream=i == 0))
            for i in range(demand.rows)
        ]
        try:
            await _wait_for_steps(service, demand)
            prompt = TraceRequest(at_s=0.0, prompt_tokens=demand.prompt_tokens, output_tokens=1)
            loops += [
                asyncio.create_task(_loop(client, prefilling, prompt, 1000 * (i + 1)))
                for i in range(demand.prompts)
            ]
            await asyncio.sleep(SETTLE_S)
            start_s = decoding.now_s
            steps = await _watch_steps(service, window_s)
            end_s = decoding.now_s
        finally:
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)
    _refuse_failures(decoding, silent, prefilling)
    return rates_of(steps, decoding.outcomes, start_s, end_s, rows=demand.rows)


def _row(demand: Demand) -> TraceRequest:
    return TraceRequest(at_s=0.0, prompt_tokens=demand.row_prompt_tokens, output_tokens=REFILL_TOKENS)


async def _loop(
    client: httpx.AsyncClient, load: Load, request: TraceRequest, first_index: int, *, stream: bool = True
) -> None:
    """One client that asks again as soon as it has its answer; indexes differ, so prompts do."""
    index = first_index
    while True:
        outcome = await load.send(client, index, request, stream=stream)
        if outcome.error is not None:
            return
        index += 1


async def _wait_for_steps(service: Service, demand: Demand) -> None:
    """Until all rows decode together."""
    await asyncio.sleep(REPORT_AGE_S)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(START_S):
            while True:
                report = await _report(service)
                if report.coordinator is not None and report.coordinator.decoding >= demand.rows:
                    return
                await asyncio.sleep(0.1)
    raise LoadFailed(f"{demand.rows} rows did not all decode within {START_S:.0f} s")


async def _report(service: Service) -> EngineReport:
    reports = await service.agent.windows()
    if not reports or reports[0].coordinator is None:
        raise LoadFailed("the engine does not report its lanes")
    return reports[0]


def _refuse_failures(*loads: Load) -> None:
    errors = [o.error for load in loads for o in load.outcomes if not (o.is_complete or o.is_cancelled)]
    if errors:
        raise LoadFailed(f"{len(errors)} requests failed, the first with: {errors[0]}")


async def _watch_steps(service: Service, window_s: float) -> list[StepSample]:
    """Every step that ends within the next `window_s` seconds; reports hold the latest 64 per role."""
    start_ns = time.monotonic_ns()
    steps: dict[tuple[Role, int], StepSample] = {}
    while time.monotonic_ns() < start_ns + window_s * 1e9:
        await asyncio.sleep(WATCH_S)
        coordinator = (await _report(service)).coordinator
        for sample in coordinator.samples if coordinator else []:
            if sample.at_ns >= start_ns:
                steps[sample.role, sample.at_ns] = sample
    return list(steps.values())


def rates_of(
    steps: Sequence[StepSample], streamed: Sequence[Outcome], start_s: float, end_s: float, *, rows: int
) -> Rates:
    """A mixed step holds both kinds of tokens; those of the `rows` decoding are then known from the one that is streamed."""
    gaps = [
        (end - start) * 1e3
        for outcome in streamed
        for start, end in outcome.gaps()
        if start >= start_s and end <= end_s
    ]
    arrived = sum(start_s <= at_s <= end_s for o in streamed for at_s in o.token_s)
    mixed_per_s = token_rate([s for s in steps if s.role is Role.MIXED])
    decode_per_s = token_rate([s for s in steps if s.role is Role.DECODE])
    if mixed_per_s:
        decode_per_s = rows * arrived / (end_s - start_s)
    prefill_per_s = token_rate([s for s in steps if s.role is Role.PREFILL])
    return Rates(
        prefill_tokens_per_s=prefill_per_s + max(mixed_per_s - decode_per_s, 0.0) * bool(mixed_per_s),
        decode_tokens_per_s=decode_per_s,
        tpot_ms=statistics.median(gaps) if gaps else None,
    )


def token_rate(steps: Sequence[StepSample]) -> float:
    """Tokens per second from the end of the first step to that of the last: whole steps, so no rounding to them."""
    ordered = sorted(steps, key=lambda step: step.at_ns)
    if len(ordered) < 2:
        return 0.0
    return sum(s.tokens for s in ordered[1:]) / (ordered[-1].at_ns - ordered[0].at_ns) * 1e9
