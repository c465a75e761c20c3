"""A run over the fleet as rows of a table, and as the numbers that are kept. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from statistics import median
from typing import Any

from semipd_bench.scale.api_requests import AGENTS, LEASE, OPERATOR, by_writer
from semipd_bench.scale.result import ScaleResult, Span

NUMBER_HEAD = (
    "",
    "seconds",
    "operator CPU s",
    "% of a core",
    "MB (peak)",
    "writes/s: operator, lease, agents",
    "rounds s, median / longest",
)


def scale_rows(result: ScaleResult) -> list[tuple[str, ...]]:
    """A row for each phase, then what has a number of its own."""
    nothing, restart = result.from_nothing, result.restart
    rows = [
        _row(f"from nothing: all ready in {nothing.ready_s:.0f} s", nothing.span),
        _row("steady", result.steady),
        _row(f"killed and back: converged in {restart.converged_s:.1f} s", restart.span),
        *(_row(f"half of the agents: {outage.conduct}", outage.span) for outage in result.outages),
    ]
    first, every = (
        [each for each in found if each is not None]
        for found in zip(*((each.first_s, each.all_s) for each in result.reactions), strict=True)
    )
    for name, found in (("first pod", first), ("all pods", every)):
        text = f"{median(found):.1f} / {max(found):.1f} s" if found else "never"
        rows.append((f"bad window to another split, {name}: median / worst", text, *[""] * 5))
    return rows


def _row(name: str, span: Span) -> tuple[str, ...]:
    rates = (span.writes_per_s(writer) for writer in (OPERATOR, LEASE, AGENTS))
    return (
        name,
        f"{span.seconds:.0f}",
        f"{span.operator_cpu_s:.1f}",
        f"{span.cpu_percent:.0f}",
        f"{span.rss_mb:.0f} ({span.peak_rss_mb:.0f})",
        ", ".join(f"{rate:.2f}" for rate in rates),
        f"{span.median_round_s:.1f} / {span.longest_round_s:.1f}",
    )


def scale_numbers(result: ScaleResult) -> dict[str, Any]:
    """With what each span's writes come to by writer."""
    numbers = dataclasses.asdict(result)
    spans: Sequence[tuple[dict[str, Any], Span]] = (
        (numbers["from_nothing"]["span"], result.from_nothing.span),
        (numbers["steady"], result.steady),
        (numbers["restart"]["span"], result.restart.span),
        *(
            (number["span"], outage.span)
            for number, outage in zip(numbers["outages"], result.outages, strict=True)
        ),
    )
    for number, span in spans:
        number["writes_by_writer"] = by_writer(span.writes)
    return numbers
