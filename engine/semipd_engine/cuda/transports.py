"""Which way device memory reaches a lane: pure, from what was tried.

VMM first: its descriptors need no common PID namespace, weights can be mapped read-only, and the memory outlives its owner.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from semipd_engine.memory.manifest import Transport

PREFERENCE = (Transport.VMM, Transport.IPC)
MPS_ERRORS = "CUDA_ERROR_MPS_"  # the server starts, is in FAULT or has gone
MPS_WITHIN_S = 60.0  # the agent's daemon and its server are starting


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """What a process with a lane's isolation met. `is_mps_client` is None where it did not come so far."""

    transport: Transport
    error: str | None = None
    is_mps_client: bool | None = None


class Step(StrEnum):
    TRY = "Try"
    WAIT = "Wait"  # then try the same again
    USE = "Use"
    GIVE_UP = "GiveUp"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    step: Step
    transport: Transport
    reason: str


def decide(attempts: Sequence[Attempt], *, wants_mps: bool, waited_s: float) -> Decision:
    """`attempts`: one per transport, in the order of PREFERENCE. `waited_s`: since the first one began."""
    if not attempts:
        return Decision(step=Step.TRY, transport=PREFERENCE[0], reason="preferred")
    last = attempts[-1]
    if wants_mps and waited_s < MPS_WITHIN_S and (missing := _missing_mps(last)):
        return Decision(step=Step.WAIT, transport=last.transport, reason=missing)
    if last.error is None:
        return Decision(step=Step.USE, transport=last.transport, reason=_why(attempts, wants_mps=wants_mps))
    if left := PREFERENCE[len(attempts) :]:
        return Decision(step=Step.TRY, transport=left[0], reason=_failures(attempts))
    return Decision(step=Step.GIVE_UP, transport=last.transport, reason=_failures(attempts))


def _missing_mps(attempt: Attempt) -> str | None:
    """Why the attempt says nothing of a lane under MPS: CUDA runs without it, and says nothing, where no daemon listens."""
    if attempt.error is not None and MPS_ERRORS in attempt.error:
        return attempt.error
    return "the probe ran without MPS" if attempt.is_mps_client is False else None


def _why(attempts: Sequence[Attempt], *, wants_mps: bool) -> str:
    last = attempts[-1]
    where = (" as an MPS client" if last.is_mps_client else " without MPS") if wants_mps else ""
    works = f"{last.transport} works between two processes{where}"
    return "; ".join([*filter(None, [_failures(attempts[:-1])]), works])


def _failures(attempts: Sequence[Attempt]) -> str:
    return "; ".join(f"{attempt.transport}: {attempt.error}" for attempt in attempts)
