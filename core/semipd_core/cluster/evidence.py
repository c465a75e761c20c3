"""What the requests of pods on trial show beside those of the others, and whether it is harm or chance."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from semipd_core.cluster.canary import Fleet, Member
from semipd_core.cluster.state import ClusterConfig
from semipd_core.cluster.verdicts import Verdicts, chance_of_as_bad
from semipd_core.policies.decision import MIN_REQUESTS, MISS_CHANCE_MAX
from semipd_core.slo.pooled import PooledWindow, WindowState, classify, pool_reports
from semipd_core.telemetry import SLOT_SECONDS, SLOTS_KEPT, EngineReport

FAILS_BELOW = 0.02  # chance of being so much worse without a cause, at a look; a stage has a few looks
PASSES_ABOVE = 0.2  # between the two more evidence is waited for
LEAST_HARM = 0.02  # of the requests: what many requests prove may still be too little to matter
LONGEST_WINDOW_S = float((SLOTS_KEPT - 2) * SLOT_SECONDS)  # what agents still remember

Fresh = Mapping[str, EngineReport]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    window: PooledWindow  # of the canaries
    others: Verdicts
    before: Verdicts
    seconds: float  # since the canaries' requests are all about what is on trial
    who: str

    @property
    def canaries(self) -> Verdicts:
        return Verdicts.of(self.window)

    @property
    def rivals(self) -> Verdicts:
        return self.others if self.others.judged >= MIN_REQUESTS else self.before

    @property
    def words(self) -> str:
        name = "the others" if self.rivals is self.others else "before"
        return f"{self.who}: {self.canaries} requests attained, {name} {self.rivals}"

    def chance(self, config: ClusterConfig) -> float:
        """That canaries which are no worse show so many misses; 1 where they keep the SLO, or miss it hardly more often.

        Without anything to compare with nothing is worse: somebody asked for the change by what they saw.
        """
        is_bad = (
            classify(self.window, config.slo) is WindowState.BAD
            and self.window.chance_of_misses(config.slo) <= MISS_CHANCE_MAX
        )
        is_harm = self.canaries.miss_rate >= self.rivals.miss_rate + LEAST_HARM
        return chance_of_as_bad(self.canaries, self.rivals) if is_bad and is_harm else 1.0

    def is_enough(self, config: ClusterConfig) -> bool:
        return self.canaries.judged >= config.canary_requests and self.seconds >= config.canary_window_s


def look(
    fleet: Fleet,
    fresh: Fresh,
    config: ClusterConfig,
    *,
    is_canary: Callable[[Member], bool],
    is_other: Callable[[Member], bool],
    begun_s: float,
    before: Verdicts,
    who: str,
    now_s: float,
) -> Evidence:
    """Of the requests since `begun_s` (unix time) and the time that their carry-over takes."""
    begun_s += config.carry_over_s
    since_s = min(now_s, max(begun_s, now_s - LONGEST_WINDOW_S))
    window, others = (
        pool_reports(
            [fresh[engine] for pod in fleet if counts(pod) for engine in pod.engines if engine in fresh],
            since_s=since_s,
            now_s=now_s,
            stale_after_s=config.stale_after_s,
        )
        for counts in (is_canary, is_other)
    )
    return Evidence(
        window=window, others=Verdicts.of(others), before=before, seconds=now_s - begun_s, who=who
    )


def fit_pods(fleet: Fleet, fresh: Fresh) -> list[str]:
    """Pods that may try something, by name: ready, and all their engines report."""
    return sorted(
        pod.name
        for pod in fleet
        if pod.is_ready and pod.engines and all(engine in fresh for engine in pod.engines)
    )
