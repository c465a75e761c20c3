"""Do caps share the device as they say, and at what price? Prefill saturated beside decode at batch 8, cap by cap.

Compared with each phase alone and with `Unified` at its best token budget, rounds interleaved so that a slow minute of the
machine touches all of them.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from semipd_bench.generated_service import write_service_file
from semipd_bench.saturation import Demand, Rates, measure_rates
from semipd_bench.service import Service, run_service
from semipd_bench.verdict import Condition
from semipd_core.partition import Isolation, Partition

CAPS = (20, 40, 60, 80, 100)
BUDGETS_TOKENS = (32, 64, 128, 256)
ROWS = 8
SLOW_CAP_PERCENT = 50  # below it windows are longer, for as many steps
PROMPTS = 4
PREFILL_BUDGET_TOKENS = (
    256  # of a chunk: as long as Unified's longest step, and no decode step waits for more than a layer of it
)
PROTECTION_MAX = 0.7  # decode TPOT at cap 20 over that at cap 100
INVERSION_MAX = 0.05
SUM_MIN = 0.9  # of what Unified reaches


@dataclass(frozen=True, slots=True, kw_only=True)
class SharesResult:
    """Medians over the rounds."""

    lone_prefill_tokens_per_s: float
    lone_decode_tokens_per_s: float
    by_cap: dict[int, Rates]
    by_budget: dict[int, Rates]  # Unified

    def relative_sum(self, rates: Rates) -> float:
        """Rate over lone rate, summed over both phases: 1 is what taking turns without loss gives."""
        return (
            rates.prefill_tokens_per_s / self.lone_prefill_tokens_per_s
            + rates.decode_tokens_per_s / self.lone_decode_tokens_per_s
        )

    @property
    def best_unified(self) -> float:
        return max(self.relative_sum(rates) for rates in self.by_budget.values())


def judge_shares(result: SharesResult) -> list[Condition]:
    """The benchmark's conditions. Decode is capped at 100 throughout, so that no lane idles below its cap."""
    tpots = [result.by_cap[cap].tpot_ms or 0.0 for cap in CAPS]
    prefills = [result.by_cap[cap].prefill_tokens_per_s for cap in CAPS]
    sums = {cap: result.relative_sum(result.by_cap[cap]) for cap in CAPS}
    floor = SUM_MIN * result.best_unified
    worst = min(sums, key=lambda cap: sums[cap])
    return [
        Condition(
            name=f"decode TPOT at prefill cap 20 is at most {PROTECTION_MAX} of that at cap 100",
            holds=tpots[0] <= PROTECTION_MAX * tpots[-1],
            found=f"{tpots[0]:.1f} ms of {tpots[-1]:.1f} ms: {tpots[0] / max(tpots[-1], 1e-9):.2f}",
        ),
        _monotone("decode TPOT rises with the prefill cap", tpots),
        _monotone("prefill rate rises with the prefill cap", prefills),
        Condition(
            name=f"rates over lone rates sum to at least {SUM_MIN} of Unified's at every cap",
            holds=sums[worst] >= floor,
            found=f"least {sums[worst]:.2f} at cap {worst}; Unified {result.best_unified:.2f}",
        ),
    ]


def _monotone(name: str, values: Sequence[float]) -> Condition:
    """Adjacent inversions up to INVERSION_MAX are noise."""
    drops = [1 - later / earlier for earlier, later in itertools.pairwise(values) if earlier > 0]
    worst = max([*drops, 0.0])
    return Condition(name=name, holds=worst <= INVERSION_MAX, found=f"largest inversion {100 * worst:.1f} %")


@dataclass(frozen=True, slots=True, kw_only=True)
class SharesRun:
    """How to measure."""

    model_uri: str
    directory: Path  # for service files, run directories and logs
    window_s: float
    rounds: int
    say: Callable[[str], None]

    async def measure(self) -> SharesResult:
        lone_prefill: list[Rates] = []
        lone_decode: list[Rates] = []
        by_cap: dict[int, list[Rates]] = {cap: [] for cap in CAPS}
        by_budget: dict[int, list[Rates]] = {budget: [] for budget in BUDGETS_TOKENS}
        for turn in range(self.rounds):
            await self._measure_caps(turn, lone_prefill, lone_decode, by_cap)
            for budget in BUDGETS_TOKENS:
                by_budget[budget].append(await self._measure_unified(turn, budget))
        return SharesResult(
            lone_prefill_tokens_per_s=statistics.median(r.prefill_tokens_per_s for r in lone_prefill),
            lone_decode_tokens_per_s=statistics.median(r.decode_tokens_per_s for r in lone_decode),
            by_cap={cap: median_rates(rates) for cap, rates in by_cap.items()},
            by_budget={budget: median_rates(rates) for budget, rates in by_budget.items()},
        )

    async def _measure_caps(
        self, turn: int, lone_prefill: list[Rates], lone_decode: list[Rates], by_cap: dict[int, list[Rates]]
    ) -> None:
        file = write_service_file(
            self.directory / "lanes.yaml",
            model_uri=self.model_uri,
            isolation=Isolation.MPS,
            initial=Partition(prefill_percent=100, decode_percent=100),
        )
        async with run_service(
            file,
            self.directory / "run",
            say=_nothing,
            log=self.directory / "lanes.log",
            environment={"SEMIPD_PREFILL_BUDGET_TOKENS": str(PREFILL_BUDGET_TOKENS)},
        ) as service:
            lone_prefill.append(
                await self._window(service, Demand(rows=0, prompts=PROMPTS), f"{turn} lone prefill")
            )
            lone_decode.append(
                await self._window(service, Demand(rows=ROWS, prompts=0), f"{turn} lone decode")
            )
            for cap in CAPS if turn % 2 == 0 else reversed(CAPS):
                split = Partition(prefill_percent=cap, decode_percent=100)
                await service.set_split(split, reason="Bench", message="the next cap", pinned=True)
                by_cap[cap].append(
                    await self._window(
                        service,
                        Demand(rows=ROWS, prompts=PROMPTS),
                        f"{turn} prefill cap {cap}",
                        window_s=self.window_s * max(1.0, SLOW_CAP_PERCENT / cap),
                    )
                )

    async def _measure_unified(self, turn: int, budget_tokens: int) -> Rates:
        file = write_service_file(
            self.directory / "unified.yaml", model_uri=self.model_uri, isolation=Isolation.UNIFIED
        )
        async with run_service(
            file,
            self.directory / "run",
            say=_nothing,
            log=self.directory / "unified.log",
            environment={"SEMIPD_MIXED_BUDGET_TOKENS": str(budget_tokens)},
        ) as service:
            demand = Demand(rows=ROWS, prompts=PROMPTS)
            return await self._window(service, demand, f"{turn} Unified, {budget_tokens} tokens a step")

    async def _window(
        self, service: Service, demand: Demand, what: str, *, window_s: float | None = None
    ) -> Rates:
        rates = await measure_rates(service, demand, window_s or self.window_s, what)
        tpot = "" if rates.tpot_ms is None else f", TPOT {rates.tpot_ms:.1f} ms"
        self.say(
            f"round {what}: prefill {rates.prefill_tokens_per_s:.0f} tok/s, "
            f"decode {rates.decode_tokens_per_s:.1f} tok/s{tpot}"
        )
        return rates


def median_rates(rates: Sequence[Rates]) -> Rates:
    """Each number's own median."""
    tpots = [r.tpot_ms for r in rates if r.tpot_ms is not None]
    return Rates(
        prefill_tokens_per_s=statistics.median(r.prefill_tokens_per_s for r in rates),
        decode_tokens_per_s=statistics.median(r.decode_tokens_per_s for r in rates),
        tpot_ms=statistics.median(tpots) if tpots else None,
    )


def _nothing(line: str) -> None:
    """What a service prints while it starts is in its log."""
