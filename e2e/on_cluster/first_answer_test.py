"""Show 1: from `kubectl apply -f examples/semipdservice.yaml` on an empty cluster to an answer through the Service."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from cluster_under_test import REPOSITORY, ClusterUnderTest
from kubectl import Kubectl, wait_for
from services import wait_settled

from semipd_operator.plan.pod import container_security, pod_security

EXAMPLE = REPOSITORY / "examples" / "semipdservice.yaml"
ASK = """
import json, urllib.request
body = {"model": "smollm2-135m", "messages": [{"role": "user", "content": "What is Kubernetes?"}], "max_tokens": 12}
url, headers = "http://chat/v1/chat/completions", {"content-type": "application/json"}
request = urllib.request.Request(url, json.dumps(body).encode(), headers)
print(urllib.request.urlopen(request, timeout=60).read().decode())
"""


def asking_pod(image: str) -> dict[str, Any]:
    container = {
        "name": "ask",
        "image": image,
        "command": ["/opt/semipd/bin/python", "-c", ASK],
        "securityContext": container_security(),
    }
    security = {key: value for key, value in pod_security().items() if not key.startswith("fs")}
    spec = {"restartPolicy": "Never", "securityContext": security, "containers": [container]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "ask"}, "spec": spec}


@pytest.mark.timeout(600)
def test_an_applied_service_becomes_ready_and_answers_through_its_service(
    kubectl: Kubectl, installed: ClusterUnderTest
) -> None:
    started_s = time.monotonic()
    kubectl("apply", f"--filename={EXAMPLE}")
    wait_settled(kubectl, "chat", timeout_s=400)
    print(f"from apply to Ready: {time.monotonic() - started_s:.1f} s")
    print(kubectl("get", "semipdservices"))
    kubectl.apply(asking_pod(installed.operator_image))
    wait_for(lambda: kubectl.get("Pod", "ask")["status"]["phase"] == "Succeeded", "an answer", 120)
    answer = json.loads(kubectl("logs", "ask"))
    print(answer["choices"][0]["message"]["content"])
    assert 0 < answer["usage"]["completion_tokens"] <= 12
    nodes = {pod["spec"]["nodeName"] for pod in kubectl.list("Pod", "semipd.io/service=chat")}
    assert len(nodes) == 2, "the pods spread over the nodes"
