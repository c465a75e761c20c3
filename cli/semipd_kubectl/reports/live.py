"""Live figures of pods and services from the agents' windows. Nothing is ever counted as zero that is not known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from semipd_core.cluster.evidence import LONGEST_WINDOW_S
from semipd_core.node.observation import running_split
from semipd_core.service_settings import slo_targets
from semipd_core.slo.pooled import classify, pool_reports
from semipd_core.telemetry import EngineReport, SloTargets, Wire
from semipd_kubectl.observe.objects import AGENT_PORT, NO_ANSWER, Fleet, PodWindow, ServiceView, Windows
from semipd_kubectl.reports.clocks import by_clock
from semipd_kubectl.reports.values import Split, split_of, unix_s

STALE_AFTER_S = 10.0  # an older window of a front end is no data
SILENCE = (
    f"{NO_ANSWER}: the agent hangs, or a NetworkPolicy keeps the API server from its port {AGENT_PORT}: "
    "the operator's SEMIPD_OPERATOR_API_SERVER_CIDRS lets it in (docs/install.md)"
)
MISSING = PodWindow(problem="not asked: the pod is leaving")


class Figures(Wire, frozen=True, kw_only=True):
    """Over the last `window_seconds`. Latencies at the target's percentile; None where nothing was measured."""

    state: str  # semipd_core.slo.pooled.WindowState: NoData | Idle | Pending | Met | Bad
    engines: int  # with a fresh report
    judged: int
    attainment_permille: int | None
    ttft_milliseconds: int | None
    tpot_milliseconds: int | None
    queued: int | None  # requests without a token yet; None without data
    running: int | None
    requests_per_second: float | None
    kv_used_permille: int | None


class PodLive(Wire, frozen=True, kw_only=True):
    """`problem`: why there is no data. `canary`: whether it tries a split.

    Shares are those that most of its engines have.
    """

    name: str
    canary: bool
    problem: str | None
    figures: Figures
    requested: Split | None
    granted: Split | None


class TrialLive(Wire, frozen=True, kw_only=True):
    """Since the stage began, or as long as front ends remember. The operator counts from the grant, a little later."""

    seconds: float
    canaries: Figures
    others: Figures


class ServiceLive(Wire, frozen=True, kw_only=True):
    """`trial` None: no split is on trial. `pinned`: the annotation, legal or not."""

    namespace: str
    name: str
    paused: bool
    pinned: str | None
    pods_answering: int
    figures: Figures
    trial: TrialLive | None
    requested: Split | None
    granted: Split | None
    ttft_percentile: int
    ttft_target_milliseconds: int
    tpot_percentile: int
    tpot_target_milliseconds: int
    pods: list[PodLive]


class TopReport(Wire, frozen=True, kw_only=True):
    """`at` is unix time by the middle one of the clocks of those who answered."""

    at: float
    window_seconds: float
    services: list[ServiceLive]
    unreadable: list[str]


def build_top(fleet: Fleet, windows: Windows, window_s: float) -> TopReport:
    return TopReport(
        at=windows.now_s,
        window_seconds=window_s,
        services=[build_live(view, windows, window_s) for view in fleet.services],
        unreadable=list(fleet.unreadable),
    )


def silence_of(pods: Iterable[PodLive]) -> str | None:
    """What to look at where one does not answer in time; None where none is so."""
    return SILENCE if any(pod.problem == NO_ANSWER for pod in pods) else None


def build_live(view: ServiceView, windows: Windows, window_s: float) -> ServiceLive:
    slo = slo_targets(view.service.spec.slo)
    found = {
        pod.name: by_clock(windows.pods.get((view.namespace, pod.name), MISSING), windows.now_s)
        for pod in view.pods
    }
    everything = [report for window in found.values() for report in window.reports]
    requested, granted = _shares(_current(everything, windows.now_s))
    canaries = view.canaries
    return ServiceLive(
        namespace=view.namespace,
        name=view.name,
        paused=view.is_paused,
        pinned=view.pin,
        pods_answering=sum(window.problem is None for window in found.values()),
        figures=figures_of(everything, slo, windows.now_s, window_s),
        trial=_trial(view, canaries, found, slo, windows.now_s),
        requested=requested,
        granted=granted,
        ttft_percentile=slo.ttft_percentile,
        ttft_target_milliseconds=slo.ttft_ms,
        tpot_percentile=slo.tpot_percentile,
        tpot_target_milliseconds=slo.tpot_ms,
        pods=[
            _pod(name, window, slo, windows.now_s, window_s, is_canary=name in canaries)
            for name, window in found.items()
        ],
    )


def figures_of(reports: Sequence[EngineReport], slo: SloTargets, now_s: float, window_s: float) -> Figures:
    """`now_s`: unix time by the clock that `reports` are by. A stale report counts for nothing."""
    window = pool_reports(reports, since_s=now_s - window_s, now_s=now_s, stale_after_s=STALE_AFTER_S)
    known = window.engines > 0
    return Figures(
        state=classify(window, slo).value,
        engines=window.engines,
        judged=window.judged,
        attainment_permille=window.attainment_permille,
        ttft_milliseconds=_rounded(window.ttft_percentile_ms(slo.ttft_percentile)),
        tpot_milliseconds=_rounded(window.tpot_percentile_ms(slo.tpot_percentile)),
        queued=window.queued_requests if known else None,
        running=window.open_requests - window.queued_requests if known else None,
        requests_per_second=round(window.arrival_rate_per_s, 2) if known else None,
        kv_used_permille=_kv_used(_current(reports, now_s)),
    )


def _trial(
    view: ServiceView,
    canaries: frozenset[str],
    found: Mapping[str, PodWindow],
    slo: SloTargets,
    now_s: float,
) -> TrialLive | None:
    """The canaries beside the others, as the operator compares them."""
    status = view.service.status
    if status is None or status.canary is None or not canaries:
        return None
    since_s = unix_s(status.canary.since)
    seconds = LONGEST_WINDOW_S if since_s is None else min(LONGEST_WINDOW_S, max(0.0, now_s - since_s))
    trying, others = (
        figures_of(
            [
                report
                for name, window in found.items()
                if (name in canaries) is is_canary
                for report in window.reports
            ],
            slo,
            now_s,
            seconds,
        )
        for is_canary in (True, False)
    )
    return TrialLive(seconds=round(seconds, 1), canaries=trying, others=others)


def _pod(
    name: str, window: PodWindow, slo: SloTargets, now_s: float, window_s: float, *, is_canary: bool
) -> PodLive:
    figures = figures_of(window.reports, slo, now_s, window_s)
    problem = window.problem
    if problem is None and figures.engines == 0:
        problem = "no front end reports, or only stale figures" if window.reports else "no engine yet"
    requested, granted = _shares(_current(window.reports, now_s))
    return PodLive(
        name=name,
        canary=is_canary,
        problem=problem,
        figures=figures,
        requested=requested,
        granted=granted,
    )


def _current(reports: Iterable[EngineReport], now_s: float) -> list[EngineReport]:
    return [report for report in reports if now_s - report.at_s <= STALE_AFTER_S]


def _shares(found: Sequence[EngineReport]) -> tuple[Split | None, Split | None]:
    """Requested and running, by most engines; of equally common ones the smallest."""
    if not found:
        return None, None
    running = Counter(running_split(report) for report in found)
    asked = Counter(report.requested for report in found)
    prefill, decode = min(asked, key=lambda split: (-asked[split], split))
    most = min(running, key=lambda split: (-running[split], split.prefill_percent, split.decode_percent))
    return Split(prefill_percent=prefill, decode_percent=decode), split_of(most)


def _kv_used(reports: Iterable[EngineReport]) -> int | None:
    coordinators = [report.coordinator for report in reports if report.coordinator is not None]
    total = sum(each.kv_blocks_total for each in coordinators)
    return sum(each.kv_blocks_used for each in coordinators) * 1000 // total if total else None


def _rounded(value: float | None) -> int | None:
    return None if value is None else round(value)
