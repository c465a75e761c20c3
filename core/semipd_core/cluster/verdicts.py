"""Are some engines' requests worse off than others', or is it chance? Counts of judged requests, and Fisher's exact test.

Source: R. A. Fisher, The Design of Experiments (1935), section II; one-sided: the tail of the hypergeometric distribution.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from semipd_core.slo.pooled import PooledWindow


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdicts:
    """Requests that were judged."""

    attained: int = 0
    missed: int = 0

    @classmethod
    def of(cls, window: PooledWindow) -> Verdicts:
        return cls(attained=window.attained, missed=window.missed)

    @property
    def judged(self) -> int:
        return self.attained + self.missed

    @property
    def miss_rate(self) -> float:
        """0 if nothing was judged."""
        return self.missed / self.judged if self.judged else 0.0

    def __str__(self) -> str:
        return f"{100 * self.attained / self.judged:.1f} % of {self.judged}" if self.judged else "none of 0"


NOTHING_JUDGED = Verdicts()


def chance_of_as_bad(some: Verdicts, others: Verdicts) -> float:
    """How likely `some` miss at least so often, in [0, 1], if both miss equally often. 1 if either judged nothing."""
    missed = some.missed + others.missed
    if not some.judged or not others.judged or not missed:
        return 1.0
    whole = _log_choose(some.judged + others.judged, missed)
    most = min(some.judged, missed)
    least = max(some.missed, missed - others.judged)
    tail = math.fsum(
        math.exp(_log_choose(some.judged, k) + _log_choose(others.judged, missed - k) - whole)
        for k in range(least, most + 1)
    )
    return min(1.0, tail)


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
