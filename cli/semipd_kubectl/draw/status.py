"""`status` as a tree per service."""

from __future__ import annotations

from collections.abc import Iterator

from rich.text import Text
from rich.tree import Tree

from semipd_kubectl.draw.lines import BAD, BOLD, DIM, GOOD, PLAIN, WARN, joined, toned
from semipd_kubectl.draw.trial import rollout_mark, trial_mark
from semipd_kubectl.reports.status import (
    EngineReport,
    LatencyReport,
    PodReport,
    ServiceReport,
    SloReport,
    StatusReport,
)
from semipd_kubectl.reports.values import DecisionReport, Split, age

TONES = {"True": GOOD, "False": BAD, "Unknown": WARN, "Ready": GOOD, "NotReady": BAD, "Leaving": DIM}


def draw_status(report: StatusReport, now_s: float) -> Iterator[Tree | Text]:
    """`now_s` is unix time."""
    for index, service in enumerate(report.services):
        if index:
            yield Text("")
        yield draw_service(service, now_s)
    for problem in report.unreadable:
        yield toned(problem, BAD)
    if not report.services and not report.unreadable:
        yield toned("no SemiPDService here (-A looks in all namespaces)")


def draw_service(service: ServiceReport, now_s: float) -> Tree:
    tree = Tree(_head(service), guide_style=DIM)
    tree.add(_split_line(service))
    if service.canary is not None:
        tree.add(toned(trial_mark(service.canary), WARN))
    if service.rollout is not None:
        tree.add(toned(rollout_mark(service.rollout), WARN))
    tree.add(_slo_line(service.slo))
    for condition in service.blocking:
        tree.add(toned(str(condition), WARN if condition.type == "SLOMet" else BAD))
    if service.last_decision is not None:
        tree.add(_decision_line(service.last_decision, now_s))
    for pod in service.pods:
        branch = tree.add(_pod_line(pod))
        for engine in pod.engines:
            branch.add(_engine_line(engine))
    if not service.pods:
        tree.add(toned("no pods", DIM))
    return tree


def _head(service: ServiceReport) -> Text:
    ready = {"True": "ready", "False": "not ready", "Unknown": "not observed yet"}[service.ready]
    count = "" if service.replicas is None else f" {service.ready_replicas or 0}/{service.replicas}"
    return joined(
        (
            toned(f"{service.namespace}/{service.name}", BOLD),
            toned(f"{ready}{count}", TONES[service.ready]),
            toned(service.model),
        )
    )


def _split_line(service: ServiceReport) -> Text:
    parts = [
        toned(f"split, {service.mode}: requested {_split(service.requested)}, granted"),
        toned(_split(service.granted), PLAIN if service.granted == service.requested else WARN),
    ]
    if service.pinned is not None:
        parts.append(toned(f"pinned to {service.pinned}", WARN))
    if service.paused:
        parts.append(toned("paused: the operator leaves it as it is", WARN))
    return joined(parts, " ")


def _slo_line(slo: SloReport) -> Text:
    attained = "unknown" if slo.attainment_permille is None else f"{slo.attainment_permille / 10:.1f} %"
    return joined(
        (
            Text("SLO: ")
            .append_text(toned(attained, TONES[slo.met]))
            .append(f" ({slo.needed_permille // 10} % asked)"),
            _latency("TTFT", slo.ttft),
            _latency("TPOT", slo.tpot),
        ),
        ", ",
    )


def _latency(name: str, latency: LatencyReport) -> Text:
    value = latency.attained_milliseconds
    late = value is not None and value > latency.target_milliseconds
    line = Text(f"{name} p{latency.percentile} ")
    line.append_text(toned("?" if value is None else str(value), BAD if late else PLAIN))
    return line.append(f"/{latency.target_milliseconds} ms")


def _decision_line(decision: DecisionReport, now_s: float) -> Text:
    return toned(
        f"last decision, {age(decision.time, now_s)} ago: {decision.partition} "
        f"{decision.reason}: {decision.message}"
    )


def _pod_line(pod: PodReport) -> Text:
    parts = [
        toned(pod.name, BOLD),
        toned({"NotReady": "not ready"}.get(pod.state, pod.state.lower()), TONES[pod.state]),
    ]
    if pod.node:
        parts.append(toned(f"on {pod.node}"))
    parts.append(toned("not asked for a split yet" if pod.asked is None else f"asked for {pod.asked}"))
    if pod.canary:
        parts.append(toned("canary", WARN))
    if pod.asked is not None and not pod.taken:
        parts.append(toned("not taken yet", WARN))
    if pod.fallen_back:
        parts.append(toned(pod.fallen_back, WARN))
    if pod.restarts:
        parts.append(toned(f"{pod.restarts} restarts", WARN))
    if pod.problem:
        parts.append(toned(pod.problem, BAD))
    return joined(parts)


def _engine_line(engine: EngineReport) -> Text:
    parts = [
        toned(engine.name),
        toned(f"requested {engine.requested}"),
        toned(f"granted {_split(engine.granted)}", PLAIN if engine.granted == engine.requested else WARN),
    ]
    if engine.switching:
        parts.append(toned(f"switching: {engine.switching}", WARN))
    if engine.ready is False:
        parts.append(toned(f"not serving {engine.problem}".rstrip(), BAD))
    parts += [
        toned(
            f"GPU {gpu.uuid} {gpu.health} {gpu.message}".rstrip(), BAD if gpu.health == "Unhealthy" else WARN
        )
        for gpu in engine.gpus
        if gpu.health != "Healthy"
    ]
    return joined(parts)


def _split(split: Split | None) -> str:
    return "unknown" if split is None else str(split)
