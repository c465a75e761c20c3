"""Which isolation do the lanes of this agent run with? Pure: what was found at start in, the isolation and why out.

Without a driver, and in a compute mode that lets one process alone on the GPU, no isolation can run: the first choice stays, and
waits as it does where nothing else is allowed.
Source: CUDA Programming Guide 4.6 (green contexts from CUDA 12.4 on).
"""

from __future__ import annotations

from collections.abc import Mapping

from semipd_agent.faults import of_mps
from semipd_agent.mps.plan import Verdict
from semipd_agent.mps.preflight import Refusal
from semipd_agent.mps.view import MpsState
from semipd_core.agent_config import AS_ASKED, PROBE_PASSED, IsolationStatus, PartitionSettings
from semipd_core.cluster.state import bounds_of
from semipd_core.errors import InvalidSpec
from semipd_core.partition import Isolation
from semipd_core.policies.splits import legal_splits

GREEN_CONTEXTS = (12, 4)  # CUDA that the driver must serve
NO_ISOLATION_WITHOUT = ("NoDriver", "WrongComputeMode")  # refusals of MPS that are not about MPS


def choose(settings: PartitionSettings, refusals: Mapping[Isolation, Refusal]) -> IsolationStatus:
    """The first of what `settings` allow that is not refused; the first of all where nothing is left."""
    first = settings.isolation
    if not settings.fallbacks:
        return IsolationStatus(isolation=first, reason=AS_ASKED, message="")
    why_not = refusals.get(first)
    if why_not is None:
        return IsolationStatus(isolation=first, reason=PROBE_PASSED, message="")
    if why_not.reason in NO_ISOLATION_WITHOUT:
        message = f"no isolation can run: {why_not.message}"
        return IsolationStatus(isolation=first, reason=why_not.reason, message=message)
    chosen = next((each for each in settings.fallbacks if each not in refusals), first)
    refused = [each for each in (first, *settings.fallbacks) if each in refusals]
    said = "; ".join(f"no {each}: {refusals[each].message}" for each in refused)
    return IsolationStatus(isolation=chosen, reason=why_not.reason, message=said)


def refuse_mps(verdict: Verdict) -> Refusal | None:
    """`verdict`: of a controller that has settled. The reason is that of the fault, where it is one."""
    if verdict.state is MpsState.ACTIVE:
        return None
    if verdict.refusal is not None and verdict.refusal.reason in NO_ISOLATION_WITHOUT:
        return verdict.refusal
    message = f"MPS {verdict.state}: {verdict.reason}"
    fault = of_mps(verdict)
    return Refusal(reason="MpsNotReady" if fault is None else fault.reason, message=message)


def refuse_green_contexts(
    cuda: tuple[int, int] | None, settings: PartitionSettings, num_ranks: int
) -> Refusal | None:
    """`cuda`: the newest that the driver serves, None where it does not tell. `num_ranks`: GPUs of an engine."""
    if num_ranks > 1:
        message = f"gpusPerEngine: got {num_ranks}, allowed: 1 with green contexts in this version"
        return Refusal(reason="SeveralGpus", message=message)
    if cuda is None or cuda < GREEN_CONTEXTS:
        found = "unknown" if cuda is None else f"{cuda[0]}.{cuda[1]}"
        least = f"{GREEN_CONTEXTS[0]}.{GREEN_CONTEXTS[1]}"
        message = f"the driver's CUDA: got {found}, allowed: {least} or later"
        return Refusal(reason="NoGreenContexts", message=message)
    try:
        legal_splits(Isolation.GREEN_CONTEXT, bounds_of(settings))
    except InvalidSpec as error:
        return Refusal(reason="NoLegalSplit", message=str(error))
    return None
