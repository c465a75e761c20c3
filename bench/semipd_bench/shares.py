"""Do caps share the device as they say, and at what price? Prefill saturated beside decode at batch 8, cap by cap.

Compared with each phase alone and with `Unified` at its best token budget, rounds interleaved so that a slow minute of the
machine touches all of them.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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
class SharesRound:
    """One pass over all caps and budgets: what is compared was measured within minutes."""

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

    def relative_tpot(self, cap: int) -> float:
        """Decode TPOT over that at the largest cap."""
        return (self.by_cap[cap].tpot_ms or 0.0) / max(self.by_cap[CAPS[-1]].tpot_ms or 0.0, 1e-9)


@dataclass(frozen=True, slots=True, kw_only=True)
class SharesResult:
    """Ratios are taken within a round, and their median over the rounds: a machine that gets slower moves neither."""

    rounds: tuple[SharesRound, ...]

    def median(self, value: Callable[[SharesRound], float]) -> float:
        return statistics.median(map(value, self.rounds))

    def at_cap(self, cap: int) -> Rates:
        return median_rates([each.by_cap[cap] for each in self.rounds])

    def at_budget(self, budget_tokens: int) -> Rates:
        return median_rates([each.by_budget[budget_tokens] for each in self.rounds])

    def sum_at_cap(self, cap: int) -> float:
        return self.median(lambda each: each.relative_sum(each.by_cap[cap]))

    def sum_at_budget(self, budget_tokens: int) -> float:
        return self.median(lambda each: each.relative_sum(each.by_budget[budget_tokens]))

    @property
    def best_unified(self) -> float:
        return max(map(self.sum_at_budget, BUDGETS_TOKENS))


def judge_shares(result: SharesResult) -> list[Condition]:
    """The benchmark's conditions. Decode is capped at 100 throughout, so that no lane idles below its cap."""
    tpots = [result.median(lambda each, cap=cap: each.relative_tpot(cap)) for cap in CAPS]  # type: ignore[misc]
    prefills = [
        result.median(
            lambda each, cap=cap: each.by_cap[cap].prefill_tokens_per_s / each.lone_prefill_tokens_per_s  # type: ignore[misc]
        )
        for cap in CAPS
    ]
    sums = {cap: result.sum_at_cap(cap) for cap in CAPS}
    worst = min(sums, key=lambda cap: sums[cap])
    return [
        Condition(
            name=f"decode TPOT at prefill cap 20 is at most {PROTECTION_MAX} of that at cap 100",
            holds=tpots[0] <= PROTECTION_MAX,
            found=f"{tpots[0]:.2f}; {result.at_cap(CAPS[0]).tpot_ms or 0:.1f} of {result.at_cap(CAPS[-1]).tpot_ms or 0:.1f} ms",
        ),
        _monotone("decode TPOT rises with the prefill cap", tpots),
        _monotone("prefill rate rises with the prefill cap", prefills),
        Condition(
            name=f"rates over lone rates sum to at least {SUM_MIN} of Unified's at every cap",
            holds=sums[worst] >= SUM_MIN * result.best_unified,
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
        rounds = []
        for turn in range(self.rounds):
            lanes = await self._measure_caps(turn)
            by_budget = {budget: await self._measure_unified(turn, budget) for budget in BUDGETS_TOKENS}
            rounds.append(replace(lanes, by_budget=by_budget))
        return SharesResult(rounds=tuple(rounds))

    async def _measure_caps(self, turn: int) -> SharesRound:
        """Without Unified. Every other round goes through the caps from the top."""
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
            prefill = await self._window(service, Demand(rows=0, prompts=PROMPTS), f"{turn} lone prefill")
            decode = await self._window(service, Demand(rows=ROWS, prompts=0), f"{turn} lone decode")
            by_cap = {}
            for cap in CAPS if turn % 2 == 0 else reversed(CAPS):
                split = Partition(prefill_percent=cap, decode_percent=100)
                await service.set_split(split, reason="Bench", message="the next cap", pinned=True)
                by_cap[cap] = await self._window(
                    service,
                    Demand(rows=ROWS, prompts=PROMPTS),
                    f"{turn} prefill cap {cap}",
                    window_s=self.window_s * max(1.0, SLOW_CAP_PERCENT / cap),
                )
        return SharesRound(
            lone_prefill_tokens_per_s=prefill.prefill_tokens_per_s,
            lone_decode_tokens_per_s=decode.decode_tokens_per_s,
            by_cap=by_cap,
            by_budget={},
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
