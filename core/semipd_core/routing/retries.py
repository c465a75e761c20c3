"""May a request that has produced no token yet be given to another pod? Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Refusal(StrEnum):
    """How an attempt ended without a token."""

    CONNECT = "connect"  # nobody listens: the request was not seen
    DRAINING = "draining"  # 503
    FULL = "full"  # 429
    CUT = "cut"  # the connection ended before the first byte of the answer
    GATEWAY = "gateway"  # 502, 504: of something in between
    SERVER_ERROR = "server_error"  # 500: this request may be what breaks engines


# Attempts of one request that may end so. Those that cost the pod nothing are bounded by the number of pods alone.
ALLOWED: Mapping[Refusal, int] = {Refusal.CUT: 2, Refusal.GATEWAY: 2, Refusal.SERVER_ERROR: 1}
MAX_ATTEMPTS = 8

_BY_STATUS = {
    429: Refusal.FULL,
    500: Refusal.SERVER_ERROR,
    502: Refusal.GATEWAY,
    503: Refusal.DRAINING,
    504: Refusal.GATEWAY,
}


def refusal_of(status: int) -> Refusal | None:
    """None: an answer."""
    return _BY_STATUS.get(status)


@dataclass(slots=True)
class RetryBudget:
    """Of one request."""

    refusals: Counter[Refusal] = field(default_factory=Counter)

    @property
    def attempts(self) -> int:
        return self.refusals.total()

    def note(self, refusal: Refusal) -> bool:
        """Whether another pod may be tried after this."""
        self.refusals[refusal] += 1
        allowed = ALLOWED.get(refusal, MAX_ATTEMPTS)
        return self.refusals[refusal] <= allowed and self.attempts < MAX_ATTEMPTS
