"""What status, explain, advise and pin say of objects: tables."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from fleet_objects import partition, service, service_class

from semipd_core.api.conditions import Condition, ConditionStatus
from semipd_core.api.fields import PartitionSplit
from semipd_core.api.service import DecisionRecord, ServiceStatus, SloStatus
from semipd_core.errors import InvalidSpec
from semipd_kubectl.draw.explain import pod_sentence
from semipd_kubectl.draw.status import draw_service
from semipd_kubectl.observe.objects import (
    PAUSE_ANNOTATION,
    PIN_ANNOTATION,
    PodView,
    ServiceView,
    build_fleet,
    read_partition,
    read_pod,
)
from semipd_kubectl.reports.advise import build_advice
from semipd_kubectl.reports.conditions import find_blocking
from semipd_kubectl.reports.explain import build_explanation
from semipd_kubectl.reports.pin import build_pin, check_legal, find_refusal, parse_split
from semipd_kubectl.reports.status import build_service
from semipd_kubectl.reports.values import Split, age, unix_s

NOW = "2026-11-21T12:00:00Z"
NOW_S = unix_s(NOW)
assert NOW_S is not None


def split(prefill: int, decode: int) -> PartitionSplit:
    return PartitionSplit(prefill_percent=prefill, decode_percent=decode)


def decision(
    time: str, at: tuple[int, int], reason: str = "SLOMet", message: str = "", *, moves: bool = False
) -> DecisionRecord:
    """`moves`: it is one of the loop's own moves, which its id says."""
    at_s = unix_s(time)
    assert at_s is not None
    return DecisionRecord(
        time=time,
        decision_id=f"cluster-{round(1000 * at_s)}" if moves else "cluster-initial",
        partition=split(*at),
        reason=reason,
        message=message,
    )


def condition(kind: str, status: str, reason: str = "Reason", message: str = "") -> Condition:
    return Condition(type=kind, status=ConditionStatus(status), reason=reason, message=message)


def view(
    *,
    decisions: tuple[DecisionRecord, ...] = (),
    conditions: tuple[Condition, ...] = (),
    requested: tuple[int, int] | None = (65, 90),
    annotations: dict[str, str] | None = None,
    cls: Any = None,
    isolation: tuple[str, str] | None = None,
    **spec: Any,
) -> ServiceView:
    """`isolation`: what that of its pod has come to, and why; None: it has no pod."""
    found = service(annotations=annotations, **spec)
    status = ServiceStatus(
        requested=split(*requested) if requested else None, decisions=decisions, conditions=conditions
    )
    pods = {} if isolation is None else {"chat-1": partition(isolation=isolation)}
    return ServiceView(
        service=replace(found, status=status),
        cls=cls,
        pods=tuple(PodView(name=name, node="n1", is_ready=True) for name in pods),
        partitions=pods,
    )


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
    ("given", "kinds"),
    [
        pytest.param({"decisions": (decision(NOW, (65, 90)),)}, [], id="nothing holds it back"),
        pytest.param({"decisions": ()}, ["NoDecision"], id="no decision yet"),
        pytest.param(
            {
                "decisions": (
                    decision("2026-11-21T11:59:50Z", (65, 90), moves=True),
                    decision("2026-11-21T11:00:00Z", (80, 90)),
                )
            },
            ["Cooldown"],
            id="a move ten seconds ago, with thirty of cooldown",
        ),
        pytest.param(
            {
                "decisions": (
                    decision("2026-11-21T11:59:50Z", (65, 90)),
                    decision("2026-11-21T11:00:00Z", (65, 90)),
                )
            },
            [],
            id="a hold is no move and starts no cooldown",
        ),
        pytest.param(
            {"decisions": (decision(NOW, (65, 90), "NoData", "no fresh report"),)}, ["NoData"], id="no data"
        ),
        pytest.param({"partition": {"mode": "Static"}}, ["Static"], id="static"),
        pytest.param({"partition": {"mode": "Advisory"}}, ["Advisory"], id="advisory"),
        pytest.param(
            {
                "annotations": {PAUSE_ANNOTATION: "true", PIN_ANNOTATION: "70/60"},
                "partition": {"mode": "Static"},
            },
            ["Paused", "Pinned", "Static"],
            id="paused before pinned before static",
        ),
        pytest.param(
            {
                "decisions": (decision(NOW, (65, 90)),),
                "conditions": (condition("Degraded", "True", "PinInvalid"),),
            },
            ["PinInvalid"],
            id="degraded",
        ),
        pytest.param(
            {"decisions": (decision(NOW, (20, 90)),), "requested": (20, 90)},
            ["Bounds"],
            id="at the lower bound",
        ),
        pytest.param(
            {"decisions": (decision(NOW, (65, 100)),), "requested": (65, 100)},
            [],
            id="the whole device is no bound that somebody has set",
        ),
        pytest.param(
            {
                "decisions": (
                    decision("2026-11-21T11:50:00Z", (65, 90), moves=True),
                    decision("2026-11-21T11:00:00Z", (80, 90)),
                ),
                "cls": service_class(maxSwitchesPerHour=1),
            },
            ["MovesSpent"],
            id="the moves of its class are spent",
        ),
    ],
)
def test_what_holds_the_loop_back(given: dict[str, Any], kinds: list[str]) -> None:
    assert [hold.kind for hold in build_explanation(view(**given), None, NOW_S).holds] == kinds


def test_the_bounds_in_force_are_those_of_the_service_cut_by_its_class() -> None:
    cut = service_class(bounds={"prefillMinPercent": 30, "decodeMaxPercent": 80})
    found = build_explanation(view(cls=cut), None, NOW_S)
    assert str(found.bounds_in_force) == "prefill 30..100 %, decode 40..80 %"
    assert str(found.bounds) == "prefill 20..100 %, decode 40..100 %"


ADVICE = "the policy says (60, 100) (TPOTMissed): TPOT p90 71 of 60 ms"


def test_advice_is_followed_by_a_pin_that_replaces_no_pod() -> None:
    found = build_advice(
        view(
            decisions=(decision(NOW, (80, 100), "Advisory", ADVICE),),
            requested=(80, 100),
            partition={"mode": "Advisory"},
        )
    )
    assert (found.advised, found.reason, found.held_by) == (
        Split(prefill_percent=60, decode_percent=100),
        "TPOTMissed",
        "Advisory",
    )
    assert found.follow[0].command == (
        "kubectl patch semipdservice chat -n team-a --type merge "
        """-p '{"metadata":{"annotations":{"semipd.io/pinned-split":"60/100"}}}'"""
    )


@pytest.mark.parametrize(
    ("given", "advised", "commands"),
    [
        pytest.param({"decisions": (decision(NOW, (65, 90)),)}, "65/90", 0, id="the decision in force"),
        pytest.param(
            {"decisions": (decision(NOW, (65, 90), "Cooldown", ADVICE),)}, "60/100", 1, id="held back"
        ),
        pytest.param({"partition": {"mode": "Static"}}, None, 1, id="static has none"),
        pytest.param({"partition": {"mode": "Advisory"}}, None, 0, id="nothing decided yet"),
    ],
)
def test_what_is_advised(given: dict[str, Any], advised: str | None, commands: int) -> None:
    found = build_advice(view(**given))
    assert (None if found.advised is None else str(found.advised)) == advised
    assert len(found.follow) == commands


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


def raw_service(name: str, **changes: Any) -> dict[str, Any]:
    return {
        "apiVersion": "semipd.io/v1alpha1",
        "kind": "SemiPDService",
        "metadata": {"name": name, "namespace": "team-a", "labels": {}},
        "spec": {"model": {"uri": "builtin://smollm2-135m"}},
        **changes,
    }


def test_a_field_of_a_later_release_is_left_out_and_a_value_of_one_hides_no_other_service() -> None:
    newer = raw_service("newer", status={"replicas": 2, "novel": 1, "slo": {"novel": {"deep": 1}}})
    broken = raw_service("broken", spec={"model": {"uri": "builtin://smollm2-135m"}, "placement": "Novel"})
    fleet = build_fleet([newer, broken], [], [], [])
    assert [each.name for each in fleet.services] == ["newer"]
    assert fleet.services[0].service.status == ServiceStatus(replicas=2, slo=SloStatus())
    assert len(fleet.unreadable) == 1
    assert "spec.placement: got 'Novel'" in fleet.unreadable[0]


def test_pods_and_partitions_belong_by_namespace_and_label() -> None:
    def pod(name: str, namespace: str, of: str) -> dict[str, Any]:
        metadata = {"name": name, "namespace": namespace, "labels": {"semipd.io/service": of}}
        return {"metadata": metadata, "spec": {"containers": []}}

    pods = [pod("a", "team-a", "chat"), pod("b", "team-b", "chat"), pod("c", "team-a", "code")]
    fleet = build_fleet([raw_service("chat")], pods, [], [])
    assert [each.name for each in fleet.services[0].pods] == ["a"]


def test_the_agents_port_is_the_one_that_the_pod_names() -> None:
    ports = [{"name": "http", "containerPort": 8000}, {"name": "agent", "containerPort": 9001}]
    found = {"metadata": {"name": "a"}, "spec": {"containers": [{"name": "engine", "ports": ports}]}}
    assert read_pod(found).agent_port == 9001
    assert read_pod({"metadata": {"name": "a"}, "spec": {"containers": []}}).agent_port == 8001


def test_a_class_that_may_not_be_read_leaves_the_services_own_bounds() -> None:
    found = build_fleet([raw_service("chat")], [], [], None).services[0]
    assert found.class_spec is None
    assert found.bounds.prefill_min_percent == 20
    assert build_explanation(found, None, NOW_S).max_moves_per_hour is None
    assert build_explanation(replace(found, is_class_known=True), None, NOW_S).max_moves_per_hour == 12


def test_a_partition_of_a_later_release_is_read() -> None:
    given = {
        "apiVersion": "semipd.io/v1alpha1",
        "kind": "SemiPDPartition",
        "metadata": {"name": "chat-1"},
        "spec": {"target": {"prefillPercent": 80, "decodePercent": 90, "novel": 1}, "decisionID": "x"},
    }
    assert read_partition(given).spec.target == split(80, 90)


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
