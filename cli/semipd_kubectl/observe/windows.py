"""Live windows of all agents through the API server's pod proxy: POOL_SIZE at once, each within its deadline, all within one.

A pod that is late, refuses or answers nonsense is *no data* with a reason, and so is one whose turn has not come by then.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from statistics import median_low

import msgspec

from semipd_core.telemetry import EngineReport
from semipd_kubectl.api.connection import POOL_SIZE, Connection
from semipd_kubectl.api.failures import FORBIDDEN, failure_of
from semipd_kubectl.api.paths import PODS
from semipd_kubectl.errors import ApiError
from semipd_kubectl.observe.objects import NO_ANSWER, PodView, PodWindow, Windows
from semipd_kubectl.observe.threads import request_threads

DEADLINE_S = 3.0
OVERALL_S = 10.0  # thousands of pods that answer need a fraction of it
_decoder = msgspec.json.Decoder(list[EngineReport])


def fetch_windows(
    api: Connection,
    pods: Iterable[tuple[str, PodView]],
    deadline_s: float = DEADLINE_S,
    overall_s: float = OVERALL_S,
) -> Windows:
    """`pods` with their namespaces. `deadline_s`: of each; who could not have it whole within `overall_s` is not asked."""
    asked = [(namespace, pod) for namespace, pod in pods if not pod.is_leaving]
    last_start_s = time.monotonic() + overall_s - deadline_s
    with request_threads(min(POOL_SIZE, max(1, len(asked)))) as threads:
        found = list(threads.map(lambda each: _fetch(api, each[0], each[1], deadline_s, last_start_s), asked))
    dates = [window.date_s for window in found if window.date_s is not None]
    return Windows(
        pods={(namespace, pod.name): window for (namespace, pod), window in zip(asked, found, strict=True)},
        now_s=median_low(dates) if dates else time.time(),
    )


def _fetch(
    api: Connection, namespace: str, pod: PodView, deadline_s: float, last_start_s: float
) -> PodWindow:
    if pod.address is None:
        return PodWindow(problem=pod.problem or "it has no address yet")
    if time.monotonic() > last_start_s:
        return PodWindow(problem="not asked in time")
    path = PODS.path(namespace, f"{pod.name}:{pod.agent_port}", "proxy/v1/windows")
    try:
        answer = api.fetch(path, deadline_s)
    except ApiError as error:
        return PodWindow(problem=NO_ANSWER if "in time" in str(error) else str(error))
    if answer.code == FORBIDDEN:
        return PodWindow(problem=f"forbidden: {failure_of(answer.code, answer.body, path)}")
    if answer.code != 200:
        return PodWindow(problem=_why_unreachable(answer.code, answer.body, path))
    try:
        reports = tuple(_decoder.decode(answer.body))
    except msgspec.MsgspecError as error:
        return PodWindow(problem=f"the agent's answer cannot be read: {error}")
    return PodWindow(reports=reports, date_s=answer.date_s)


def _why_unreachable(code: int, body: bytes, path: str) -> str:
    said = str(failure_of(code, body, path))
    if "connection refused" in said:
        return "the agent refuses connections"
    return "the agent is not reachable" if code in (502, 503, 504) else said
