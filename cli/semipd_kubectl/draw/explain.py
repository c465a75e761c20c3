"""`explain` in plain sentences."""

from __future__ import annotations

from collections.abc import Iterator

from rich.text import Text

from semipd_kubectl.draw.lines import BAD, BOLD, DIM, WARN, Indented, toned
from semipd_kubectl.draw.trial import rollout_sentences, trial_sentences
from semipd_kubectl.reports.explain import ExplainReport
from semipd_kubectl.reports.live import ServiceLive, silence_of
from semipd_kubectl.reports.status import PodReport, SloReport
from semipd_kubectl.reports.values import DecisionReport, age

DECISIONS_SHOWN = 5


def draw_explanation(report: ExplainReport, now_s: float) -> Iterator[Text | Indented]:
    """`now_s` is unix time."""
    yield toned(f"{report.namespace}/{report.name}", BOLD)
    yield from _indented(*_split_sentences(report))
    yield toned("What the SLO says", BOLD)
    yield from _indented(slo_sentence(report.slo))
    if report.live is not None:
        yield from _indented(*live_sentences(report.live))
    yield toned("What is on trial", BOLD)
    trial = report.live.trial if report.live is not None else None
    yield from _indented(*trial_sentences(report.canary, report.proven, trial, now_s))
    if report.rollout is not None:
        yield from _indented(*rollout_sentences(report.rollout, now_s))
    yield toned("What holds it back", BOLD)
    yield from _indented(*_hold_sentences(report))
    yield toned("Last decisions", BOLD)
    yield from _indented(*(_decision(each, now_s) for each in report.decisions[:DECISIONS_SHOWN]))
    if not report.decisions:
        yield from _indented("None yet.")
    yield toned("Pods", BOLD)
    yield from _indented(*(pod_sentence(pod) for pod in report.pods))
    if not report.pods:
        yield from _indented("There are none.")


def _indented(*lines: str | Text) -> Iterator[Indented]:
    for line in lines:
        yield Indented(line if isinstance(line, Text) else Text(line))


def _split_sentences(report: ExplainReport) -> Iterator[str]:
    if report.requested is None:
        yield "The operator has not asked for a split yet."
    else:
        yield (
            f"Asked for: {report.requested}. Prefill may use {report.requested.prefill_percent} % of the SMs, "
            f"decode {report.requested.decode_percent} %; most engines are granted {report.granted or 'nothing yet'}."
        )
    if report.band is not None and not report.band.is_one_split:
        yield f"Band: {report.band}. Inside it the agents answer bursts by themselves."
    elif report.band is not None:
        yield "Band: that split alone; the agents have no room to move."
    by_class = "" if report.class_name is None else f", as class {report.class_name} cuts them"
    cut = by_class if report.bounds != report.bounds_in_force else ""
    yield f"Bounds: {report.bounds_in_force}{cut}."
    yield f"Moved by: mode {report.mode}, policy {report.policy}."


def slo_sentence(slo: SloReport) -> str:
    said = {"True": "met", "False": "missed", "Unknown": "not judged"}[slo.met]
    attained = (
        "no request was judged in the last window"
        if slo.attainment_permille is None
        else f"{slo.attainment_permille / 10:.1f} % kept both targets"
    )
    ttft, tpot = slo.ttft, slo.tpot
    return (
        f"It is {said}: {slo.needed_permille // 10} % of the requests are to keep TTFT within {ttft.target_milliseconds} ms "
        f"and TPOT within {tpot.target_milliseconds} ms; {attained} (TTFT p{ttft.percentile} "
        f"{_ms(ttft.attained_milliseconds)}, TPOT p{tpot.percentile} {_ms(tpot.attained_milliseconds)})."
    )


def live_sentences(live: ServiceLive) -> Iterator[str]:
    figures, answering = live.figures, f"{live.pods_answering} of {len(live.pods)} pods answer"
    match figures.state:
        case "NoData":
            yield f"Now: no data; {answering}."
        case "Idle":
            yield f"Now: idle; {answering}."
        case _:
            attained = (
                "none judged yet"
                if figures.attainment_permille is None
                else f"{figures.attainment_permille / 10:.1f} % of {figures.judged} requests attained"
            )
            yield (
                f"Now: {attained}, TTFT p{live.ttft_percentile} {_ms(figures.ttft_milliseconds)}, "
                f"TPOT p{live.tpot_percentile} {_ms(figures.tpot_milliseconds)}, {figures.queued} queued, "
                f"{figures.running} running; {answering}."
            )
    for pod in live.pods:
        if pod.problem:
            yield f"{pod.name}: no data: {pod.problem}."
    silence = silence_of(live.pods)
    if silence is not None:
        yield f"{silence}."


def _hold_sentences(report: ExplainReport) -> Iterator[str | Text]:
    for hold in report.holds:
        yield toned(f"{hold.text[0].upper()}{hold.text[1:]}.", WARN)
    if not report.holds:
        yield "Nothing: the loop may move it now."
    limit = "unknown" if report.max_moves_per_hour is None else str(report.max_moves_per_hour)
    yield (
        f"Moves in the last hour: {report.moves_last_hour} seen, allowed: {limit}; "
        f"{report.cooldown_seconds} s between two of them."
    )


def _decision(decision: DecisionReport, now_s: float) -> Text:
    meaning = f" ({decision.meaning})" if decision.meaning else ""
    verb = {True: "moves to", False: "holds", None: "at"}[decision.moved]
    line = toned(f"{age(decision.time, now_s)} ago ", DIM)
    return line.append(f"{verb} {decision.partition} ", style=BOLD).append(
        f"{decision.reason}{meaning}: {decision.message}", style="not dim"
    )


def pod_sentence(pod: PodReport) -> Text:
    line = toned(pod.name)
    if pod.asked is None:
        return line.append(": not asked for a split yet")
    line.append(f": asked for {pod.asked}")
    if pod.canary:
        line.append(" as a canary", style=WARN)
    if not pod.engines:
        line.append("; has not reported", style=WARN)
    elif not pod.taken:
        line.append("; has not taken it yet", style=WARN)
    for engine in pod.engines:
        is_granted = engine.granted == pod.asked
        line.append(f"; {engine.name} ").append(
            f"granted {engine.granted or 'nothing yet'}", style="" if is_granted else WARN
        )
        if engine.switching:
            line.append(f", switching ({engine.switching})", style=WARN)
    if pod.fallen_back:
        line.append(f"; {pod.fallen_back}", style=WARN)
    if pod.problem:
        line.append(f"; {pod.problem}", style=BAD)
    return line


def _ms(value: int | None) -> str:
    return "unknown" if value is None else f"{value} ms"
