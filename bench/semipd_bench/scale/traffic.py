"""What an engine reports under steady traffic: slots and steps that vary around a mean, of the size of real ones. Pure."""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from semipd_core.latency.share_curve import TURNS
from semipd_core.partition import Role
from semipd_core.slo import histogram
from semipd_core.telemetry import (
    SLOT_SECONDS,
    SLOTS_KEPT,
    CoordinatorReport,
    EngineReport,
    FrontEndReport,
    LaneReport,
    SloTargets,
    StepSample,
    WindowSlot,
)

SLO = SloTargets(ttft_percentile=90, ttft_ms=400, tpot_percentile=90, tpot_ms=60)  # the API's defaults
SAMPLES_PER_ROLE = 64  # as a coordinator keeps
REQUESTS_PER_SLOT = 3.0
PROMPT_TOKENS, OUTPUT_TOKENS, CHUNK_TOKENS = 800, 120, 512
TTFT_MS, TTFT_SPREAD, TPOT_SPREAD = 180.0, 0.4, 0.12
LONE_BASE_US, LONE_ROW_US, LONE_CONTEXT_US = 22_000, 600, 0.5  # of a decode step
LONE_PREFILL_TOKEN_US = 150

_encoder = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """`contended_permille`: of a decode step's time with prefill busy too."""

    rows: int
    contended_permille: int


STEADY = Load(rows=16, contended_permille=300)  # TPOT 42 ms at (80, 100)
HEAVY = Load(rows=24, contended_permille=900)  # 73 ms there, and 51 ms at (20, 100)


def decode_step_us(load: Load, split: tuple[int, int]) -> tuple[float, float]:
    """Lone and wall time of a decode step at `split` (prefill, decode percent)."""
    context_tokens = load.rows * (PROMPT_TOKENS + OUTPUT_TOKENS // 2)
    lone_us = LONE_BASE_US + LONE_ROW_US * load.rows + LONE_CONTEXT_US * context_tokens
    return lone_us, lone_us / TURNS.speed(split[1], split[0], load.contended_permille / 1000)


class EngineTraffic:
    """One engine's windows. Slots are drawn when they are asked for, once each, and kept as the bytes they are sent as."""

    def __init__(self, engine_id: str, seed: int) -> None:
        self.split = (80, 100)  # granted: prefill, decode percent
        self.load = STEADY
        self._engine_id = engine_id
        self._random = random.Random(seed)
        self._slots: deque[msgspec.Raw] = deque(maxlen=SLOTS_KEPT)
        self._next_s: int | None = None

    def report(self, now_s: float) -> bytes:
        """The body of `GET /v1/windows` at `now_s` (unix time)."""
        self._catch_up(int(now_s) // SLOT_SECONDS * SLOT_SECONDS)
        slots: list[Any] = list(self._slots)
        report = EngineReport(
            engine_id=self._engine_id,
            at_s=now_s,
            phase="Steady",
            requested=self.split,
            granted=self.split,
            front_end=FrontEndReport(
                at_s=now_s, ready=True, slo=SLO, open_requests=self.load.rows, queued_requests=0, slots=slots
            ),
            coordinator=self._coordinator(now_s),
        )
        return _encoder.encode([report])

    def _catch_up(self, until_s: int) -> None:
        oldest_s = until_s - SLOTS_KEPT * SLOT_SECONDS
        for start_s in range(max(self._next_s or oldest_s, oldest_s), until_s, SLOT_SECONDS):
            slot = draw_slot(self._random, start_s, self.load, self.split)
            self._slots.append(msgspec.Raw(_encoder.encode(slot)))
        self._next_s = until_s

    def _coordinator(self, now_s: float) -> CoordinatorReport:
        return CoordinatorReport(
            waiting=0,
            prefilling=1,
            decoding=self.load.rows,
            kv_blocks_total=20_000,
            kv_blocks_used=self.load.rows * PROMPT_TOKENS // 16,
            kv_blocks_cached=2_000,
            block_tokens=16,
            waiting_tokens=CHUNK_TOKENS,
            oldest_wait_ms=20,
            preemptions=0,
            prefix_hit_tokens=0,
            lane_restarts=0,
            lanes=self._lanes(),
            samples=draw_samples(self._random, int(now_s * 1e9), self.load, self.split),
        )

    def _lanes(self) -> list[LaneReport]:
        return [
            LaneReport(
                lane_id=f"{role}-1",
                role=role,
                pid=20 + number,
                active=True,
                requested_percent=percent,
                granted_percent=percent,
                batch=self.load.rows if role is Role.DECODE else 1,
                steps=1_000_000,
                tokens=20_000_000,
                busy_us=10**10,
                compute_us=10**10,
            )
            for number, (role, percent) in enumerate(
                zip((Role.PREFILL, Role.DECODE), self.split, strict=True)
            )
        ]


def draw_slot(source: random.Random, start_s: int, load: Load, split: tuple[int, int]) -> WindowSlot:
    count = _poisson(source, REQUESTS_PER_SLOT)
    tpot_mean_ms = decode_step_us(load, split)[1] / 1000
    ttft_ms = [source.lognormvariate(math.log(TTFT_MS), TTFT_SPREAD) for _ in range(count)]
    tpot_ms = [source.lognormvariate(math.log(tpot_mean_ms), TPOT_SPREAD) for _ in range(count)]
    late_ttft, late_tpot = [ms > SLO.ttft_ms for ms in ttft_ms], [ms > SLO.tpot_ms for ms in tpot_ms]
    missed = sum(map(max, late_ttft, late_tpot))
    return WindowSlot(
        start_s=start_s,
        arrived=count,
        completed=count,
        attained=count - missed,
        missed=missed,
        missed_ttft=sum(late_ttft),
        missed_tpot=sum(late_tpot),
        prompt_tokens=count * PROMPT_TOKENS,
        output_tokens=count * OUTPUT_TOKENS,
        ttft_ms=_histogram(ttft_ms),
        tpot_ms=_histogram(tpot_ms),
    )


def draw_samples(
    source: random.Random, until_ns: int, load: Load, split: tuple[int, int]
) -> list[StepSample]:
    """The latest steps of both lanes, decode after prefill, each role's in order of time."""
    lone_us, wall_us = decode_step_us(load, split)
    prefill_us = LONE_PREFILL_TOKEN_US * CHUNK_TOKENS
    speed = TURNS.speed(split[0], split[1], 1.0)
    samples = []
    for role, lone, wall, rows, tokens, context in (
        (Role.PREFILL, prefill_us, prefill_us / speed, 1, CHUNK_TOKENS, PROMPT_TOKENS // 2),
        (Role.DECODE, lone_us, wall_us, load.rows, load.rows, load.rows * PROMPT_TOKENS),
    ):
        contended = 1000 if role is Role.PREFILL else load.contended_permille
        at_ns = until_ns - int(SAMPLES_PER_ROLE * wall * 1000)
        for _ in range(SAMPLES_PER_ROLE):
            noise = source.uniform(0.9, 1.1)
            at_ns += int(wall * 1000)
            samples.append(
                StepSample(
                    role=role,
                    at_ns=at_ns,
                    rows=rows,
                    tokens=tokens,
                    context_tokens=int(context * noise),
                    wall_us=int(wall * noise),
                    compute_us=int(lone * noise),
                    prefill_percent=split[0],
                    decode_percent=split[1],
                    contended_permille=contended,
                )
            )
    return samples


def _histogram(values_ms: Sequence[float]) -> dict[int, int]:
    counts: dict[int, int] = {}
    for value_ms in values_ms:
        histogram.add(counts, value_ms)
    return counts


def _poisson(source: random.Random, mean: float) -> int:
    """Knuth's way, for small means."""
    limit, product, count = math.exp(-mean), source.random(), 0
    while product > limit:
        product *= source.random()
        count += 1
    return count
