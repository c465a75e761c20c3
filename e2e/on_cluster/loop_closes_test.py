"""Show 2: the loop closes. Traffic turns decode-heavy; the split follows, in one pod first, and attainment recovers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import disruptions
import pytest
from asked_splits import Asked, watched_splits
from cluster_under_test import REPOSITORY, ClusterUnderTest
from kubectl import Kubectl, wait_for
from replayed_shift import ServedModel, plan_replay, running_replay
from services import wait_settled, write_logs

NAME = "chat"
MODEL = "smollm2-135m"
OUT = REPOSITORY / "out" / "e2e" / "loop-closes"
TTFT_MS, TPOT_MS = 2000, 225
DECODE_MIN_PERCENT = 20
SECOND_HALF = 3  # times 60 s: the canary, its judgement, and then some
REPLAY_TIMEOUT_S = 400


def manifest() -> dict[str, Any]:
    """Uncapped at first, by a pin: that is what the service is measured at."""
    return {
        "apiVersion": "semipd.io/v1alpha1",
        "kind": "SemiPDService",
        "metadata": {"name": NAME, "annotations": {"semipd.io/pinned-split": "100/100"}},
        "spec": {
            "model": {"uri": f"builtin://{MODEL}"},
            "routing": "Proxy",
            "replicas": 2,
            "slo": {
                "ttft": {"percentile": 90, "targetMilliseconds": TTFT_MS},
                "tpot": {"percentile": 90, "targetMilliseconds": TPOT_MS},
            },
            "partition": {"bounds": {"decodeMinPercent": DECODE_MIN_PERCENT}},
        },
    }


def attained_permille(outcomes: Sequence[dict[str, Any]], from_s: float, until_s: float) -> int:
    """Of the requests sent in between, as their client saw them."""
    sent = [each for each in outcomes if from_s <= each["sentS"] < until_s]
    kept = [each for each in sent if not each["error"] and _keeps_targets(each)]
    return 1000 * len(kept) // len(sent)


def _keeps_targets(outcome: dict[str, Any]) -> bool:
    return outcome["ttftMs"] <= TTFT_MS and (outcome["tpotMs"] or 0) <= TPOT_MS


def decided_s(decision: dict[str, Any]) -> float:
    return datetime.fromisoformat(decision["time"]).timestamp()


def asked_at_once(changes: Sequence[Asked], decision_id: str) -> list[str]:
    """The pods that were asked for it, in order."""
    return [change.pod for change in changes if change.decision_id == decision_id]


def explain(kubectl: Kubectl) -> str:
    command = [sys.executable, "-m", "semipd_kubectl", "explain", NAME, f"--namespace={kubectl.namespace}"]
    environment = os.environ | {"KUBECONFIG": str(kubectl.kubeconfig)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.timeout(1200)
def test_the_split_follows_the_traffic_in_one_pod_first_and_attainment_recovers(
    kubectl: Kubectl, installed: ClusterUnderTest, tmp_path: Path
) -> None:
    kubectl.apply(manifest())
    wait_settled(kubectl, NAME, timeout_s=400)
    served = ServedModel(url=f"http://{NAME}", name=MODEL)
    targets = [f"--ttft-ms={TTFT_MS}", f"--tpot-ms={TPOT_MS}", f"--decode-min={DECODE_MIN_PERCENT}"]
    plan = plan_replay(kubectl, installed.operator_image, served, ["--engines=2", *targets])
    prefill, decode = map(int, plan["start"].split("/"))
    disruptions.pin(kubectl, NAME, prefill, decode)
    wait_settled(kubectl, NAME)
    kubectl("annotate", f"semipdservice/{NAME}", "semipd.io/pinned-split-")
    with (
        watched_splits(kubectl, NAME, tmp_path / "splits.txt") as asked,
        running_replay(kubectl, installed.operator_image, served, plan, SECOND_HALF) as replay,
    ):
        wait_for(replay.is_over, "the replay is over", REPLAY_TIMEOUT_S)
        about, *outcomes, counts = replay.lines()
        explained = explain(kubectl)
    write_logs(kubectl, OUT)
    (OUT / "outcomes.json").write_text(json.dumps([about, *outcomes, counts]))
    (OUT / "explained.txt").write_text(explained)
    changes = asked.changes()
    decisions = kubectl.get("semipdservice", NAME)["status"]["decisions"]
    joint_s = about["startedS"] + about["jointS"]
    end_s = about["startedS"] + about["durationS"]
    print(f"{counts}\n{changes}\n{explained}")
    for decision in reversed(decisions):
        print(
            f"{decided_s(decision) - joint_s:6.1f} s {decision['partition']} {decision['reason']}: {decision['message']}"
        )
    step_s = 20.0
    at_s = about["startedS"]
    while at_s < end_s:
        print(f"{at_s - joint_s:6.0f} s: {attained_permille(outcomes, at_s, at_s + step_s)} permille")
        at_s += step_s
    assert counts["failed"] == 0
