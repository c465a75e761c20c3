"""Lines of logs: read, merged in order of time, shown."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semipd_kubectl.logs.lines import LogLine, json_text, parse_line, readable
from semipd_kubectl.logs.merge import Reorder, merge
from semipd_kubectl.logs.streams import Extent, containers_of

STAMP = "2026-11-21T12:00:00.123456789Z"
STAMP_NS = 1795262400_123456789


def line(time_ns: int, pod: str = "chat-1", text: str = "x") -> LogLine:
    return LogLine(time_ns=time_ns, time="", pod=pod, container="engine", text=text)


@pytest.mark.parametrize(
    ("raw", "time_ns", "text"),
    [
        pytest.param(f"{STAMP} hello", STAMP_NS, "hello", id="nanoseconds"),
        pytest.param("2026-11-21T12:00:00.5Z hello", 1795262400_500000000, "hello", id="a short fraction"),
        pytest.param("2026-11-21T12:00:00Z ", 1795262400_000000000, "", id="an empty line"),
        pytest.param(
            "2026-11-21T14:00:00+02:00  two", 1795262400_000000000, " two", id="another zone, and a space"
        ),
        pytest.param("no time", 0, "no time", id="no time"),
    ],
)
def test_a_line_is_split_into_time_and_text(raw: str, time_ns: int, text: str) -> None:
    found = parse_line(raw, "chat-1", "engine")
    assert (found.time_ns, found.text) == (time_ns, text)


def test_a_line_of_our_processes_is_readable_and_complete() -> None:
    said = {
        "process": "agent",
        "pid": 7,
        "level": "warning",
        "event": "switch begins",
        "to": "(65, 100)",
        "n": 3,
    }
    shown = readable(parse_line(f"{STAMP} {json.dumps(said)}", "chat-1", "engine"), 8).plain
    assert shown == '12:00:00.123 chat-1   agent       WARNING switch begins to="(65, 100)" n=3'


def test_an_exception_keeps_its_lines() -> None:
    said = {"process": "agent", "level": "error", "event": "fell", "exception": "Traceback\n  here"}
    shown = readable(parse_line(f"{STAMP} {json.dumps(said)}", "chat-1", "engine"), 6).plain
    assert shown.endswith("ERROR   fell\n    Traceback\n      here")


@pytest.mark.parametrize("text", ["plain", "{broken", "[1]", '{"no": "event"}', ""])
def test_other_text_is_shown_as_it_is(text: str) -> None:
    assert (
        readable(parse_line(f"{STAMP} {text}", "chat-1", "engine"), 6).plain == f"12:00:00.123 chat-1 {text}"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"event": "a", "pod": "another"}', {"event": "a", "pod": "chat-1"}),
        ("plain", {"line": "plain", "pod": "chat-1"}),
    ],
)
def test_a_json_line_says_whose_it_is(text: str, expected: dict[str, str]) -> None:
    found = json.loads(json_text(parse_line(f"{STAMP} {text}", "chat-1", "engine")))
    assert found == {**expected, "container": "engine", "time": STAMP}


streams = st.lists(st.lists(st.integers(1, 50)), max_size=5)


@given(streams)
def test_merging_loses_nothing_and_keeps_each_streams_order(times: list[list[int]]) -> None:
    given_streams = [
        [line(time, pod=f"p{number}", text=str(index)) for index, time in enumerate(stream)]
        for number, stream in enumerate(times)
    ]
    merged = list(merge(given_streams))
    for number, stream in enumerate(given_streams):
        assert [each.text for each in merged if each.pod == f"p{number}"] == [each.text for each in stream]
    assert len(merged) == sum(map(len, times))


@given(st.lists(st.lists(st.integers(1, 50)).map(sorted), max_size=5))
def test_merged_streams_in_order_are_in_order(times: list[list[int]]) -> None:
    merged = [each.time_ns for each in merge([[line(time) for time in stream] for stream in times])]
    assert merged == sorted(merged)


def test_a_line_without_a_time_stays_behind_the_one_before_it() -> None:
    first = [line(10, "a", "1"), line(0, "a", "2"), line(30, "a", "3")]
    assert [each.text for each in merge([first, [line(20, "b", "x")]])] == ["1", "2", "x", "3"]


def test_an_older_line_that_comes_a_little_late_still_comes_first() -> None:
    held = Reorder(0.5)
    held.push(line(20, text="younger"), 0.0)
    held.push(line(10, text="older"), 0.2)
    assert list(held.pop(0.5)) == []
    assert held.due_s == pytest.approx(0.7)
    assert [each.text for each in held.pop(0.7)] == ["older", "younger"]
    assert held.due_s is None


@given(st.lists(st.tuples(st.integers(0, 100), st.floats(0, 10))))
def test_nothing_that_is_held_is_lost(arrivals: list[tuple[int, float]]) -> None:
    held = Reorder(0.5)
    for time_ns, now_s in arrivals:
        held.push(line(time_ns), now_s)
    assert sorted(each.time_ns for each in held.pop(11.0)) == sorted(time for time, _ in arrivals)


@pytest.mark.parametrize(
    ("extent", "query"),
    [
        (Extent(), {}),
        (Extent(tail=5, since_s=90.0), {"tailLines": "5", "sinceSeconds": "90"}),
        (Extent(since_s=0.2), {"sinceSeconds": "1"}),
        (Extent(since_time="2026-11-21T12:00:00Z", since_s=5), {"sinceTime": "2026-11-21T12:00:00Z"}),
        (Extent(tail=0), {"tailLines": "0"}),
    ],
)
def test_how_much_of_the_past_is_asked_for(extent: Extent, query: dict[str, str]) -> None:
    assert extent.query() == query


@pytest.mark.parametrize(
    ("state", "waits", "is_over"),
    [
        ({"running": {}}, None, False),
        ({"terminated": {}}, None, True),
        ({"waiting": {"reason": "ImagePullBackOff"}}, "ImagePullBackOff", False),
        (None, "not started", False),
    ],
)
def test_which_containers_have_a_log(
    state: dict[str, object] | None, waits: str | None, is_over: bool
) -> None:
    statuses = [] if state is None else [{"name": "engine", "state": state, "restartCount": 2}]
    pod = {
        "metadata": {"name": "chat-1", "uid": "u"},
        "spec": {"containers": [{"name": "engine"}]},
        "status": {"containerStatuses": statuses},
    }
    (found,) = containers_of(pod)
    assert (found.waits, found.is_over) == (waits, is_over)
