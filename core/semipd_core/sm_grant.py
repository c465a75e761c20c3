"""Did a lane get the SMs that it was capped to? Pure.

Source: MPS documentation, "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": the cap is rounded down to what the hardware can tell apart; a
lane reads its count as `cudaDevAttrMultiProcessorCount`. How far down differs by card: MAX_STEP_SMS only bounds it.
"""

from __future__ import annotations

from dataclasses import dataclass

MIN_SMS = 2  # one TPC
MAX_STEP_SMS = (
    8  # the coarsest step that is documented for any sharing of SMs (green contexts on 9.0 and later)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """`percent` is what the lane reports as granted: the requested one if the SMs fit it, else that of the SMs."""

    percent: int
    reason: str | None  # why it is not the requested one


def read_grant(requested_percent: int, granted_sms: int, device_sms: int) -> Grant:
    """`device_sms`: of the whole GPU. Raises: ValueError for counts that no GPU has."""
    if not 1 <= granted_sms <= device_sms:
        raise ValueError(f"granted_sms is {granted_sms}, allowed: 1..{device_sms}")
    actual = max(1, 100 * granted_sms // device_sms)
    capped_sms = max(requested_percent * device_sms / 100, MIN_SMS)
    if granted_sms > capped_sms and granted_sms == device_sms:
        return Grant(percent=100, reason="the whole GPU: the lane runs without MPS")
    if granted_sms > capped_sms:
        return Grant(percent=actual, reason=f"{granted_sms} of {device_sms} SMs are more than the cap")
    if granted_sms <= capped_sms - MAX_STEP_SMS:
        return Grant(
            percent=actual, reason=f"{granted_sms} of {device_sms} SMs are fewer than rounding explains"
        )
    return Grant(percent=requested_percent, reason=None)
