import pytest
from hypothesis import given
from hypothesis import strategies as st

from semipd_bench.chart import Chart, Point, Series, render, ticks


@given(st.floats(1e-3, 1e6))
def test_ticks_are_round_start_at_zero_and_stay_on_the_axis(top):
    found = ticks(top)
    assert found[0] == 0
    assert 2 <= len(found) <= 6
    assert found[-1] <= top * (1 + 1e-9)


@pytest.mark.parametrize(
    ("values", "target", "expected"),
    [
        pytest.param([10, 50], None, 53, id="fits the data"),
        pytest.param([10], 100, 106, id="shows the target"),
        pytest.param([10_000], 100, 318, id="an outlier does not flatten the rest"),
        pytest.param([], None, 0, id="no data"),
    ],
)
def test_top_of_the_axis(values, target, expected):
    points = [Point(at_s=i, y=v) for i, v in enumerate(values)]
    chart = Chart(
        title="t", unit="ms", duration_s=10, target=target,
        series=[Series(name="s", points=points, style="x", kind="line")],
    )  # fmt: skip
    assert chart.top() == pytest.approx(expected, abs=1e-6)


def test_a_gap_breaks_a_line_and_a_step_keeps_its_level():
    points = [Point(at_s=0, y=1), Point(at_s=5, y=None), Point(at_s=6, y=2), Point(at_s=10, y=4)]
    series = [Series(name=kind, points=points, style=kind, kind=kind) for kind in ("line", "step")]
    text = render(Chart(title="a < b", unit="", duration_s=10, series=series, y_max=4))
    line, step = (part.split('"')[0] for part in text.split(' d="')[1:])
    assert line.count("M") == 2
    assert line.count("L") == 1
    assert "H" in step
    assert "V" in step
    assert "a &lt; b" in text
