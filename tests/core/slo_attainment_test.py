"""When does one request attain its SLO, and when is a miss certain?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semipd_core.slo.attainment import RequestJudge
from semipd_core.telemetry import SloTargets

SLO = SloTargets(ttft_percentile=90, ttft_ms=1000, tpot_percentile=90, tpot_ms=100)


def outcome(events, max_tokens=100):
    """All judgements of a request that arrives at 0 s; events are (method, seconds, *arguments)."""
    judge = RequestJudge(SLO, 0.0, max_tokens)
    answers = [getattr(judge, name)(now_s, *arguments) for name, now_s, *arguments in events]
    return [answer for answer in answers if answer is not None]


@pytest.mark.parametrize(
    ("events", "max_tokens", "verdict"),
    [
        pytest.param([("first_token", 1.0), ("finished", 1.0)], 1, "attained", id="one token exactly at its target attains"),
        pytest.param([("first_token", 1.01), ("finished", 1.01)], 1, "ttft", id="one late token misses TTFT"),
        pytest.param(
            [("first_token", 0.5), ("finished", 99.0)], 5, "attained", id="one token of many is judged by TTFT alone"
        ),
        pytest.param(
            [("first_token", 0.5), ("token", 0.6, 1), ("token", 0.7, 1), ("finished", 3.0)], 9, "attained",
            id="TPOT ends at the last token, not at the end of the request",
        ),
        pytest.param(
            [("first_token", 0.5), ("token", 1.01, 5), ("finished", 1.01)], 100, "tpot", id="slow tokens miss TPOT"
        ),
        pytest.param([("token", 0.5, 6), ("finished", 0.5)], 100, "attained", id="tokens may come all at once"),
        pytest.param([("check", 1.0), ("check", 1.001)], 5, "ttft", id="TTFT is missed once its target passes without a token"),
        pytest.param(
            [("first_token", 0.5), ("check", 0.9), ("check", 0.91)], 5, "tpot",
            id="TPOT is missed once even max_tokens would be late",
        ),
        pytest.param([("first_token", 0.5), ("check", 500.0)], 1, None, id="a single token cannot miss TPOT"),
        pytest.param([("failed", 0.1)], 5, "error", id="an error is missed"),
        pytest.param([("finished", 0.2)], 5, "attained", id="an end without tokens counts as the first token"),
    ],
)  # fmt: skip
def test_verdict(events, max_tokens, verdict):
    answers = outcome(events, max_tokens)
    assert sum(answer.attained for answer in answers) == (verdict == "attained")
    assert sum(answer.missed for answer in answers) == (verdict in ("ttft", "tpot", "error"))
    assert sum(answer.missed_ttft for answer in answers) == (verdict == "ttft")
    assert sum(answer.missed_tpot for answer in answers) == (verdict == "tpot")
    assert sum(answer.errored for answer in answers) == (verdict == "error")


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["first_token", "check"]), st.floats(0, 3)),
        st.tuples(st.just("token"), st.floats(0, 3), st.integers(1, 4)),
    ),
    max_size=12,
)


@given(EVENTS, st.sampled_from(["finished", "failed"]), st.integers(1, 20))
def test_every_request_is_judged_exactly_once_and_measured_at_most_once(events, end, max_tokens):
    ordered = sorted(events, key=lambda event: event[1])
    answers = outcome([*ordered, (end, 3.0), ("check", 9.0), (end, 9.0)], max_tokens)
    assert sum(answer.attained + answer.missed for answer in answers) == 1
    for field in ("missed_ttft", "missed_tpot", "completed", "errored"):
        assert sum(getattr(answer, field) for answer in answers) <= 1
    for field in ("ttft_ms", "tpot_ms"):
        assert sum(getattr(answer, field) is not None for answer in answers) <= 1


def test_a_request_that_was_late_while_open_is_still_measured():
    answers = outcome([("check", 1.5), ("first_token", 2.0), ("token", 2.05, 1), ("finished", 2.05)])
    assert [answer.ttft_ms for answer in answers if answer.ttft_ms is not None] == [2000.0]
    assert [answer.tpot_ms for answer in answers if answer.tpot_ms is not None] == [pytest.approx(50.0)]


@given(st.floats(0, 5), st.floats(0, 5), st.integers(2, 50))
def test_tpot_is_the_decode_time_over_tokens_less_one(first_s, decode_s, tokens):
    answers = outcome(
        [
            ("first_token", first_s),
            ("token", first_s + decode_s, tokens - 1),
            ("finished", first_s + decode_s),
        ],
        1000,
    )
    assert answers[-1].tpot_ms == pytest.approx(decode_s * 1000 / (tokens - 1), abs=1e-6)
