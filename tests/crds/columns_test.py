"""`kubectl get` shows what is there, and `kubectl scale` finds the number of pods."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import pytest
from column_checks import column_defects, scale_defects
from crd_files import CLASS, CRDS, PARTITION, SERVICE, Crd


@pytest.mark.parametrize("crd", CRDS, ids=lambda crd: crd.kind)
def test_every_column_shows_a_field(crd: Crd) -> None:
    assert column_defects(crd) == []


@pytest.mark.parametrize(
    ("crd", "usual", "wide"),
    [
        pytest.param(
            SERVICE,
            ["Model", "Mode", "Prefill", "Decode", "TTFT", "TPOT", "SLO", "Ready", "Reason", "Age"],
            ["Attained", "Placement", "Pods", "Decided", "Decision"],
            id="service",
        ),
        pytest.param(
            CLASS,
            ["Default", "Device", "Services", "GPUs", "Budget", "Ready", "Reason", "Age"],
            ["Isolations", "Image"],
            id="class",
        ),
        pytest.param(
            PARTITION,
            [
                "Target Prefill",
                "Target Decode",
                "Prefill",
                "Decode",
                "Switching",
                "GPU",
                "Ready",
                "Heartbeat",
                "Age",
            ],
            ["Reason", "Decision", "Followed"],
            id="partition",
        ),
    ],
)
def test_columns(crd: Crd, usual: list[str], wide: list[str]) -> None:
    columns = crd.version["additionalPrinterColumns"]
    assert [column["name"] for column in columns if column.get("priority", 0) == 0] == usual
    assert [column["name"] for column in columns if column.get("priority", 0) == 1] == wide


def with_column(path: str, type_: str) -> Crd:
    manifest: dict[str, Any] = deepcopy(dict(SERVICE.manifest))
    (version,) = manifest["spec"]["versions"]
    version["additionalPrinterColumns"] = [{"name": "X", "jsonPath": path, "type": type_}]
    return Crd(wire_type=SERVICE.wire_type, manifest=manifest)


@pytest.mark.parametrize(
    ("path", "type_", "said"),
    [
        pytest.param(".status.phase", "string", "leads nowhere", id="a field that is not there"),
        pytest.param("status.replicas", "integer", "leads nowhere", id="no dot before the first key"),
        pytest.param(
            '.status.conditions[?(@.kind=="Ready")].status', "string", "leads nowhere", id="another key"
        ),
        pytest.param(".status.replicas[0]", "integer", "leads nowhere", id="an index into a number"),
        pytest.param(".metadata.phase", "string", "leads nowhere", id="a field that metadata has not"),
        pytest.param(".status.granted.prefillPercent", "string", "not as integer", id="a number as text"),
        pytest.param(".status.decisions[0].time", "string", "not as date", id="a time as text"),
        pytest.param(".spec.slo", "string", "not as None", id="an object"),
    ],
)
def test_a_broken_column_is_caught(path: str, type_: str, said: str) -> None:
    (defect,) = column_defects(with_column(path, type_))
    assert defect.endswith(said)


def test_a_service_can_be_scaled() -> None:
    assert scale_defects(SERVICE) == []


@pytest.mark.parametrize("crd", [CLASS, PARTITION], ids=lambda crd: crd.kind)
def test_nothing_else_can_be_scaled(crd: Crd) -> None:
    assert "scale" not in crd.version["subresources"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        pytest.param({"specReplicasPath": ".spec.pods"}, "specReplicasPath: .spec.pods", id="a lost path"),
        pytest.param(
            {"statusReplicasPath": ".spec.replicas"},
            "statusReplicasPath: .spec.replicas",
            id="the wish in place of the count",
        ),
        pytest.param(
            {"labelSelectorPath": ".status.granted"}, "labelSelectorPath: .status.granted", id="an object"
        ),
        pytest.param({"labelSelectorPath": ""}, "labelSelectorPath: ", id="no selector, so no HPA"),
    ],
)
def test_a_broken_scale_is_caught(changes: Mapping[str, str], said: str) -> None:
    manifest: dict[str, Any] = deepcopy(dict(SERVICE.manifest))
    (version,) = manifest["spec"]["versions"]
    version["subresources"]["scale"] |= changes
    (defect,) = scale_defects(Crd(wire_type=SERVICE.wire_type, manifest=manifest))
    assert defect.startswith(said)


def test_no_column_of_a_service_is_empty_because_its_author_took_the_default() -> None:
    """The schema has no defaults: what the spec may leave open is shown from the status."""
    assert [
        column["name"] for column in SERVICE.version["additionalPrinterColumns"] if may_be_absent(column)
    ] == []


@pytest.mark.parametrize("path", [".spec.partition.mode", ".spec.placement", ".spec.slo.ttft.percentile"])
def test_a_column_that_may_be_empty_is_caught(path: str) -> None:
    (column,) = with_column(path, "string").version["additionalPrinterColumns"]
    assert may_be_absent(column)


def may_be_absent(column: Mapping[str, Any]) -> bool:
    """Whether a column shows a part of the spec that is not required, or that stands in such a part."""
    *_, path = column["jsonPath"].partition(".")
    node: Mapping[str, Any] = SERVICE.schema
    steps = path.split(".")
    if steps[0] != "spec":
        return False
    for step in steps:
        if step not in node.get("required", ()):
            return True
        node = node["properties"][step]
    return False
