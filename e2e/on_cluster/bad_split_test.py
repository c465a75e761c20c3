"""A deliberately bad split is tried in one pod and taken back.

No split keeps a TPOT of 1 ms. A policy that only knows that it is missed gives decode what prefill has, and the requests that
ask for one token, which TPOT does not judge, then miss their TTFT.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest
from cluster_under_test import ClusterUnderTest
from kubectl import Kubectl, wait_for
from services import pods, wait_settled
from steady_load import steady_load

NAME = "chat"
MODEL = "smollm2-135m"
START_PREFILL, LEAST_PREFILL = 30, 5  # percent
TTFT_MS = 1500
PROMPT_TOKENS = 64
LOADS = {"one-token": ["--rate=2.5", "--output-tokens=1"], "more-tokens": ["--rate=1", "--output-tokens=4"]}
CANARY_TIMEOUT_S = 240


def manifest() -> dict[str, Any]:
    return {
        "apiVersion": "semipd.io/v1alpha1",
        "kind": "SemiPDService",
        "metadata": {"name": NAME},
        "spec": {
            "model": {"uri": f"builtin://{MODEL}"},
            "replicas": 2,
            "slo": {"ttft": {"targetMilliseconds": TTFT_MS}, "tpot": {"targetMilliseconds": 1}},
            "partition": {
                "policy": "SLOFeedback",
                "initial": {"prefillPercent": START_PREFILL, "decodePercent": 100},
                "bounds": {"prefillMinPercent": LEAST_PREFILL, "prefillMaxPercent": START_PREFILL},
                "cooldownSeconds": 0,
            },
        },
    }


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
    with ExitStack() as running:
        for name, arguments in LOADS.items():
            running.enter_context(steady_load(kubectl, installed.operator_image, name, [*common, *arguments]))
        canary = wait_for(
            lambda: status(kubectl).get("canary"), "a split is tried in one pod", CANARY_TIMEOUT_S
        )
        assert (canary["stage"], len(canary["pods"])) == ("OnePod", 1)
        tried = canary["partition"]["prefillPercent"]
        assert tried < START_PREFILL
        wait_for(lambda: "CanaryFailed" in reasons(kubectl), "the canary has failed", CANARY_TIMEOUT_S)
        base = status(kubectl)["requested"]["prefillPercent"]
        wait_for(
            lambda: set(asked(kubectl).values()) == {base}, "all pods are asked for the split before", 60
        )
        failed = next(each for each in status(kubectl)["decisions"] if each["reason"] == "CanaryFailed")
        print(failed["message"])
        assert failed["partition"]["prefillPercent"] == base > tried
        assert canary["pods"][0] in failed["message"]
        assert f"({tried}, 100) is taken back to ({base}, 100)" in failed["message"]
        wait_settled(kubectl, NAME)
    assert status(kubectl)["canary"]["stage"] == "RolledBack"
    events = kubectl("get", "events.events.k8s.io", "--output=jsonpath={.items[*].reason}").split()
    assert {"CanaryStarted", "CanaryFailed"} <= set(events)
    assert len(pods(kubectl, NAME)) == 2
