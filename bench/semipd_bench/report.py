"""A replay as files: `report.json` with the numbers, `report.html` to look at, self-contained and readable offline."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from semipd_bench.chart import render
from semipd_bench.replay import Replay
from semipd_bench.report_charts import build_charts
from semipd_core.errors import SemipdError
from semipd_shell.files import write_atomically


class ReportNotWritten(SemipdError):
    """The disk refused it. An earlier report stays as it was; nothing half-written is left."""


def write_report(directory: Path, replay: Replay, summary: dict[str, Any]) -> tuple[Path, Path]:
    """Write report.html and report.json.

    Raises: ReportNotWritten with the path and what the system said.
    """
    page, numbers = directory / "report.html", directory / "report.json"
    for path, data in (
        (numbers, json.dumps(summary, indent=2, ensure_ascii=False).encode() + b"\n"),
        (page, render_page(replay, summary).encode()),
    ):
        try:
            directory.mkdir(parents=True, exist_ok=True)
            write_atomically(path, data)
        except OSError as error:
            raise ReportNotWritten(f"{path} is not written: {error.strerror or error}") from error
    return page, numbers


def render_page(replay: Replay, summary: dict[str, Any]) -> str:
    """The whole page as HTML."""
    template = resources.files("semipd_bench").joinpath("report_template.html").read_text(encoding="utf-8")
    trace = summary["trace"]
    ending = "interrupted after" if summary["interrupted"] else "over"
    return Template(template).substitute(
        title="semipd replay",
        subtitle=escape(
            f"{trace['name']}, {trace['requests']} requests, {ending} {summary['durationSeconds']:.0f} s"
        ),
        numbers=_numbers(summary),
        charts="\n".join(render(chart) for chart in build_charts(replay)),
        verdict=_verdict(summary["verdict"]),
        switches=_switches(summary["switches"]),
        decisions=_decisions(summary["decisions"]),
        latency=_latency(summary["slo"]),
        calibration=_calibration(summary["calibration"]),
        setup=_setup(summary["setup"]),
    )


def _numbers(summary: dict[str, Any]) -> str:
    requests, slo = summary["requests"], summary["slo"]
    cells = [
        ("requests completed", f"{requests['completed']} of {requests['sent']}"),
        ("failed", str(requests["failed"])),
        ("attained both targets", _percent(slo["attainmentPermille"])),
        (f"TTFT p{slo['ttft']['percentile']}", _ms(slo["ttft"]["atTargetPercentileMs"])),
        (f"TPOT p{slo['tpot']['percentile']}", _ms(slo["tpot"]["atTargetPercentileMs"])),
        ("switches", str(len(summary["switches"]))),
    ]
    return "".join(f"<div><b>{escape(value)}</b>{escape(name)}</div>" for name, value in cells)


def _verdict(verdict: dict[str, Any]) -> str:
    rows = []
    for condition in verdict["conditions"]:
        word = (
            '<span class="holds">holds</span>' if condition["holds"] else '<span class="fails">fails</span>'
        )
        rows.append([escape(condition["name"]), word, escape(condition["found"])])
    return (
        _table(("condition", "", "found"), rows) if rows else '<p class="quiet">No conditions were set.</p>'
    )


def _switches(switches: Sequence[dict[str, Any]]) -> str:
    rows = [
        [
            f"{s['atSeconds']:.1f} s",
            f"{_split(s['from'])} → {_split(s['to'])}",
            "under way" if s["seconds"] is None else f"{s['seconds']:.2f} s",
            escape(s["outcome"]),
            escape(f"{s['reason']}: {s['message']}"),
        ]
        for s in switches
    ]
    return (
        _table(("at", "prefill, decode %", "took", "outcome", "reason"), rows, "narrow")
        if rows
        else "<p>None.</p>"
    )


def _decisions(decisions: Sequence[dict[str, Any]]) -> str:
    rows = [
        [
            f"{d['atSeconds']:.1f} s",
            escape(d["loop"]),
            escape(d["engine"] or "all"),
            _split(d["partition"]),
            "moved" if d["changed"] else "held",
            escape(f"{d['reason']}: {d['message']}"),
        ]
        for d in decisions
    ]
    return (
        _table(("at", "loop", "engine", "split", "", "reason"), rows, "narrow")
        if rows
        else "<p>None seen.</p>"
    )


def _latency(slo: dict[str, Any]) -> str:
    rows = [
        [
            name,
            *(_ms(slo[key][p]) for p in ("p50Ms", "p90Ms", "p99Ms")),
            f"p{slo[key]['percentile']} ≤ {slo[key]['targetMs']} ms",
        ]
        for name, key in (("TTFT", "ttft"), ("TPOT", "tpot"))
    ]
    quarters = [[f"quarter {i}", _percent(v)] for i, v in enumerate(slo["quartersPermille"], start=1)]
    return _table(("", "p50", "p90", "p99", "target"), rows) + _table(("attained", ""), quarters)


def _calibration(calibration: dict[str, Any] | None) -> str:
    if calibration is None:
        return '<p class="quiet">By hand.</p>'
    machine = calibration["machine"]
    return (
        f"<p>Lengths × {calibration['lengthFactor']:g}, requests × {calibration['rateFactor']:g}: "
        f"{calibration['requests']} requests.</p><p>{escape(calibration['message'])}</p>"
        f'<p class="quiet">Measured per engine, {machine["engines"]} at work: prefill {machine["prefillBaseMs"]:g} ms + '
        f"{machine['prefillMsPerToken']:g} ms per token, decode step {machine['decodeBaseMs']:g} ms + "
        f"{machine['decodeMsPerRow']:g} ms per row.</p>"
    )


def _setup(setup: dict[str, float | None]) -> str:
    names = {
        "installSeconds": "installation",
        "loadSeconds": "loading the model",
        "readySeconds": "start to ready",
        "firstTokenSeconds": "start to the first token",
        "calibrationSeconds": "calibration",
    }
    rows = [
        [names[key], "not measured" if value is None else f"{value:.1f} s"] for key, value in setup.items()
    ]
    return _table(("phase", "took"), rows)


def _table(head: Iterable[str], rows: Iterable[Iterable[str]], style: str = "") -> str:
    """Cells are HTML. Style `narrow` keeps all columns but the last on one line."""
    top = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table class="{style}"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _split(caps: dict[str, int]) -> str:
    return f"({caps['prefillPercent']}, {caps['decodePercent']})"


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f} ms"


def _percent(permille: int | None) -> str:
    return "–" if permille is None else f"{permille / 10:.1f} %"
