"""What the one-word reasons of decisions mean, for who reads them at night."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from semipd_core.policies.decision import Reason

MEANINGS: Mapping[Reason, str] = MappingProxyType(
    {
        Reason.IDLE: "nothing arrives: there is nothing to judge by",
        Reason.NO_DATA: "no engine reports, or only stale figures",
        Reason.NOT_JUDGED_YET: "requests are open, none was judged yet",
        Reason.SLO_MET: "enough requests keep their targets",
        Reason.WINDOW_TOO_SHORT: "too little was seen since the last move",
        Reason.TOO_FEW_SAMPLES: "too few requests to judge by, or misses that may be chance",
        Reason.WITHIN_HYSTERESIS: "the gain would be too small for a move",
        Reason.NO_BETTER_SPLIT: "the SLO is missed, and no other split is expected to do better",
        Reason.TTFT_MISSED: "first tokens come too late: prefill needs more",
        Reason.TPOT_MISSED: "tokens come too slowly: decode needs more",
        Reason.BOTH_MISSED: "both targets are missed",
        Reason.TTFT_PREDICTED_MISS: "first tokens are expected to come too late at this split",
        Reason.TPOT_PREDICTED_MISS: "tokens are expected to come too slowly at this split",
        Reason.TTFT_NEAR_TARGET: "first tokens come just in time, and decode has room to give",
        Reason.TPOT_NEAR_TARGET: "tokens come just in time, and prefill has room to give",
        Reason.INFEASIBLE: "no split is expected to meet both targets: more replicas are needed",
        Reason.KV_PRESSURE: "the KV cache is nearly full",
        Reason.STATIC: "mode Static moves nothing",
        Reason.ADVISORY: "mode Advisory applies nothing: this is what it would do",
        Reason.PINNED: "pinned by hand",
        Reason.COOLDOWN: "too soon after the last move",
        Reason.MOVES_SPENT: "the class allows no more moves in this hour",
        Reason.NOT_STEADY: "the engine starts, switches or drains",
        Reason.CLUSTER_WISH: "the cluster loop asked for it",
        Reason.NO_WISH: "the cluster loop has asked for nothing yet",
        Reason.OUTSIDE_BAND: "the engine had left its band",
        Reason.ADOPTED: "somebody else asked for it, or another operator before: it is the target now",
        Reason.PAUSED: "paused: nothing is written",
        Reason.BOUNDS_CHANGED: "the bounds have changed, and no longer held what was asked for",
        Reason.ISOLATION_CHANGED: "pods have fallen back to an isolation that cannot run what was asked for",
        Reason.MODE_CHANGED: "the mode is Auto again: the loop goes on from here",
        Reason.UNPINNED: "the pin is gone: the loop goes on from here",
        Reason.CANARY: "the split is on trial in some of the pods",
        Reason.CANARY_PASSED: "no worse in the trial: all pods follow",
        Reason.CANARY_FAILED: "worse in the trial: it was taken back",
        Reason.CANARY_EXPIRED: "the trial showed nothing in its time: it was taken back",
        Reason.CANARY_REFUSED: "the policy wants a split that failed in a trial, or one farther that way",
        Reason.TEMPLATE_ON_TRIAL: "a new model, image or argument is on trial: no split moves meanwhile",
        Reason.ROLLOUT_STARTED: "a new model, image or argument: one pod tries it",
        Reason.ROLLOUT_WIDENED: "no worse so far: more pods try it",
        Reason.ROLLOUT_PASSED: "no worse in the trial: all pods get the new template",
        Reason.ROLLOUT_FAILED: "worse in the trial: the pods go back to the template before",
        Reason.ROLLOUT_EXPIRED: "not ready, or nothing shown, in its time: back to the template before",
        Reason.ROLLOUT_REVERTED: "the service asks for what ran before",
        Reason.ROLLOUT_PLAIN: "a rolling update without a trial",
    }
)


def meaning_of(reason: str) -> str | None:
    """None for a reason that is none of ours, of a later release perhaps."""
    return MEANINGS[Reason(reason)] if reason in set(Reason) else None
