"""A deliberately bad split is tried in one pod and taken back.

No split keeps a TPOT of 1 ms. A policy that only knows that it is missed gives decode what prefill has, and the requests that
ask for one token, which TPOT does not judge, then miss their TTFT.
"""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from typing import Any

import pytest
from cluster_under_test import ClusterUnderTest
from kubectl import Kubectl, wait_for
from services import pods, wait_settled
from steady_load import SteadyLoad, steady_load

NAME = "chat"
MODEL = "smollm2-135m"
START_PREFILL, LEAST_PREFILL = 45, 5  # percent
# Of the TTFT at the start: what is left where the agents go by themselves, 15 points lower, and not where the policy goes then.
ROOM = 2.2
PROMPT_TOKENS = 32
LOADS = {"one-token": ["--rate=0.6", "--output-tokens=1"], "more-tokens": ["--rate=0.4", "--output-tokens=4"]}
MEASURED_REQUESTS = 25
MEASURING_TIMEOUT_S = 120
CANARY_TIMEOUT_S = 300


def manifest() -> dict[str, Any]:
    return {
        "apiVersion": "semipd.io/v1alpha1",
        "kind": "SemiPDService",
        "metadata": {"name": NAME, "annotations": {"semipd.io/pinned-split": f"{START_PREFILL}/100"}},
        "spec": {
            "model": {"uri": f"builtin://{MODEL}"},
            "replicas": 2,
            "slo": slo(60_000),
            "partition": {
                "policy": "SLOFeedback",
                "initial": {"prefillPercent": START_PREFILL, "decodePercent": 100},
                "bounds": {"prefillMinPercent": LEAST_PREFILL},
                "cooldownSeconds": 0,
            },
        },
    }


def slo(ttft_ms: int) -> dict[str, Any]:
    return {"ttft": {"targetMilliseconds": ttft_ms}, "tpot": {"targetMilliseconds": 1}}


def ttft_p90_ms(load: SteadyLoad) -> float:
    found = [each["ttftMs"] for each in load.outcomes()]
    return float(statistics.quantiles(found, n=10)[-1])


def asked(kubectl: Kubectl) -> dict[str, int]:
    """Prefill percent by pod."""
    return {
        each["metadata"]["name"]: each["spec"]["target"]["prefillPercent"]
        for each in kubectl.list("SemiPDPartition", f"semipd.io/service={NAME}")
    }


def status(kubectl: Kubectl) -> dict[str, Any]:
    found: dict[str, Any] = kubectl.get("SemiPDService", NAME)["status"]
    return found


def reasons(kubectl: Kubectl) -> list[str]:
    return [each["reason"] for each in status(kubectl)["decisions"]]


@pytest.mark.timeout(900)
def test_a_bad_split_is_tried_in_one_pod_and_taken_back(
    kubectl: Kubectl, installed: ClusterUnderTest
) -> None:
    kubectl.apply(manifest())
    wait_settled(kubectl, NAME, timeout_s=400)
    common = [
        f"--url=http://{NAME}",
        f"--model={MODEL}",
        f"--prompt-tokens={PROMPT_TOKENS}",
        "--new-connections",
    ]
    image = installed.operator_image
    with ExitStack() as running:
        loads = [
            running.enter_context(steady_load(kubectl, image, name, [*common, *arguments]))
            for name, arguments in LOADS.items()
        ]
        wait_for(
            lambda: len(loads[0].outcomes()) >= MEASURED_REQUESTS,
            "TTFT is measured at the start",
            MEASURING_TIMEOUT_S,
        )
        ttft_ms = round(ROOM * ttft_p90_ms(loads[0]))
        kubectl.patch("SemiPDService", NAME, {"spec": {"slo": slo(ttft_ms)}})
        wait_settled(kubectl, NAME)
        kubectl("annotate", f"semipdservice/{NAME}", "semipd.io/pinned-split-")
        canary = wait_for(
            lambda: status(kubectl).get("canary"), "a split is tried in one pod", CANARY_TIMEOUT_S
        )
        assert (canary["stage"], len(canary["pods"])) == ("OnePod", 1)
        tried = canary["partition"]["prefillPercent"]
        base = status(kubectl)["requested"]["prefillPercent"]
        assert tried < base
        wait_for(lambda: "CanaryFailed" in reasons(kubectl), "the canary has failed", CANARY_TIMEOUT_S)
        failed = next(each for each in status(kubectl)["decisions"] if each["reason"] == "CanaryFailed")
        print(f"TTFT target {ttft_ms} ms: {failed['message']}")
        assert failed["partition"]["prefillPercent"] == base
        assert f"({tried}, 100) is taken back to ({base}, 100): {canary['pods'][0]}" in failed["message"]
        wait_for(
            lambda: set(asked(kubectl).values()) == {base}, "all pods are asked for the split before", 60
        )
        wait_settled(kubectl, NAME)
        assert status(kubectl)["canary"]["stage"] == "RolledBack"
    assert {"CanaryStarted", "CanaryFailed"} <= {event["reason"] for event in kubectl.list("Event")}
    assert len(pods(kubectl, NAME)) == 2
