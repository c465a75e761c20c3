import pytest
from hypothesis import given
from hypothesis import strategies as st

from semipd_bench.load import Target
from semipd_bench.measure import MeasurementFailed, build_model, fit_line, measure_machine


@given(
    st.floats(0, 500), st.floats(0.01, 50), st.lists(st.integers(1, 500), min_size=2, max_size=8, unique=True)
)
def test_a_line_is_found_again(base, slope, xs):
    line = fit_line([(x, base + slope * x) for x in xs])
    assert line.base == pytest.approx(base, abs=1e-3 * (1 + base + slope * max(xs)))
    assert line.slope == pytest.approx(slope, rel=1e-3, abs=1e-3 * (1 + base))


@pytest.mark.parametrize(
    ("points", "base", "slope"),
    [
        pytest.param([(1, 80), (8, 60)], 70, 0, id="more rows that seem faster cost nothing extra"),
        pytest.param([(100, 10), (200, 220)], 0, 0.9, id="no step takes less than nothing"),
        pytest.param([(4, 50)], 50, 0, id="one point is a constant"),
    ],
)
def test_a_line_that_makes_no_sense_is_bent(points, base, slope):
    line = fit_line(points)
    assert (line.base, line.slope) == pytest.approx((base, slope))


def test_the_model_gives_back_what_was_measured():
    model = build_model(
        [(16, 40 + 16 * 2.0), (128, 40 + 128 * 2.0)],
        [(1, 55), (8, 90)],
        engines=2,
        chunk_tokens=128,
        max_rows=32,
    )
    assert model.overhead_ms + model.prefill_ms(128) == pytest.approx(296, rel=0.1)
    assert model.decode_ms(1) == pytest.approx(55)
    assert model.decode_ms(8) == pytest.approx(90)


async def test_a_live_service_is_measured_through_its_http(fake_openai):
    fake_openai.ttft_s, fake_openai.tpot_s = 0.05, 0.02
    said = []
    async with fake_openai.serve():
        target = Target(url=fake_openai.url, model="m", vocabulary_tokens=1000)
        model = await measure_machine(target, engines=2, chunk_tokens=128, max_rows=8, say=said.append)
    assert model.decode_ms(1) >= 20
    assert model.overhead_ms + model.prefill_ms(16) >= 45
    assert model.engines == 2
    assert "decode step 1 rows" in said[0]


async def test_a_service_that_refuses_is_not_measured(fake_openai):
    fake_openai.refuse_every = 1
    async with fake_openai.serve():
        target = Target(url=fake_openai.url, model="m", vocabulary_tokens=1000)
        with pytest.raises(MeasurementFailed, match="HTTP 429"):
            await measure_machine(target, engines=1, chunk_tokens=128, max_rows=8, say=print)
