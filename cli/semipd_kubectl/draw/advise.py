"""`advise` in a few lines, the commands whole: they are there to be copied."""

from __future__ import annotations

from collections.abc import Iterator

from rich.text import Text

from semipd_core.policies.decision import Reason
from semipd_kubectl.draw.lines import BOLD, DIM, GOOD, WARN, toned
from semipd_kubectl.reports.advise import AdviceReport
from semipd_kubectl.reports.values import age


def draw_advice(report: AdviceReport, now_s: float) -> Iterator[Text]:
    """`now_s` is unix time."""
    yield toned(f"{report.namespace}/{report.name}", BOLD).append(
        f"  mode {report.mode}, at {report.requested or 'no split yet'}", style="not bold"
    )
    if report.advised is None:
        yield toned(f"No advice: {report.message}.")
    elif report.advised == report.requested:
        yield toned(f"Stay at {report.advised}", GOOD).append(
            f" ({report.reason}): {report.message}", style="default"
        )
    else:
        held = f", held back by {report.held_by}" if report.held_by else ""
        if report.held_by == Reason.CANARY:
            held = ", on trial: see explain"
        yield toned(f"Move to {report.advised}", WARN).append(
            f" ({report.reason}{held}): {report.message}", style="default"
        )
    if report.decision is not None:
        yield toned(f"first said {age(report.decision.time, now_s)} ago", DIM)
    for follow in report.follow:
        yield toned(f"# {follow.what}:", DIM)
        yield Text(follow.command, no_wrap=True)
