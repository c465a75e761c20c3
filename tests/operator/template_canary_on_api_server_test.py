"""A new pod template, tried first: a real API server and Kubernetes' own Deployment controller, with pods played by the test."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from api_server import API_SERVER_IS_BUILT, control_plane_with_crds
from lightkube.types import PatchType
from operator_process import NAMESPACE, Agents, Cluster, OperatorProcess, service_manifest
from played_pods import PlayedPods, Pod
from running_service import free_port

from semipd_cluster import controllers
from semipd_cluster.control_plane import ControlPlane
from semipd_cluster.processes import running
from semipd_operator import kinds
from semipd_operator.plan.naming import TEMPLATE_ANNOTATION, selector

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(500),
    pytest.mark.skipif(not API_SERVER_IS_BUILT, reason="the API server is not built: make cluster-build"),
]
MANAGER = "kube-controller-manager"
SUBNETS = iter(range(40, 250))


@pytest.fixture(scope="module")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with contextlib.ExitStack() as started:
        api = started.enter_context(control_plane_with_crds(tmp_path_factory.mktemp("api-server")))
        flag = "--controllers=deployment-controller,replicaset-controller"
        started.enter_context(running(MANAGER, [*controllers.build_commands(api)[MANAGER], flag], api.logs))
        yield api


@pytest.fixture(scope="module")
def kubeconfig(control_plane: ControlPlane) -> Path:
    return control_plane.kubeconfig


@contextmanager
def deployed(
    cluster: Cluster, agents: Agents, name: str, replicas: int, **rollout: int
) -> Iterator[PlayedPods]:
    """A service of the model `old`, all its pods ready, its revision recorded."""
    apply(cluster, name, "old", replicas, **rollout)
    pods = PlayedPods(cluster, agents, name, next(SUBNETS))
    try:
        pods.until(lambda found: is_all("old", found, replicas), "all pods run")
        pods.until(
            lambda _: all(
                TEMPLATE_ANNOTATION in each["metadata"]["annotations"] for each in revisions(cluster, name)
            ),
            "the revision says which template it is",
        )
        pods.until(
            lambda _: cluster.status(name).get("readyReplicas") == replicas, "the operator has seen them"
        )
        yield pods
    finally:
        pods.close()
        cluster.delete("SemiPDService", name)
        with contextlib.suppress(Exception):  # there is no garbage collector here
            cluster.delete("Deployment", name)


def apply(cluster: Cluster, name: str, model: str, replicas: int, **rollout: int) -> None:
    spec: dict[str, Any] = {"partition": {"mode": "Static"}, "replicas": replicas}
    if rollout:
        spec["rollout"] = rollout
    cluster.apply(service_manifest(name, model={"uri": f"builtin://{model}"}, **spec))


def ask_for(cluster: Cluster, name: str, model: str) -> None:
    patch = {"spec": {"model": {"uri": f"builtin://{model}"}}}
    cluster.client.patch(kinds.SERVICE, name, patch, namespace=NAMESPACE, patch_type=PatchType.MERGE)


def revisions(cluster: Cluster, name: str) -> list[Any]:
    return list(cluster.client.list(kinds.REPLICA_SET, namespace=NAMESPACE, labels=dict(selector(name))))


def is_all(model: str, pods: list[Pod], count: int) -> bool:
    return len(pods) == count and all(pod.model == model and pod.is_ready for pod in pods)


def decisions(cluster: Cluster, name: str) -> dict[str, str]:
    return {each["reason"]: each["message"] for each in cluster.status(name).get("decisions", [])}


def condition(cluster: Cluster, name: str, kind: str) -> tuple[str, str, str]:
    found = next(each for each in cluster.status(name)["conditions"] if each["type"] == kind)
    return found["status"], found["reason"], found.get("message", "")


def test_a_good_model_goes_to_one_pod_then_to_a_quarter_then_to_all(
    cluster: Cluster, operator: OperatorProcess, agents: Agents
) -> None:
    with deployed(cluster, agents, "widens", 8) as pods:
        ask_for(cluster, "widens", "new")
        pods.until(lambda _: pods.rollout().get("stage") == "OnePod", "it is on trial")
        pods.until(
            lambda _: condition(cluster, "widens", "Progressing")[1] == "Canary", "a condition says so"
        )
        pods.until(lambda _: pods.rollout().get("stage") == "Percent", "it goes on")
        pods.until(lambda found: is_all("new", found, 8), "all pods run it")
        cluster.wait(lambda: "RolloutPassed" in decisions(cluster, "widens"), "it is recorded")
        assert pods.most("new", "OnePod") == 1
        assert pods.most("new", "Percent") == 2
        assert min(ready for stage, _, ready in pods.seen if stage) >= 8, "no pod goes before another serves"
        assert pods.rollout() == {}
        said = decisions(cluster, "widens")
        assert "100.0 % of" in said["RolloutPassed"]
        assert "2 of 8 pods follow" in said["RolloutWidened"]
        assert {"RolloutStarted", "RolloutWidened", "RolloutPassed"} <= cluster.events("widens").keys()
        spec = cluster.get("Deployment", "widens")["spec"]
        assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
        assert "minReadySeconds" not in spec


def test_a_model_that_misses_is_rolled_back_to_the_same_revision_and_not_tried_again(
    cluster: Cluster, operator: OperatorProcess, agents: Agents
) -> None:
    with deployed(cluster, agents, "misses", 4) as pods:
        before = pods.play()
        (revision,) = revisions(cluster, "misses")
        ask_for(cluster, "misses", "slow")
        pods.until(lambda _: pods.rollout().get("stage") == "RolledBack", "it is rolled back")
        back = pods.until(lambda found: is_all("old", found, 4), "all pods run what ran before")
        assert {pod.uid for pod in back} == {pod.uid for pod in before}, "no pod was restarted"
        assert pods.most("slow", "OnePod") == 1
        again = next(each for each in revisions(cluster, "misses") if each["spec"]["replicas"] == 4)
        assert again["metadata"]["uid"] == revision["metadata"]["uid"]
        cluster.wait(
            lambda: condition(cluster, "misses", "Degraded")[:2] == ("True", "RolledBack"),
            "a condition says so",
        )
        message = condition(cluster, "misses", "Degraded")[2]
        assert "builtin://slow by semipd/engine:test" in message
        assert "10.0 % of" in message
        assert "the others 100.0 % of" in message
        event = cluster.wait(lambda: cluster.events("misses").get("RolloutFailed"), "an Event says so")
        assert event["type"] == "Warning"
        turns = operator.metric("semipd_operator_turns") + 1
        cluster.annotate("misses", touched="once")
        cluster.wait(lambda: operator.metric("semipd_operator_turns") >= turns, "the operator looks again")
        assert is_all("old", pods.play(), 4)
        assert pods.rollout()["stage"] == "RolledBack"
        cluster.scale("misses", 5)
        pods.until(lambda found: is_all("old", found, 5), "what is held is scaled as it is")
        ask_for(cluster, "misses", "new")
        pods.until(lambda found: is_all("new", found, 5), "another template is another trial")
        cluster.wait(lambda: condition(cluster, "misses", "Degraded")[0] == "False", "nothing is wrong")


def test_a_model_that_misses_in_more_than_one_pod_is_rolled_back_from_there(
    cluster: Cluster, operator: OperatorProcess, agents: Agents
) -> None:
    with deployed(cluster, agents, "fades", 8) as pods:
        before = pods.play()
        ask_for(cluster, "fades", "fades")
        pods.until(lambda _: pods.rollout().get("stage") == "Percent", "one pod has done well")
        pods.until(lambda _: pods.rollout()["stage"] == "RolledBack", "two have not")
        back = pods.until(lambda found: is_all("old", found, 8), "all pods run what ran before")
        assert len({pod.uid for pod in back} & {pod.uid for pod in before}) == 7, (
            "one had gone for the second"
        )
        assert min(ready for stage, _, ready in pods.seen if stage) >= 8
        assert "2 pods: 10.0 % of" in decisions(cluster, "fades")["RolloutFailed"]


def test_a_model_that_is_asked_back_half_way_leaves_the_pods_as_they_were(
    cluster: Cluster, operator: OperatorProcess, agents: Agents
) -> None:
    with deployed(cluster, agents, "reverts", 3) as pods:
        before = pods.play()
        ask_for(cluster, "reverts", "stuck")
        pods.until(
            lambda found: any(pod.model == "stuck" for pod in found) and pods.rollout(),
            "one pod tries it, and the status says so",
        )
        ask_for(cluster, "reverts", "old")
        back = pods.until(lambda found: is_all("old", found, 3) and not pods.rollout(), "it is as before")
        assert {pod.uid for pod in back} == {pod.uid for pod in before}
        pods.until(lambda _: "RolloutReverted" in decisions(cluster, "reverts"), "it says why")


def test_a_third_template_half_way_is_tried_in_its_place(
    cluster: Cluster, operator: OperatorProcess, agents: Agents
) -> None:
    with deployed(cluster, agents, "third", 3) as pods:
        ask_for(cluster, "third", "stuck")
        pods.until(lambda found: any(pod.model == "stuck" for pod in found), "one pod tries it")
        base = pods.rollout()["base"]
        ask_for(cluster, "third", "newer")
        pods.until(lambda _: pods.rollout().get("model") == "builtin://newer", "the trial is of the third")
        assert pods.rollout()["base"] == base
        pods.until(lambda found: is_all("newer", found, 3), "all pods run it")
        assert pods.most("newer", "OnePod") == 1


def test_without_room_to_surge_the_canary_takes_the_place_of_a_pod(
    cluster: Cluster, operator: OperatorProcess, agents: Agents
) -> None:
    with deployed(cluster, agents, "replaces", 4, maxSurge=0, maxUnavailable=1) as pods:
        ask_for(cluster, "replaces", "new")
        pods.until(lambda found: is_all("new", found, 4) and not pods.rollout(), "all pods run it")
        on_trial = [counts for stage, counts, _ in pods.seen if stage == "OnePod"]
        assert max(sum(counts.values()) for counts in on_trial) == 4
        assert min(counts.get("old", 0) for counts in on_trial) == 3


def test_a_canary_that_finds_no_room_takes_the_place_of_a_pod_where_the_spec_allows_it(
    cluster: Cluster, operator: OperatorProcess, agents: Agents
) -> None:
    with deployed(cluster, agents, "full", 4, maxSurge=1, maxUnavailable=1) as pods:
        pods.places = 4
        ask_for(cluster, "full", "new")
        pods.until(lambda found: is_all("new", found, 4) and not pods.rollout(), "all pods run it")
        on_trial = [counts for stage, counts, _ in pods.seen if stage == "OnePod"]
        assert min(counts.get("old", 0) for counts in on_trial) == 3
        assert pods.most("new", "OnePod") == 1
        assert min(ready for stage, _, ready in pods.seen if stage) >= 3


def test_a_canary_that_finds_no_room_waits_where_no_pod_may_go_first(
    cluster: Cluster, operator: OperatorProcess, agents: Agents
) -> None:
    with deployed(cluster, agents, "waits", 3, maxSurge=1, maxUnavailable=0) as pods:
        pods.places = 3
        ask_for(cluster, "waits", "new")
        pods.until(
            lambda _: condition(cluster, "waits", "Progressing")[1] == "CannotSurge", "a condition says so"
        )
        assert "no GPU is free" in condition(cluster, "waits", "Progressing")[2]
        assert sum(pod.is_ready for pod in pods.play()) == 3
        pods.places = 4
        pods.until(lambda found: is_all("new", found, 3), "with room it goes on")


def test_a_service_is_scaled_while_a_template_is_on_trial(
    cluster: Cluster, operator: OperatorProcess, agents: Agents
) -> None:
    with deployed(cluster, agents, "scales", 4) as pods:
        ask_for(cluster, "scales", "new")
        pods.until(lambda found: any(pod.model == "new" for pod in found), "one pod tries it")
        cluster.scale("scales", 6)
        pods.until(lambda found: len(found) >= 6, "there are more pods")
        pods.until(lambda found: is_all("new", found, 6) and not pods.rollout(), "all pods run it")
        assert "RolloutPassed" in decisions(cluster, "scales")


@pytest.mark.parametrize(
    ("name", "replicas", "annotations", "why"),
    [
        pytest.param("single", 1, {}, "no other pod to judge by", id="one replica"),
        pytest.param("skips", 3, {"skip_canary": "true"}, "semipd.io/skip-canary is true", id="switched off"),
    ],
)
def test_without_a_trial_it_is_a_plain_rolling_update_and_the_decision_says_why(
    cluster: Cluster,
    operator: OperatorProcess,
    agents: Agents,
    name: str,
    replicas: int,
    annotations: dict[str, str],
    why: str,
) -> None:
    with deployed(cluster, agents, name, replicas) as pods:
        if annotations:
            cluster.annotate(name, **annotations)
        ask_for(cluster, name, "new")
        pods.until(lambda found: is_all("new", found, replicas), "all pods run it")
        cluster.wait(lambda: why in decisions(cluster, name).get("RolloutPlain", ""), "the decision says why")
        assert {stage for stage, _, _ in pods.seen} == {None}


def test_a_pause_holds_a_trial_where_it_is(
    cluster: Cluster, operator: OperatorProcess, agents: Agents
) -> None:
    with deployed(cluster, agents, "pauses", 3) as pods:
        ask_for(cluster, "pauses", "new")
        pods.until(lambda found: any(pod.model == "new" for pod in found), "one pod tries it")
        cluster.annotate("pauses", paused="true")
        cluster.wait(
            lambda: cluster.conditions("pauses").get("Progressing") == ("Unknown", "Paused"), "it is seen"
        )
        rounds = operator.metric("semipd_operator_rounds") + 25
        pods.until(lambda _: operator.metric("semipd_operator_rounds") >= rounds, "rounds go by")
        assert pods.rollout()["stage"] == "OnePod"
        assert sum(pod.model == "new" for pod in pods.play()) == 1
        cluster.annotate("pauses", paused=None)
        pods.until(lambda found: is_all("new", found, 3), "it goes on")


def test_a_release_that_notes_no_template_is_taken_over_without_a_restart(
    kubeconfig: Path, cluster: Cluster, operator: OperatorProcess, agents: Agents, tmp_path: Path
) -> None:
    with deployed(cluster, agents, "upgrades", 2) as pods:
        before = pods.play()
        operator.__exit__()
        bare = {"metadata": {"annotations": {TEMPLATE_ANNOTATION: None, "semipd.io/applied": None}}}
        for resource, name in [
            (kinds.DEPLOYMENT, "upgrades"),
            *((kinds.REPLICA_SET, each["metadata"]["name"]) for each in revisions(cluster, "upgrades")),
        ]:
            cluster.client.patch(resource, name, bare, namespace=NAMESPACE, patch_type=PatchType.MERGE)
        with OperatorProcess(kubeconfig, tmp_path, agents.port, free_port(), "next"):
            cluster.wait(
                lambda: all(
                    TEMPLATE_ANNOTATION in each["metadata"].get("annotations", {})
                    for each in revisions(cluster, "upgrades")
                ),
                "the revision says which template it is",
            )
            assert {pod.uid for pod in pods.play()} == {pod.uid for pod in before}
            assert len(revisions(cluster, "upgrades")) == 1
            assert pods.rollout() == {}
    operator.__enter__()


def test_a_model_that_never_gets_ready_is_rolled_back_at_its_deadline(
    kubeconfig: Path, cluster: Cluster, operator: OperatorProcess, agents: Agents, tmp_path: Path
) -> None:
    operator.__exit__()
    with (
        OperatorProcess(kubeconfig, tmp_path, agents.port, free_port(), "hasty", canary_start_seconds="5"),
        deployed(cluster, agents, "stuck", 3) as pods,
    ):
        before = pods.play()
        ask_for(cluster, "stuck", "stuck")
        pods.until(lambda found: any(pod.model == "stuck" for pod in found), "one pod tries it")
        back = pods.until(
            lambda found: is_all("old", found, 3) and pods.rollout()["stage"] == "RolledBack",
            "it is rolled back",
        )
        assert {pod.uid for pod in back} == {pod.uid for pod in before}
        said = cluster.wait(lambda: decisions(cluster, "stuck").get("RolloutExpired"), "the decision says so")
        assert "0 of 1 pods of the new template are ready after 5 s, 3 of the one before" in said
    operator.__enter__()


def test_an_operator_that_dies_in_the_middle_is_taken_over_from(
    kubeconfig: Path, cluster: Cluster, operator: OperatorProcess, agents: Agents, tmp_path: Path
) -> None:
    with deployed(cluster, agents, "survives", 8) as pods:
        ask_for(cluster, "survives", "new")
        pods.until(lambda found: any(pod.model == "new" for pod in found), "one pod tries it")
        os.kill(operator.process.pid, signal.SIGKILL)
        operator.process.wait(10)
        trial = pods.rollout()
        with OperatorProcess(kubeconfig, tmp_path, agents.port, free_port(), "heir") as heir:
            pods.until(lambda _: "leads" in heir.log(), "the heir leads")
            pods.until(lambda found: is_all("new", found, 8) and not pods.rollout(), "all pods run it")
            assert pods.most("new", "OnePod") == 1
            assert pods.most("new", "Percent") == 2
            assert {"RolloutWidened", "RolloutPassed"} <= decisions(cluster, "survives").keys()
            assert trial["model"] == "builtin://new"
