"""Whose turn is it? The pure part of the CPU arbiter: caps kept by taking turns.

A lane computes one layer (or the head) per turn on all its cores. Each turn of t ns under a cap of c percent
 - is paid for until its start + t * 100 / c: before that the lane stays idle, whatever the other does (a cap is a cap);
 - moves the lane's virtual time by t * 100 / c: of two lanes that both want the device, the one behind goes first, so that
   caps whose sum is above 100 share the time in their proportion (start-time fair queueing, Goyal et al., SIGCOMM 1996).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

BURST_NS = 200_000_000  # a lane kept waiting by the other one may catch up by this much, so that it uses the pauses between steps
IDLE_AFTER_NS = 10_000_000  # a pause between two steps that is longer than this counts as idling
IDLE_CREDIT_NS = (
    5_000_000  # virtual time by which a lane that comes back from idling may be ahead of the other
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnAccount:
    """One lane's account; all values in ns."""

    virtual_ns: int = 0
    paid_until_ns: int = 0  # monotonic: the cap lets the next turn start from here
    finished_ns: int = 0  # monotonic: end of the last turn

    def charged(self, started_ns: int, finished_ns: int, cap_percent: int) -> TurnAccount:
        """The account after a turn."""
        cost_ns = (finished_ns - started_ns) * 100 // cap_percent
        from_ns = max(self.paid_until_ns, started_ns - (BURST_NS if cap_percent < 100 else 0))
        return TurnAccount(
            virtual_ns=self.virtual_ns + cost_ns,
            paid_until_ns=from_ns + cost_ns,
            finished_ns=finished_ns,
        )

    def joined(self, other: TurnAccount, now_ns: int) -> TurnAccount:
        """The account of a lane that begins a step: time spent idle earns no priority."""
        if now_ns - max(self.finished_ns, self.paid_until_ns) <= IDLE_AFTER_NS:
            return self
        return replace(self, virtual_ns=max(self.virtual_ns, other.virtual_ns - IDLE_CREDIT_NS))

    def wait_ns(self, now_ns: int) -> int:
        """How long the cap keeps the lane from its next turn."""
        return max(0, self.paid_until_ns - now_ns)

    def gives_way_to(self, other: TurnAccount) -> bool:
        """Whether the other lane, which is waiting, goes first."""
        return other.virtual_ns < self.virtual_ns
