"""Time charts as inline SVG: no libraries, no assets; colours come from the page's style sheet. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

WIDTH, HEIGHT = 920.0, 150.0
LEFT, RIGHT, TOP, BOTTOM = 62.0, 12.0, 8.0, 22.0
NICE_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """`y` None breaks a line. `label` is shown under the mouse."""

    at_s: float
    y: float | None
    label: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """`style` is a CSS class of the page."""

    name: str
    points: Sequence[Point]
    style: str
    kind: Literal["line", "step", "dots"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A vertical line through a chart."""

    at_s: float
    label: str
    style: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """`target` is a horizontal line; `y_max` None fits the data (dots beyond twice the target are drawn at the top)."""

    title: str
    unit: str
    series: Sequence[Series]
    duration_s: float
    marks: Sequence[Mark] = ()
    target: float | None = None
    y_max: float | None = None

    def top(self) -> float:
        """The axis' upper end."""
        if self.y_max is not None:
            return self.y_max
        values = [p.y for s in self.series for p in s.points if p.y is not None]
        highest = max([*values, self.target or 0.0, 1e-9])
        if self.target:
            highest = min(highest, 3 * self.target)
        return highest * 1.06


def render(chart: Chart) -> str:
    """One `<figure>` with a caption and a legend."""
    top = chart.top()
    parts = [
        (
            f'<figure><figcaption><strong>{escape(chart.title)}</strong> <span class="unit">{escape(chart.unit)}</span>'
            f"{_legend(chart)}</figcaption>"
        ),
        (
            f'<svg viewBox="0 0 {WIDTH:.0f} {HEIGHT:.0f}" role="img" aria-label="{escape(chart.title)}" '
            f'data-left="{LEFT}" data-right="{RIGHT}" data-seconds="{chart.duration_s}">'
        ),
        *_axes(chart, top),
        *(_mark(m, chart.duration_s) for m in chart.marks),
    ]
    if chart.target is not None:
        y = _y(chart.target, top)
        parts.append(f'<line class="target" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
    parts.extend(_dots(s, chart, top) if s.kind == "dots" else _line(s, chart, top) for s in chart.series)
    parts.append("</svg></figure>")
    return "\n".join(parts)


def ticks(top: float, count: int = 4) -> list[float]:
    """Round values from 0 to at most `top`, at least two and about `count` of them."""
    rough = top / count
    magnitude = 10.0 ** _floor_log10(rough)
    step = next(s * magnitude for s in NICE_STEPS if s * magnitude >= rough * 0.999)
    return [step * i for i in range(int(top / step + 1e-9) + 1)]


def _floor_log10(value: float) -> int:
    exponent = 0
    while value >= 10:
        value, exponent = value / 10, exponent + 1
    while value < 1:
        value, exponent = value * 10, exponent - 1
    return exponent


def _x(at_s: float, duration_s: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * min(max(at_s / duration_s, 0.0), 1.0)


def _y(value: float, top: float) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * min(max(value / top, 0.0), 1.0)


def _axes(chart: Chart, top: float) -> list[str]:
    parts = []
    for value in ticks(top):
        y = _y(value, top)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:,g}</text>')
    for second in ticks(chart.duration_s, 8):
        x = _x(second, chart.duration_s)
        parts.append(
            f'<text class="tick" x="{x:.1f}" y="{HEIGHT - 6}" text-anchor="middle">{second:g} s</text>'
        )
    return parts


def _mark(mark: Mark, duration_s: float) -> str:
    x = _x(mark.at_s, duration_s)
    return (
        f'<line class="mark {mark.style}" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}">'
        f"<title>{escape(mark.label)}</title></line>"
    )


def _dots(series: Series, chart: Chart, top: float) -> str:
    dots = (
        f'<circle cx="{_x(p.at_s, chart.duration_s):.1f}" cy="{_y(p.y, top):.1f}" r="2.6">'
        f"<title>{escape(p.label)}</title></circle>"
        for p in series.points
        if p.y is not None
    )
    return f'<g class="dots {series.style}">{"".join(dots)}</g>'


def _line(series: Series, chart: Chart, top: float) -> str:
    commands: list[str] = []
    previous: float | None = None
    for point in series.points:
        if point.y is None:
            previous = None
            continue
        x, y = _x(point.at_s, chart.duration_s), _y(point.y, top)
        if previous is None:
            commands.append(f"M{x:.1f} {y:.1f}")
        elif series.kind == "step":
            commands.append(f"H{x:.1f}V{y:.1f}")
        else:
            commands.append(f"L{x:.1f} {y:.1f}")
        previous = y
    return f'<path class="line {series.style}" d="{"".join(commands)}"/>'


def _legend(chart: Chart) -> str:
    items = [f'<span class="key {s.style} {s.kind}">{escape(s.name)}</span>' for s in chart.series]
    if chart.target is not None:
        items.append(f'<span class="key target">target {chart.target:g}</span>')
    return f'<span class="legend">{"".join(items)}</span>'
