"""Show 3: every change under traffic loses nothing. No client retries; a refused connection is a failure.

Each change is made by itself, under two streaming loads, one with kept-alive connections and one with new ones, and is
waited for until the service has settled again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import cluster_under_test
import disruptions
import pytest
import services
import tiny_model
from cluster_under_test import ClusterUnderTest
from installation import ROUND_SECONDS
from kubectl import Kubectl, wait_for
from steady_load import SteadyLoad, now_s, steady_load

NAME = "tiny"
OUT = cluster_under_test.REPOSITORY / "out" / "e2e" / "nothing-lost"
RATE = 3  # requests/s of each load
NEXT_ROUND_S = 30  # at most, from a leader's death to the round of the next one
QUIET_S = 4  # after a change has settled: requests that its last moments hit have ended


@dataclass(slots=True)
class Traffic:
    kubectl: Kubectl
    image: str
    loads: list[SteadyLoad]
    rows: list[tuple[str, float, int]] = field(default_factory=list)

    def during(self, what: str, change: Callable[[], object], replicas: int = 2) -> None:
        """Makes the change, waits until it has settled, and asserts that nothing has failed since."""
        started_s = now_s()
        change()
        services.wait_settled(self.kubectl, NAME, replicas)
        settled_s = now_s() - started_s
        time.sleep(QUIET_S)
        failures = [failure for load in self.loads for failure in load.failures(started_s - QUIET_S)]
        self.rows.append((what, settled_s, len(failures)))
        print(f"{what:<32} settled in {settled_s:5.1f} s, {len(failures)} failed")
        if failures:
            services.write_logs(self.kubectl, OUT / what.replace(" ", "-"))
        assert not failures, f"{what}: {failures[:5]}"


def manifest(routing: str, model: str) -> dict[str, Any]:
    served = {"servedName": tiny_model.SERVED_NAME} if model == tiny_model.URI else {}
    return {
        "apiVersion": "semipd.io/v1alpha1",
        "kind": "SemiPDService",
        "metadata": {"name": NAME},
        "spec": {
            "model": {"uri": model, **served},
            "routing": routing,
            "replicas": 2,
            "slo": {"ttft": {"targetMilliseconds": 5000}, "tpot": {"targetMilliseconds": 1000}},
            "resources": {"memory": "2Gi", "kvCache": "16Mi"},
            "partition": {"mode": "Static"},
            "drain": {"timeoutSeconds": 60},
        },
    }


@pytest.fixture(params=["Service", pytest.param("Proxy", marks=pytest.mark.long)])
def traffic(
    kubectl: Kubectl, installed: ClusterUnderTest, tiny_model_uri: str, request: pytest.FixtureRequest
) -> Iterator[Traffic]:
    kubectl.apply(manifest(request.param, tiny_model_uri))
    services.wait_settled(kubectl, NAME, 2)
    arguments = [f"--url=http://{NAME}", f"--model={tiny_model.SERVED_NAME}", f"--rate={RATE}"]
    with ExitStack() as loads:
        names = {"kept-alive": [], "new-connections": ["--new-connections"]}
        running = [
            loads.enter_context(steady_load(kubectl, installed.operator_image, name, [*arguments, *more]))
            for name, more in names.items()
        ]
        yield Traffic(kubectl, installed.operator_image, running)
    kubectl("delete", "semipdservice", NAME)
    wait_for(lambda: not kubectl.list("Pod", f"semipd.io/service={NAME}"), "pods go with their service", 180)


def roll_outs(traffic: Traffic, installed: ClusterUnderTest) -> None:
    """The same image under other names."""
    kubectl, image = traffic.kubectl, installed.engine_image
    other = cluster_under_test.tag_image(image, "next")
    try:
        traffic.during("another image", lambda: disruptions.roll_out(kubectl, NAME, other))
        traffic.during(
            "an image, reverted half-way",
            lambda: disruptions.roll_out_and_revert(kubectl, NAME, image, other),
        )
        traffic.during("the first image again", lambda: disruptions.roll_out(kubectl, NAME, image))
    finally:
        kubectl.patch("SemiPDClass", "cpu", {"spec": {"image": None}})


def names(kubectl: Kubectl) -> set[str]:
    return {pod["metadata"]["name"] for pod in services.pods(kubectl, NAME)}


def kill_leader(kubectl: Kubectl) -> None:
    """The next one's first round begins within a period of its taking the lead."""
    leads_s = disruptions.kill_leader(kubectl)
    print(f"another operator leads after {leads_s:.1f} s")
    assert leads_s + ROUND_SECONDS <= NEXT_ROUND_S


@pytest.mark.timeout(1800)
def test_no_request_is_lost_by_any_change(traffic: Traffic, installed: ClusterUnderTest) -> None:
    kubectl = traffic.kubectl
    traffic.during("scale 2 -> 4", lambda: disruptions.scale(kubectl, NAME, 4), replicas=4)
    traffic.during("scale 4 -> 2", lambda: disruptions.scale(kubectl, NAME, 2))
    traffic.during("an HPA asks for 3", lambda: disruptions.scale_by_hpa(kubectl, NAME, 3), replicas=3)
    traffic.during("the HPA is edited to 2", lambda: disruptions.scale_by_hpa(kubectl, NAME, 2))
    kubectl("delete", "hpa", NAME)
    before = names(kubectl)
    traffic.during("another split, fleet-wide", lambda: disruptions.pin(kubectl, NAME, 60, 100))
    traffic.during("another SLO", lambda: disruptions.change_slo(kubectl, NAME, 4000))
    assert names(kubectl) == before, "neither replaces a pod"
    traffic.during("a lane is killed", lambda: disruptions.kill_process(kubectl, NAME, disruptions.LANE))
    traffic.during(
        "the coordinator is killed", lambda: disruptions.kill_process(kubectl, NAME, disruptions.COORDINATOR)
    )
    traffic.during("the agent is killed", lambda: disruptions.kill_process(kubectl, NAME, disruptions.AGENT))
    traffic.during("the operators are killed", lambda: disruptions.kill_operators(kubectl))
    traffic.during("the leader is killed", lambda: kill_leader(kubectl))
    traffic.during("a pod is evicted", lambda: disruptions.evict(kubectl, NAME))
    if installed.is_ours:
        traffic.during("the API server is killed", lambda: disruptions.break_api_server(kubectl))
        roll_outs(traffic, installed)
        node = kubectl.list("Node")[0]["metadata"]["name"]
        traffic.during("a node is drained", lambda: disruptions.drain_node(kubectl, node))
        kubectl("uncordon", node)
    counts = [load.stop() for load in traffic.loads]
    print(counts)
    assert all(count.failed == 0 and count.sent == count.completed > 0 for count in counts)
