"""One line of a container's log: when, whose, and what it says. Pure.

The kubelet puts its own time (RFC 3339, nanoseconds) before each line; the lines of our processes are JSON (`semipd_shell.log`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rich.text import Text

from semipd_kubectl.draw.lines import BAD, BOLD, DIM, PLAIN, WARN, toned

_STAMPED = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d) ?(.*)", re.DOTALL)
_SHOWN_APART = frozenset({"event", "level", "timestamp", "process", "pid", "exception", "stack"})
_TONES = {"warning": WARN, "error": BAD, "critical": BAD, "debug": DIM}
_PODS = ("cyan", "magenta", "blue", "green", "yellow", "bright_cyan", "bright_magenta", "bright_blue")
EPOCH_NS = 0  # of a line without a time


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """`time` as the kubelet wrote it; `time_ns` is the same as unix time."""

    time_ns: int
    time: str
    pod: str
    container: str
    text: str


def parse_line(raw: str, pod: str, container: str) -> LogLine:
    found = _STAMPED.fullmatch(raw)
    if found is None:
        return LogLine(time_ns=EPOCH_NS, time="", pod=pod, container=container, text=raw)
    second, fraction, zone, text = found.groups()
    at = datetime.fromisoformat(second + ("+00:00" if zone == "Z" else zone))
    nanoseconds = int((fraction or "").ljust(9, "0") or 0)
    return LogLine(
        time_ns=int(at.timestamp()) * 1_000_000_000 + nanoseconds,
        time=raw[: len(raw) - len(text)].rstrip(),
        pod=pod,
        container=container,
        text=text,
    )


def json_text(line: LogLine) -> str:
    """One JSON object: what the process wrote, with `pod`, `container` and `time`; other text stands in `line`."""
    said = _decoded(line.text)
    whose = {"pod": line.pod, "container": line.container, "time": line.time}
    return json.dumps({**whose, **(said if said is not None else {"line": line.text})} | whose)


def readable(line: LogLine, width: int) -> Text:
    """`width`: of the longest pod's name."""
    said = _decoded(line.text)
    head = (
        toned(_clock(line), DIM)
        .append(" ")
        .append(line.pod.ljust(width), style=pod_tone(line.pod))
        .append(" ")
    )
    if said is None or "event" not in said:
        return head.append(line.text, style="default")
    level = str(said.get("level", "info"))
    tone = _TONES.get(level, PLAIN)
    head.append(f"{said.get('process', line.container)!s:<11} ", style=BOLD)
    head.append(f"{level.upper():<7} {said['event']}", style=tone or "default")
    extra = "".join(f" {key}={_shown(value)}" for key, value in said.items() if key not in _SHOWN_APART)
    head.append(extra, style=DIM)
    for key in ("exception", "stack"):
        if said.get(key):
            head.append(
                "".join(f"\n    {row}" for row in str(said[key]).splitlines()), style=tone or "default"
            )
    return head


def pod_tone(pod: str) -> str:
    """The same for a pod in every run."""
    return _PODS[sum(pod.encode()) % len(_PODS)]


def _decoded(text: str) -> Mapping[str, Any] | None:
    if not text.startswith("{"):
        return None
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _shown(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return json.dumps(text) if any(sign in text for sign in ' "=') and isinstance(value, str) else text


def _clock(line: LogLine) -> str:
    at = datetime.fromtimestamp(line.time_ns // 1_000_000_000, UTC)
    return f"{at:%H:%M:%S}.{line.time_ns // 1_000_000 % 1000:03}"
