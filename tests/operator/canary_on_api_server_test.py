"""The canary, the pin, advice and pauses, as the operator writes them to a real API server."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from api_server import API_SERVER_IS_BUILT
from operator_process import Agents, Cluster, OperatorProcess, service_manifest
from played_fleet import REQUESTS, PlayedFleet, Split
from running_service import free_port

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(not API_SERVER_IS_BUILT, reason="the API server is not built: make cluster-build"),
]
START = (80, 100)
WAIT_S = 120.0


def less_prefill_helps(split: Split) -> int:
    return 5 if split == START else REQUESTS


def only_the_start_serves(split: Split) -> int:
    return 5 if split == START else 0


@contextmanager
def deployed(
    cluster: Cluster,
    agents: Agents,
    name: str,
    subnet: int,
    pods: int,
    attained: Callable[[Split], int],
    **partition: Any,
) -> Iterator[PlayedFleet]:
    """A service whose policy answers late tokens by less prefill, and its pods."""
    wanted = {"policy": "SLOFeedback", "cooldownSeconds": 0, **partition}
    cluster.apply(service_manifest(name, replicas=pods, partition=wanted))
    cluster.wait(lambda: cluster.get("Deployment", name), "the Deployment is there")
    fleet = PlayedFleet(cluster, agents, name, subnet, attained)
    for _ in range(pods):
        fleet.add()
    cluster.report_workload("Deployment", name, pods)
    try:
        yield fleet
    finally:
        fleet.close()
        cluster.delete("SemiPDService", name)


def stages(cluster: Cluster, fleet: PlayedFleet, is_done: Callable[[], object], what: str) -> list[int]:
    """How many pods ran something else than the start, each time that it changed."""
    seen = [0]

    def look() -> object:
        fleet.play()
        if len(fleet.moved()) != seen[-1]:
            seen.append(len(fleet.moved()))
        return is_done()

    cluster.wait(look, what, timeout_s=WAIT_S)
    return seen


def reasons(cluster: Cluster, name: str) -> list[str]:
    return [each["reason"] for each in cluster.status(name).get("decisions", [])]


def test_a_move_goes_to_one_pod_then_to_a_quarter_then_to_all(
    cluster: Cluster, operator: OperatorProcess, agents: Agents
) -> None:
    with deployed(cluster, agents, "widens", 1, 8, less_prefill_helps) as fleet:
        first = stages(
            cluster, fleet, lambda: cluster.status("widens").get("canary"), "a canary is under way"
        )
        trial = cluster.status("widens")["canary"]
        assert (trial["stage"], trial["pods"]) == ("OnePod", ["widens-1"])
        cluster.wait(
            lambda: cluster.conditions("widens").get("Progressing") == ("True", "Canary"),
            "a condition says so",
        )
        seen = stages(cluster, fleet, lambda: len(fleet.moved()) == 8, "all pods follow")
        counts = [count for count, _ in groupby([*first, *seen[1:]])]
        after_one = counts[counts.index(1) :]
        assert (after_one[1], after_one[-1]) == (2, 8), "the last step may be seen half-way"
        cluster.wait(lambda: "CanaryPassed" in reasons(cluster, "widens"), "it is recorded")
        status = cluster.status("widens")
        assert "canary" not in status
        assert status["requested"] == trial["partition"]
        assert status["proven"]["prefillMinPercent"] < 80
        assert {"CanaryStarted", "CanaryWidened", "SplitMoved"} <= cluster.events("widens").keys()
        labels = '{name="widens",namespace="team-a"}'
        assert operator.metric(f"semipd_service_moves_total{labels}") >= 1
        assert operator.metric(f"semipd_service_canary_roll_backs_total{labels}") == 0


def test_a_move_that_hurts_is_taken_back_and_said(
    cluster: Cluster, operator: OperatorProcess, agents: Agents
) -> None:
    with deployed(cluster, agents, "hurts", 2, 4, only_the_start_serves) as fleet:
        seen = stages(cluster, fleet, lambda: "CanaryFailed" in reasons(cluster, "hurts"), "it fails")
        assert max(seen) == 1
        stages(cluster, fleet, lambda: not fleet.moved(), "it is taken back")
        decisions = cluster.status("hurts")["decisions"]
        failed = next(each for each in decisions if each["reason"] == "CanaryFailed")
        assert failed["partition"] == {"prefillPercent": 80, "decodePercent": 100}
        assert "hurts-1: 0.0 % of " in failed["message"]
        assert "the others 50.0 % of " in failed["message"]
        event = cluster.wait(lambda: cluster.events("hurts").get("CanaryFailed"), "an Event says so")
        assert (event["type"], "is taken back to (80, 100)" in event["note"]) == ("Warning", True)
        labels = '{name="hurts",namespace="team-a"}'
        assert operator.metric(f"semipd_service_canary_roll_backs_total{labels}") >= 1


def test_a_pin_is_asked_of_all_pods_and_its_end_lets_the_loop_go_on(
    cluster: Cluster, operator: OperatorProcess, agents: Agents
) -> None:
    with deployed(cluster, agents, "pinned", 4, 3, lambda _: REQUESTS) as fleet:
        stages(cluster, fleet, lambda: len(fleet.running()) == 3, "the pods run")
        cluster.annotate("pinned", pinned_split="70/60")
        stages(cluster, fleet, lambda: fleet.running() == [(70, 60)] * 3, "all run the pin")
        band = cluster.get("SemiPDPartition", "pinned-1")["spec"]["band"]
        assert band == {
            "prefillMinPercent": 70,
            "prefillMaxPercent": 70,
            "decodeMinPercent": 60,
            "decodeMaxPercent": 60,
        }
        cluster.wait(lambda: "Pinned" in reasons(cluster, "pinned"), "it is recorded")
        cluster.annotate("pinned", pinned_split="7/60")
        cluster.wait(
            lambda: cluster.conditions("pinned").get("Degraded") == ("True", "PinInvalid"), "it is no split"
        )
        message = next(
            each["message"] for each in cluster.status("pinned")["conditions"] if each["type"] == "Degraded"
        )
        assert "7/60" in message
        assert "prefill 20..100, decode 40..100" in message
        fleet.play()
        assert fleet.running() == [(70, 60)] * 3
        cluster.annotate("pinned", pinned_split=None)
        cluster.wait(lambda: "Unpinned" in reasons(cluster, "pinned"), "the loop goes on")
        cluster.wait(
            lambda: cluster.conditions("pinned").get("Degraded") == ("False", "Healthy"), "nothing is wrong"
        )
        assert cluster.status("pinned")["requested"] == {"prefillPercent": 70, "decodePercent": 60}
        cluster.wait(
            lambda: cluster.get("SemiPDPartition", "pinned-1")["spec"]["band"]["prefillMinPercent"] == 55,
            "the agents have room again",
        )


def test_advice_is_written_to_the_status_and_nowhere_else(
    cluster: Cluster, operator: OperatorProcess, agents: Agents
) -> None:
    with deployed(cluster, agents, "advised", 5, 2, less_prefill_helps, mode="Advisory") as fleet:
        stages(cluster, fleet, lambda: len(fleet.running()) == 2, "the pods run")
        before = fleet.versions()
        stages(
            cluster,
            fleet,
            lambda: any(
                each["reason"] == "Advisory" and each["partition"]["prefillPercent"] < 80
                for each in cluster.status("advised").get("decisions", [])
            ),
            "it advises less prefill",
        )
        advice = cluster.status("advised")["decisions"][0]
        assert "attainment 50.0 % of" in advice["message"]
        fleet.add()
        stages(cluster, fleet, lambda: len(fleet.running()) == 3, "a new pod has its partition")
        assert fleet.running() == [START] * 3
        assert fleet.versions()[:2] == before


def test_a_pause_writes_nothing_but_the_status(
    cluster: Cluster, operator: OperatorProcess, agents: Agents
) -> None:
    with deployed(cluster, agents, "paused", 6, 2, lambda _: REQUESTS) as fleet:
        stages(cluster, fleet, lambda: len(fleet.running()) == 2, "the pods run")
        cluster.annotate("paused", paused="true")
        cluster.wait(
            lambda: cluster.conditions("paused").get("Progressing") == ("Unknown", "Paused"),
            "a condition says so",
        )
        cluster.delete("Service", "paused")
        cluster.annotate("paused", pinned_split="70/60")
        cluster.wait(
            lambda: cluster.status("paused").get("requested", {}).get("prefillPercent") == 70,
            "the pin was seen",
        )
        fleet.add()
        rounds = operator.metric("semipd_operator_turns") + 3
        cluster.annotate("paused", touched="once")
        cluster.wait(lambda: operator.metric("semipd_operator_turns") >= rounds, "the operator has looked")
        assert cluster.get("Service", "paused") is None
        assert cluster.get("SemiPDPartition", "paused-3") is None
        assert fleet.running() == [START] * 2
        cluster.annotate("paused", paused=None)
        stages(cluster, fleet, lambda: fleet.running() == [(70, 60)] * 3, "what waited is done")
        cluster.wait(lambda: cluster.get("Service", "paused"), "children come back")


def test_an_operator_that_dies_in_the_middle_is_taken_over_from(
    kubeconfig: Path, cluster: Cluster, operator: OperatorProcess, agents: Agents, tmp_path: Path
) -> None:
    with deployed(cluster, agents, "survives", 3, 8, less_prefill_helps) as fleet:
        stages(cluster, fleet, lambda: len(fleet.moved()) == 1, "one pod tries it")
        os.kill(operator.process.pid, signal.SIGKILL)
        operator.process.wait(10)
        trial = cluster.status("survives")["canary"]
        with OperatorProcess(kubeconfig, tmp_path, agents.port, free_port(), "heir") as heir:
            cluster.wait(lambda: "leads" in heir.log(), "the heir leads", timeout_s=60)
            seen = stages(cluster, fleet, lambda: len(fleet.moved()) == 8, "all pods follow")
            assert next(count for count in seen if count > 1) == 2, "a quarter of them first"
            assert {pod.followed_id for pod in fleet.pods} == {trial["decisionID"]}
