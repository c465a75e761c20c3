"""`advise`: what the loop would do now, and the command that follows it.

In `Advisory`, and where a guard holds a decision back, the policy's own answer stands in the message of the decision, as the
cluster loop words it; a test holds this to the loop.
"""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass

from semipd_core.api.service import CanaryStage, DecisionRecord, PartitionMode, ServiceStatus
from semipd_core.policies.decision import Reason
from semipd_core.telemetry import Wire
from semipd_kubectl.observe.objects import PIN_ANNOTATION, ServiceView
from semipd_kubectl.reports.trial import build_canary
from semipd_kubectl.reports.values import DecisionReport, Split, decisions_of, split_of

_ADVICE = re.compile(r"the policy says \((\d+), (\d+)\) \((\w+)\): (.*)", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """`held_by`: the guard that keeps it from being followed; None where it is in force."""

    split: Split
    reason: str
    message: str
    held_by: str | None = None


class FollowUp(Wire, frozen=True, kw_only=True):
    what: str
    command: str


class AdviceReport(Wire, frozen=True, kw_only=True):
    """`advised` None: there is no advice. `held_by`: why the advice is not in force; Canary: it is on trial."""

    namespace: str
    name: str
    mode: str
    requested: Split | None
    advised: Split | None
    reason: str | None
    message: str
    held_by: str | None
    decision: DecisionReport | None
    follow: list[FollowUp]


def find_advice(record: DecisionRecord) -> Advice:
    found = _ADVICE.search(record.message)
    if found is None:
        split = split_of(record.partition)
        assert split is not None
        return Advice(split=split, reason=record.reason, message=record.message)
    prefill, decode, reason, message = found.groups()
    return Advice(
        split=Split(prefill_percent=int(prefill), decode_percent=int(decode)),
        reason=reason,
        message=message,
        held_by=record.reason,
    )


def build_advice(view: ServiceView) -> AdviceReport:
    mode = view.service.spec.partition.mode
    status = view.service.status or ServiceStatus()
    requested = split_of(status.requested) or split_of(view.service.spec.partition.initial_split)
    latest = status.decisions[0] if status.decisions else None
    advice = find_advice(latest) if latest is not None and mode is not PartitionMode.STATIC else None
    on_trial = _is_on_trial(view, advice)
    return AdviceReport(
        namespace=view.namespace,
        name=view.name,
        mode=mode.value,
        requested=requested,
        advised=advice.split if advice else None,
        reason=advice.reason if advice else None,
        message=advice.message if advice else _why_none(mode),
        held_by=Reason.CANARY.value if on_trial else advice.held_by if advice else None,
        decision=decisions_of(status.decisions)[0] if status.decisions else None,
        follow=[] if on_trial else list(_follow_ups(view, mode, requested, advice)),
    )


def patch_command(view: ServiceView, patch: dict[str, object]) -> str:
    """Ready to paste into a shell."""
    body = json.dumps(patch, separators=(",", ":"))
    return f"kubectl patch semipdservice {view.name} -n {view.namespace} --type merge -p {shlex.quote(body)}"


def _is_on_trial(view: ServiceView, advice: Advice | None) -> bool:
    """It is followed already, as far as it has proven itself; a pin would put it into all pods."""
    canary = build_canary(view)
    return (
        advice is not None
        and canary is not None
        and canary.stage != CanaryStage.ROLLED_BACK
        and canary.partition == advice.split
    )


def _why_none(mode: PartitionMode) -> str:
    if mode is PartitionMode.STATIC:
        return "mode Static asks no policy: there is no advice"
    return "the loop has decided nothing yet: it needs engines that report"


def _follow_ups(
    view: ServiceView, mode: PartitionMode, requested: Split | None, advice: Advice | None
) -> list[FollowUp]:
    """Neither restarts a pod."""
    if mode is PartitionMode.STATIC:
        patch: dict[str, object] = {"spec": {"partition": {"mode": PartitionMode.ADVISORY.value}}}
        what = "to be advised"
        return [FollowUp(what=what, command=patch_command(view, patch))]
    if advice is None or advice.split == requested:
        return []
    pin: dict[str, object] = {"metadata": {"annotations": {PIN_ANNOTATION: str(advice.split)}}}
    found = [FollowUp(what="to follow it now, with a pin", command=patch_command(view, pin))]
    if mode is PartitionMode.ADVISORY:
        auto: dict[str, object] = {"spec": {"partition": {"mode": PartitionMode.AUTO.value}}}
        what = "to let the loop follow its own advice"
        found.append(FollowUp(what=what, command=patch_command(view, auto)))
    return found
