"""`top` as a table: a line per service, and one per pod below it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from rich.text import Text

from semipd_core.slo.pooled import WindowState
from semipd_kubectl.draw.lines import (
    BAD,
    BOLD,
    DIM,
    GOOD,
    PLAIN,
    WARN,
    columns,
    shortened,
    toned,
)
from semipd_kubectl.reports.live import Figures, PodLive, ServiceLive, TopReport, silence_of
from semipd_kubectl.reports.values import Split

HEADER = ("SERVICE / POD", "SLO", "TTFT ms", "TPOT ms", "QUEUE", "RUN", "KV", "SHARES")
NUMBERS = frozenset(range(1, 7))
MAX_NAME = 22  # so that a line fits 80 columns
CANARY_MARK = "* "
WORDS = {
    WindowState.NO_DATA: ("no data", BAD),
    WindowState.IDLE: ("idle", DIM),
    WindowState.PENDING: ("pending", DIM),
}
TONES = {WindowState.MET: GOOD, WindowState.BAD: BAD}


def draw_top(report: TopReport) -> Iterator[Text]:
    rows = [[toned(cell, BOLD) for cell in HEADER]]
    notes = []
    for service in report.services:
        rows.append(_service_row(service))
        notes += [toned(note, WARN) for note in _service_notes(service)]
        for pod in service.pods:
            rows.append(_pod_row(pod, service))
            notes += [toned(note, WARN) for note in _notes(pod)]
    at = datetime.fromtimestamp(report.at, UTC).strftime("%H:%M:%S")
    yield toned(f"{at} UTC, the last {report.window_seconds:.0f} s, latencies: measured/target", DIM)
    if len(rows) == 1:
        yield toned("no SemiPDService here (-A looks in all namespaces)")
    else:
        yield from columns(rows, NUMBERS)
    yield from notes
    silence = silence_of(pod for service in report.services for pod in service.pods)
    if silence is not None:
        yield toned(silence, DIM)
    yield from (toned(problem, BAD) for problem in report.unreadable)


def _service_row(service: ServiceLive) -> list[Text]:
    name = f"{service.namespace}/{service.name}"
    cells = _cells(service.figures, service, service)
    if not service.pods:
        cells[0] = toned("no pods", DIM)
    return [toned(shortened(name, MAX_NAME), BOLD), *cells]


def _pod_row(pod: PodLive, service: ServiceLive) -> list[Text]:
    indent = CANARY_MARK if pod.canary else "  "
    return [toned(indent + shortened(pod.name, MAX_NAME - 2)), *_cells(pod.figures, service, pod)]


def _cells(figures: Figures, slo: ServiceLive, shares: ServiceLive | PodLive) -> list[Text]:
    return [
        _attainment(figures),
        _latency(figures.ttft_milliseconds, slo.ttft_target_milliseconds),
        _latency(figures.tpot_milliseconds, slo.tpot_target_milliseconds),
        _number(figures.queued),
        _number(figures.running),
        toned("-" if figures.kv_used_permille is None else f"{figures.kv_used_permille // 10} %"),
        _shares(shares.requested, shares.granted),
    ]


def _attainment(figures: Figures) -> Text:
    state = WindowState(figures.state)
    if figures.attainment_permille is None:
        return toned(*WORDS.get(state, (state.value, PLAIN)))
    return toned(f"{figures.attainment_permille / 10:.1f} %", TONES.get(state, PLAIN))


def _latency(value: int | None, target: int) -> Text:
    tone = BAD if value is not None and value > target else PLAIN
    return toned("-" if value is None else str(value), tone).append(f"/{target}", style=DIM)


def _number(value: int | None) -> Text:
    return toned("-" if value is None else str(value))


def _shares(requested: Split | None, granted: Split | None) -> Text:
    """What runs; `!` where something else is asked for, which a note below says."""
    if requested == granted:
        return toned("-" if granted is None else str(granted))
    return toned(f"{granted}!", WARN)


def _service_notes(service: ServiceLive) -> Iterator[str]:
    name = f"{service.namespace}/{service.name}"
    if service.paused:
        yield f"{name}: paused: the operator writes nothing of it"
    if service.pinned is not None:
        yield f"{name}: pinned to {service.pinned}: the loop does not move it"
    canaries = sum(pod.canary for pod in service.pods)
    if canaries:
        yield f"{name}: {canaries} of {len(service.pods)} pods try a split ({CANARY_MARK.strip()})"


def _notes(pod: PodLive) -> Iterator[str]:
    if pod.problem:
        yield f"{pod.name}: no data: {pod.problem}"
    elif pod.requested != pod.granted:
        yield f"{pod.name}: granted {pod.granted}, asked for {pod.requested}"
