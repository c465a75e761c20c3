"""What `status` says of objects: conditions that block, pods, and what is not known."""

from __future__ import annotations

import pytest
from fleet_objects import partition, service
from seen_services import NOW_S, condition, view

from semipd_kubectl.draw.explain import pod_sentence
from semipd_kubectl.draw.status import draw_service
from semipd_kubectl.observe.objects import PodView, ServiceView
from semipd_kubectl.reports.conditions import find_blocking
from semipd_kubectl.reports.explain import build_explanation
from semipd_kubectl.reports.status import build_service
from semipd_kubectl.reports.values import Split, age


@pytest.mark.parametrize(
    ("conditions", "blocking"),
    [
        pytest.param([("Ready", "True"), ("SLOMet", "True"), ("Degraded", "False")], [], id="all is well"),
        pytest.param([("Degraded", "True")], ["Degraded"], id="degraded is bad when it is true"),
        pytest.param([("SLOMet", "Unknown")], [], id="what is not known blocks nothing"),
        pytest.param(
            [("Ready", "False"), ("EnginesReady", "False")], ["EnginesReady"], id="ready repeats another"
        ),
        pytest.param([("Ready", "False")], ["Ready"], id="ready alone counts"),
        pytest.param([("Progressing", "True", "RollingOut")], [], id="a rollout is no fault"),
        pytest.param([("Progressing", "True", "CannotSurge")], ["Progressing"], id="a stuck rollout is one"),
        pytest.param([("Novel", "False")], [], id="a type of a later release has no known polarity"),
    ],
)
def test_conditions_that_block(conditions: list[tuple[str, ...]], blocking: list[str]) -> None:
    assert [each.type for each in find_blocking(condition(*each) for each in conditions)] == blocking


def test_a_pod_shows_what_it_was_asked_for_beside_what_its_engines_were_granted() -> None:
    found = ServiceView(
        service=service(),
        pods=(PodView(name="chat-1", is_ready=True), PodView(name="chat-2", problem="Unschedulable: no GPU")),
        partitions={"chat-1": partition(granted=(60, 100), observed_decision_id="cluster-0", switching=True)},
    )
    first, second = build_service(found).pods
    assert first.asked == Split(prefill_percent=80, decode_percent=100)
    assert first.engines[0].granted == Split(prefill_percent=60, decode_percent=100)
    assert (first.taken, first.engines[0].switching) == (False, "Preparing")
    assert (second.asked, second.engines, second.state) == (None, [], "NotReady")


def test_what_is_not_known_of_the_slo_is_null_and_not_zero() -> None:
    found = build_service(view())
    assert found.slo.attainment_permille is None
    assert found.slo.ttft.attained_milliseconds is None
    assert found.slo.needed_permille == 900


@pytest.mark.parametrize(
    ("isolation", "said"),
    [
        pytest.param(("MPS", "ProbePassed"), None, id="what it prefers"),
        pytest.param(("None", "MpsGivenUp"), "isolation None (MpsGivenUp)", id="what was left"),
    ],
)
def test_a_pod_that_fell_back_says_to_what_and_why(isolation: tuple[str, str], said: str | None) -> None:
    found = view(isolation=isolation)
    [pod] = build_service(found).pods
    assert (pod.isolation, pod.isolation_reason, pod.fallen_back) == (*isolation, said)
    [drawn] = [
        str(each.label)
        for each in draw_service(build_service(found), 0.0).children
        if "chat-1" in str(each.label)
    ]
    assert ((said or "isolation") in drawn) is (said is not None)
    [explained] = build_explanation(found, None, 0.0).pods
    assert ((said or "isolation") in str(pod_sentence(explained))) is (said is not None)


@pytest.mark.parametrize(
    ("time", "words"),
    [
        ("2026-11-21T11:59:50Z", "10s"),
        ("2026-11-21T11:58:01Z", "119s"),
        ("2026-11-21T11:57:00.5Z", "3m"),
        ("2026-11-20T12:00:00Z", "24h"),
        ("2026-11-01T12:00:00Z", "20d"),
        ("2026-11-21T12:00:09Z", "0s"),
        ("yesterday", "?"),
        (None, "?"),
    ],
)
def test_ages_are_short(time: str | None, words: str) -> None:
    assert age(time, NOW_S) == words
