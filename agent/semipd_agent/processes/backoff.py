"""When may a process that died start again? At once the first time, then slower and slower."""

from __future__ import annotations

from dataclasses import dataclass

FIRST_DELAY_S = 0.25
MAX_DELAY_S = 10.0
FORGIVEN_AFTER_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Deaths in a row, each within FORGIVEN_AFTER_S of its start. Times are monotonic seconds."""

    failures: int = 0
    started_s: float = 0.0
    not_before_s: float = 0.0

    def started(self, now_s: float) -> Backoff:
        return Backoff(failures=self.failures, started_s=now_s, not_before_s=now_s)

    def died(self, now_s: float) -> Backoff:
        failures = 1 if now_s - self.started_s >= FORGIVEN_AFTER_S else self.failures + 1
        delay_s = 0.0 if failures == 1 else min(FIRST_DELAY_S * 2.0 ** (failures - 2), MAX_DELAY_S)
        return Backoff(failures=failures, started_s=self.started_s, not_before_s=now_s + delay_s)

    def is_due(self, now_s: float) -> bool:
        return now_s >= self.not_before_s
