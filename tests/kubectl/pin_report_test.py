"""Which splits may be pinned, and when a pin is done."""

from __future__ import annotations

from typing import Any

import pytest
from fleet_objects import partition, service, service_class
from seen_services import condition, view

from semipd_core.errors import InvalidSpec
from semipd_kubectl.observe.objects import PodView, ServiceView
from semipd_kubectl.reports.pin import build_pin, check_legal, find_refusal, parse_split
from semipd_kubectl.reports.values import Split


@pytest.mark.parametrize("text", ["70", "70/", "0/50", "70/101", "a/b", "70/60/50", " 70/60", "-1/50", "٧/٨"])
def test_what_is_no_split_is_refused(text: str) -> None:
    with pytest.raises(InvalidSpec) as refused:
        parse_split(text)
    assert "1..100" in str(refused.value)


@pytest.mark.parametrize(
    ("text", "cls", "words"),
    [
        pytest.param("10/60", None, "prefill percent of 10/60: got 10, allowed: 20..100", id="prefill"),
        pytest.param("70/30", None, "decode percent of 70/30: got 30, allowed: 40..100", id="decode"),
        pytest.param(
            "90/60",
            service_class(bounds={"prefillMaxPercent": 80}),
            "got 90, allowed: 20..80 (spec.partition.bounds of team-a/chat, cut by class standard)",
            id="by the class",
        ),
    ],
)
def test_a_split_outside_the_bounds_is_refused_with_value_and_limit(text: str, cls: Any, words: str) -> None:
    with pytest.raises(InvalidSpec) as refused:
        check_legal(parse_split(text), view(cls=cls))
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("text", "isolation", "words"),
    [
        pytest.param(
            "72/60",
            "MPS",
            "got '72/60', allowed: multiples of 5 (isolation MPS); the nearest is 70/60",
            id="MPS",
        ),
        pytest.param("72/60", "Auto", "multiples of 5", id="Auto is MPS"),
        pytest.param("70/60", "GreenContext", "allowed: 20/80, 30/70,", id="disjoint pairs alone"),
        pytest.param("70/60", "Unified", "allowed: 100/100 (isolation Unified)", id="one split alone"),
    ],
)
def test_a_split_that_the_isolation_cannot_run_is_refused_with_the_nearest(
    text: str, isolation: str, words: str
) -> None:
    with pytest.raises(InvalidSpec) as refused:
        check_legal(parse_split(text), view(partition={"isolation": isolation}))
    assert words in str(refused.value)


def test_what_may_be_pinned_follows_from_what_auto_has_come_to() -> None:
    fallen = view(isolation=("GreenContext", "NoMpsBinary"))
    check_legal(parse_split("60/40"), fallen)
    with pytest.raises(InvalidSpec) as refused:
        check_legal(parse_split("70/60"), fallen)
    assert "(isolation GreenContext); the nearest is 50/50" in str(refused.value)


@pytest.mark.parametrize(
    ("text", "isolation"),
    [("70/60", "MPS"), ("100/40", "Auto"), ("60/40", "GreenContext"), ("100/100", "None")],
)
def test_a_legal_split_may_be_pinned(text: str, isolation: str) -> None:
    check_legal(parse_split(text), view(partition={"isolation": isolation}))


@pytest.mark.parametrize(
    ("changes", "done"),
    [
        pytest.param({}, True, id="granted"),
        pytest.param({"observed_decision_id": "cluster-0"}, False, id="not taken yet"),
        pytest.param({"observed_decision_id": None}, False, id="not reported"),
        pytest.param({"granted": (80, 90)}, False, id="granted something else"),
        pytest.param({"granted": None}, False, id="not read back yet"),
        pytest.param({"switching": True}, False, id="switching"),
        pytest.param(
            {"split": (70, 60), "granted": (70, 60), "band": (70, 70, 60, 60)}, False, id="not asked yet"
        ),
    ],
)
def test_a_pin_is_done_once_the_pod_follows_it_and_every_engine_has_it(
    changes: dict[str, Any], done: bool
) -> None:
    found = ServiceView(
        service=service(), pods=(PodView(name="chat-1"),), partitions={"chat-1": partition(**changes)}
    )
    report = build_pin(found, Split(prefill_percent=80, decode_percent=100), None)
    assert [pod.done for pod in report.pods] == [done]
    assert bool(report.waiting) is not done


def test_a_pod_that_leaves_is_not_waited_for() -> None:
    found = ServiceView(service=service(), pods=(PodView(name="chat-1", is_leaving=True),))
    assert build_pin(found, Split(prefill_percent=80, decode_percent=100), None).pods == []


def test_the_operators_refusal_of_a_pin_is_found() -> None:
    refused = view(conditions=(condition("Degraded", "True", "PinInvalid", "10/60 is outside"),))
    assert find_refusal(refused) == "10/60 is outside"
    assert find_refusal(view(conditions=(condition("Degraded", "True", "GpuUnhealthy"),))) is None
