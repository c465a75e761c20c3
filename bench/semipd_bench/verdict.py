"""Does a replay show what it is meant to show? The conditions of the demo, each with what was found. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from semipd_bench.timeline import CHANGED_BY_HAND
from semipd_core.agent_config import SwitchStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One claim about a run."""

    name: str
    holds: bool
    found: str


def judge_replay(
    *,
    failed: int,
    unsent: int,
    switches: Sequence[SwitchStatus],
    joint_unix_s: float,
    quarters_permille: Sequence[int | None],
) -> list[Condition]:
    """Nothing failed; the shift made the policy switch, with a reason; the last quarter is no worse than the one
    after the shift.
    """
    after = [s for s in switches if is_answer_to_shift(s, joint_unix_s)]
    third, fourth = quarters_permille[2], quarters_permille[3]
    return [
        Condition(
            name="no request failed",
            holds=failed == 0 and unsent == 0,
            found=f"{failed} failed, {unsent} not sent",
        ),
        Condition(
            name="the shift made the policy switch, with a reason",
            holds=bool(after),
            found=_describe_switch(after[0], joint_unix_s) if after else "no switch after the joint",
        ),
        Condition(
            name="attainment in the last quarter is at least that of the quarter after the shift",
            holds=third is not None and fourth is not None and fourth >= third,
            found=f"{fourth} ‰ after {third} ‰",
        ),
    ]


def is_answer_to_shift(switch: SwitchStatus, joint_unix_s: float) -> bool:
    """Whether a policy decided it after the joint, said why, and it took effect."""
    by_policy = bool(switch.reason) and switch.reason not in CHANGED_BY_HAND | {"Manual"}
    return by_policy and switch.outcome == "Done" and switch.at_s >= joint_unix_s


def _describe_switch(switch: SwitchStatus, joint_unix_s: float) -> str:
    old, new = switch.from_partition, switch.to_partition
    return (
        f"{switch.at_s - joint_unix_s:.1f} s after the joint: ({old.prefill_percent}, {old.decode_percent}) to "
        f"({new.prefill_percent}, {new.decode_percent}), {switch.reason}"
    )
