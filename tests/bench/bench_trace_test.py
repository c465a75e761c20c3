from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semipd_bench.trace import (
    Limits,
    Trace,
    TraceRequest,
    bundled_trace,
    read_trace,
    repeat_second_half,
    scale,
)
from semipd_core.errors import InvalidSpec

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens"
GOOD = "2023-11-16 18:17:03.9799600,4808,10"
MOONCAKE = '{"timestamp": 3000, "input_length": 10, "output_length": 2, "hash_ids": [0]}'


def write(directory: Path, name: str, *lines: str) -> Path:
    path = directory / name
    path.write_text("\n".join(lines) + "\n")
    return path


def test_the_trace_that_ships_is_a_minute_of_code_and_a_minute_of_conversation():
    trace = read_trace(bundled_trace())
    code, conversation = trace.halves()
    assert (trace.duration_s, trace.joint_s, len(trace.requests)) == (120, 60, 559)
    assert (len(code.requests), len(conversation.requests)) == (172, 387)
    assert code.requests[0].prompt_tokens == 2868
    in_per_out = [
        sum(r.prompt_tokens for r in half.requests) / sum(r.output_tokens for r in half.requests)
        for half in (code, conversation)
    ]
    assert in_per_out[0] > 7 * in_per_out[1]


def test_the_licence_and_the_provenance_ship_with_the_trace():
    folder = bundled_trace().parent
    assert "Attribution 4.0 International" in (folder / "LICENSE").read_text()
    assert "Azure/AzurePublicDataset" in (folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("lines", "number", "wording"),
    [
        pytest.param(["A,B,C", GOOD], 1, "TIMESTAMP,ContextTokens,GeneratedTokens", id="wrong columns"),
        pytest.param([HEADER, GOOD, "2023-11-16 18:17:04.1,5"], 3, "3 fields", id="a field is missing"),
        pytest.param([HEADER, GOOD + ",7"], 2, "3 fields", id="a field too many"),
        pytest.param([HEADER, GOOD, ""], 3, "3 fields", id="an empty line"),
        pytest.param([HEADER, "yesterday,5,5"], 2, "TIMESTAMP", id="no time"),
        pytest.param([HEADER, "2023-11-16 18:17:03,5,5"], 2, "TIMESTAMP", id="no fraction of a second"),
        pytest.param([HEADER, GOOD, "2023-11-16 18:17:03.9,5,5"], 3, "not before", id="time goes back"),
        pytest.param([HEADER, "2023-11-16 18:17:04.1,-5,5"], 2, "ContextTokens", id="a negative count"),
        pytest.param([HEADER, "2023-11-16 18:17:04.1,5.5,5"], 2, "ContextTokens", id="half a token"),
        pytest.param([HEADER, "2023-11-16 18:17:04.1,5,0"], 2, "GeneratedTokens", id="no output"),
        pytest.param([HEADER, "2023-11-16 18:17:04.1,5,²"], 2, "GeneratedTokens", id="a digit that is none"),
    ],
)
def test_a_broken_line_of_an_azure_trace_is_named(tmp_path, lines, number, wording):
    with pytest.raises(InvalidSpec, match=f"t.csv line {number}: .*{wording}"):
        read_trace(write(tmp_path, "t.csv", *lines))


@pytest.mark.parametrize(
    ("line", "wording"),
    [
        pytest.param("{", "JSON object", id="no JSON"),
        pytest.param("[1]", "JSON object", id="a list"),
        pytest.param('{"timestamp": 3000, "input_length": 1}', "output_length", id="a key is missing"),
        pytest.param(
            '{"timestamp": true, "input_length": 1, "output_length": 1}', "timestamp", id="a truth value"
        ),
        pytest.param(
            '{"timestamp": 1, "input_length": 1, "output_length": 1}', "not before", id="time goes back"
        ),
    ],
)
def test_a_broken_line_of_a_mooncake_trace_is_named(tmp_path, line, wording):
    with pytest.raises(InvalidSpec, match=f"t.jsonl line 2: .*{wording}"):
        read_trace(write(tmp_path, "t.jsonl", MOONCAKE, line))


@pytest.mark.parametrize(
    "path", [pytest.param("absent.csv", id="absent file"), pytest.param("empty.csv", id="no requests")]
)
def test_a_trace_without_requests_is_refused(tmp_path, path):
    write(tmp_path, "empty.csv", HEADER)
    with pytest.raises(InvalidSpec):
        read_trace(tmp_path / path)


def test_ticks_of_mooncake_are_spread_over_three_seconds(tmp_path):
    trace = read_trace(
        write(tmp_path, "t.jsonl", MOONCAKE, MOONCAKE, MOONCAKE, MOONCAKE.replace("3000", "6000"))
    )
    assert [round(r.at_s, 6) for r in trace.requests] == [0, 1, 2, 3]


requests = st.builds(
    TraceRequest,
    at_s=st.floats(0, 99),
    prompt_tokens=st.integers(1, 10_000),
    output_tokens=st.integers(1, 2_000),
)


@given(
    st.lists(requests, min_size=1, max_size=60).map(lambda rs: tuple(sorted(rs, key=lambda r: r.at_s))),
    st.floats(0.01, 3),
    st.floats(0.01, 3),
    st.integers(8, 4096),
)
def test_scaling_keeps_times_and_order_and_stays_inside_the_context(rs, length, rate, context):
    trace = Trace(name="t", requests=rs, duration_s=100)
    limits = Limits(context_tokens=context)
    scaled = scale(trace, length_factor=length, rate_factor=rate, limits=limits)
    times = [r.at_s for r in scaled.requests]
    assert times == sorted(times)
    assert set(times) <= {r.at_s for r in rs}
    assert abs(len(times) - rate * len(rs)) <= 1
    assert all(r.prompt_tokens >= 1 and r.output_tokens >= 1 for r in scaled.requests)
    assert all(r.prompt_tokens + r.output_tokens <= context for r in scaled.requests)


def test_factors_of_one_change_nothing():
    trace = read_trace(bundled_trace())
    assert (
        scale(trace, length_factor=1, rate_factor=1, limits=Limits(prompt_min_tokens=1, output_min_tokens=1))
        == trace
    )


def test_a_second_half_that_is_repeated_keeps_the_joint_and_its_own_gaps():
    trace = read_trace(bundled_trace())
    longer = repeat_second_half(trace, 3)
    first, second = trace.halves()
    assert longer.halves()[0] == first
    assert (longer.joint_s, longer.duration_s) == (60, 240)
    assert len(longer.requests) == len(first.requests) + 3 * len(second.requests)
    for number in range(3):
        start_s = 60 + 60 * number
        again = longer.between(start_s, start_s + 60).requests
        assert [round(r.at_s, 6) for r in again] == [round(r.at_s, 6) for r in second.requests]


def test_a_second_half_played_once_is_the_trace():
    trace = read_trace(bundled_trace())
    again = repeat_second_half(trace, 1)
    assert [round(r.at_s, 6) for r in again.requests] == [round(r.at_s, 6) for r in trace.requests]
    assert again.halves()[0] == trace.halves()[0]
