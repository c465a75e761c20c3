"""How loaded is a pod? From its engines' reports, and from the last answer of its agent. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from semipd_core.telemetry import EngineReport, PodLoad

STALE_AFTER_S = 5.0  # an older answer is no data


def pod_load(reports: Sequence[EngineReport], *, ready: bool, now_s: float) -> PodLoad:
    """`now_s`: unix time of the pod, whose clock the reports are by."""
    known = [each.front_end for each in reports if each.front_end is not None]
    caches = [each.coordinator for each in reports if each.coordinator is not None]
    total = sum(each.kv_blocks_total for each in caches)
    used = sum(each.kv_blocks_used for each in caches)
    return PodLoad(
        ready=ready,
        open_requests=sum(each.open_requests for each in known) if known else None,
        queued_requests=sum(each.queued_requests for each in known) if known else None,
        kv_used_permille=1000 * used // total if total else None,
        age_ms=round(1000 * max(0.0, now_s - min(each.at_s for each in known))) if known else None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSample:
    """What an agent said, and what of it was ours at that time. `at_s`: of the reader's clock, when it was true."""

    at_s: float
    ready: bool
    open_requests: int | None
    own_open: int

    def others_open(self, now_s: float) -> int | None:
        """Requests of other proxies and clients; None: not known, or not any more."""
        if self.open_requests is None or not self.is_fresh(now_s):
            return None
        return max(0, self.open_requests - self.own_open)

    def is_fresh(self, now_s: float) -> bool:
        return now_s - self.at_s <= STALE_AFTER_S


def read_sample(answer: PodLoad, own_open: int, now_s: float) -> LoadSample:
    age_s = (answer.age_ms or 0) / 1000
    return LoadSample(
        at_s=now_s - age_s, ready=answer.ready, open_requests=answer.open_requests, own_open=own_open
    )
