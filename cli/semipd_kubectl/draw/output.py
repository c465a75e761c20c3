"""Where reports go: JSON, or lines on stdout."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable

import msgspec
from rich.console import Console, RenderableType
from rich.text import Text

from semipd_core.telemetry import Wire
from semipd_kubectl.draw.lines import open_console


def console() -> Console:
    return open_console(
        columns_given="COLUMNS" in os.environ,
        is_terminal=sys.stdout.isatty(),
        no_color=bool(os.environ.get("NO_COLOR")),
    )


def print_lines(lines: Iterable[RenderableType]) -> None:
    """A line that must not be wrapped stays whole, so that it can be copied."""
    out = console()
    for line in lines:
        out.print(line, soft_wrap=isinstance(line, Text) and bool(line.no_wrap))


def print_json(report: Wire, *, one_line: bool = False) -> None:
    body = msgspec.json.encode(report)
    text = body if one_line else msgspec.json.format(body)
    sys.stdout.write(text.decode() + "\n")
    sys.stdout.flush()
