"""What the plugin knows of the operator without importing it: held to the operator, its manifests and the cluster loop."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args, get_type_hints

import msgspec
import pytest
import yaml

from semipd_core.api.fields import PartitionSplit
from semipd_core.api.service import DecisionRecord
from semipd_core.cluster import loop as cluster
from semipd_core.cluster.state import ClusterConfig
from semipd_core.partition import Band, Isolation, Partition
from semipd_core.slo import histogram
from semipd_core.telemetry import EngineReport, FrontEndReport, SloTargets, WindowSlot
from semipd_kubectl.observe import objects
from semipd_kubectl.reports.advise import AdviceReport, find_advice
from semipd_kubectl.reports.doctor.access import OPERATOR_NEEDS
from semipd_kubectl.reports.doctor.findings import CRDS, OPERATOR, OPERATOR_NAMESPACE
from semipd_kubectl.reports.doctor.installation import POLICIES
from semipd_kubectl.reports.doctor.report import DoctorReport
from semipd_kubectl.reports.explain import ExplainReport
from semipd_kubectl.reports.live import TopReport
from semipd_kubectl.reports.pin import PinReport
from semipd_kubectl.reports.status import StatusReport
from semipd_kubectl.reports.values import Split
from semipd_operator.__main__ import LEASE_NAME
from semipd_operator.plan import naming

ROOT = Path(__file__).parents[2]
NOW_S = 1_000_000.0
SLO = SloTargets(ttft_percentile=90, ttft_ms=400, tpot_percentile=90, tpot_ms=60)


def manifests(name: str) -> list[dict]:
    return list(yaml.safe_load_all((ROOT / "manifests" / name).read_text()))


def test_labels_ports_and_annotations_are_the_operators() -> None:
    assert objects.SERVICE_LABEL == naming.SERVICE_LABEL
    assert f"{naming.COMPONENT_LABEL}={naming.ENGINE}" == objects.ENGINES
    assert objects.PAUSE_ANNOTATION == naming.PAUSE_ANNOTATION
    assert objects.AGENT_PORT == naming.AGENT_PORT


def test_the_operator_is_looked_for_where_the_manifests_put_it() -> None:
    (deployment,) = [each for each in manifests("operator/operator.yaml") if each["kind"] == "Deployment"]
    assert deployment["metadata"]["name"] == OPERATOR == LEASE_NAME
    assert deployment["metadata"]["namespace"] == OPERATOR_NAMESPACE
    assert deployment["spec"]["template"]["spec"]["serviceAccountName"] == OPERATOR


def test_the_policies_that_are_looked_for_are_those_that_are_shipped() -> None:
    files = ("policies/agent-policy.yaml", "policies/class-policy.yaml")
    shipped = [each for name in files for each in manifests(name)]
    names = [each["metadata"]["name"] for each in shipped if each["kind"] == "ValidatingAdmissionPolicy"]
    assert names == list(POLICIES)


def test_the_crds_that_are_looked_for_are_those_that_are_shipped() -> None:
    names = [
        yaml.safe_load((ROOT / "crds" / name).read_text())["metadata"]["name"]
        for name in ("semipdclasses.yaml", "semipdpartitions.yaml", "semipdservices.yaml")
    ]
    assert sorted(names) == sorted(CRDS)


@pytest.mark.parametrize("need", OPERATOR_NEEDS, ids=str)
def test_the_shipped_role_gives_the_operator_what_doctor_asks_for(need: object) -> None:
    (role,) = [
        each
        for each in manifests("base/roles.yaml")
        if each["kind"] == "ClusterRole" and each["metadata"]["name"] == OPERATOR
    ]
    resource = f"{need.resource}/{need.sub}" if need.sub else need.resource
    assert any(
        need.group in rule["apiGroups"] and resource in rule["resources"] and need.verb in rule["verbs"]
        for rule in role["rules"]
        if "resourceNames" not in rule
    )


def slow_tokens() -> EngineReport:
    slots = [
        WindowSlot(
            start_s=int(NOW_S) - 2 * number,
            arrived=4,
            completed=4,
            missed=4,
            missed_tpot=4,
            ttft_ms={histogram.bucket_of(100.0): 4},
            tpot_ms={histogram.bucket_of(120.0): 4},
        )
        for number in range(1, 10)
    ]
    front_end = FrontEndReport(
        at_s=NOW_S, ready=True, slo=SLO, open_requests=4, queued_requests=0, slots=slots
    )
    return EngineReport(
        engine_id="chat-1/engine-0",
        at_s=NOW_S,
        phase="Steady",
        requested=(80, 100),
        granted=(80, 100),
        front_end=front_end,
        coordinator=None,
    )


def test_the_advice_is_read_out_of_what_the_cluster_loop_says_in_advisory_mode() -> None:
    config = ClusterConfig(
        mode="Advisory",
        policy="SLOFeedback",
        isolation=Isolation.MPS,
        initial=Partition(prefill_percent=80, decode_percent=100),
        bounds=Band(
            prefill_min_percent=20, prefill_max_percent=100, decode_min_percent=40, decode_max_percent=100
        ),
        slo=SLO,
    )
    report = slow_tokens()
    _, round_ = cluster.step(cluster.initial_state(config), config, {report.engine_id: report}, NOW_S)
    decision = round_.decision
    advice = find_advice(
        DecisionRecord(
            time="2026-11-21T12:00:00Z",
            decision_id="cluster-1",
            partition=PartitionSplit(prefill_percent=80, decode_percent=100),
            reason=decision.reason,
            message=decision.message,
        )
    )
    wanted = round_.advice.partition
    assert advice.split == Split(prefill_percent=wanted.prefill_percent, decode_percent=wanted.decode_percent)
    assert advice.split.prefill_percent < 80
    assert (advice.reason, advice.message) == (round_.advice.reason, round_.advice.message)
    assert advice.held_by == "Advisory"


@pytest.mark.parametrize("arguments", [["--help"], ["top", "--help"], ["pin", "--help"], ["logs", "--help"]])
def test_help_does_not_wait_for_the_client(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom semipd_kubectl.__main__ import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "loaded = {'kubernetes', 'urllib3', 'rich.live'} & set(sys.modules)\nassert not loaded, loaded\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


REPORTS = (StatusReport, TopReport, ExplainReport, AdviceReport, PinReport, DoctorReport)


def structs_in(annotation: object) -> Iterator[type[msgspec.Struct]]:
    """The report types at `annotation`, with all that they are made of."""
    for inner in get_args(annotation):
        yield from structs_in(inner)
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        yield annotation
        for hint in get_type_hints(annotation).values():
            yield from structs_in(hint)


@pytest.mark.parametrize(
    "struct", sorted({found for each in REPORTS for found in structs_in(each)}, key=str), ids=str
)
def test_every_json_key_is_documented(struct: type[msgspec.Struct]) -> None:
    text = (ROOT / "docs" / "kubectl.md").read_text()
    missing = [
        field.encode_name for field in msgspec.structs.fields(struct) if f"`{field.encode_name}`" not in text
    ]
    assert missing == []
