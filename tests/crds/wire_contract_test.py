"""Each CRD says of every field what its wire type says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_type_hints

import pytest
from crd_files import ABSENT, CLASS, CRDS, PARTITION, SERVERS_OWN, SERVICE, Crd, broken, node_at, nodes
from wire_checks import places, wire_defects

from semipd_core.api import shape
from semipd_core.api.wire import Matches


@pytest.mark.parametrize("crd", CRDS, ids=lambda crd: crd.kind)
def test_a_schema_says_what_the_wire_type_says(crd: Crd) -> None:
    assert wire_defects(crd.wire_type, crd.schema) == []


@pytest.mark.parametrize(
    ("crd", "deep"),
    [
        pytest.param(SERVICE, "spec.partition.bounds.prefillMinPercent", id="service"),
        pytest.param(CLASS, "status.conditions[].lastTransitionTime", id="class"),
        pytest.param(PARTITION, "status.engines[].gpus[].health", id="partition"),
    ],
)
def test_the_whole_tree_is_compared(crd: Crd, deep: str) -> None:
    compared = {place.path for place in places(crd.wire_type, crd.schema)}
    assert deep in compared
    assert compared == {path for path, _ in nodes(crd.schema) if path.split(".")[0] not in SERVERS_OWN}


def case(name: str, path: str, changes: Mapping[str, Any], said: str, crd: Crd = SERVICE) -> Any:
    return pytest.param(crd, path, changes, said, id=name)


MIN = "spec.partition.bounds.prefillMinPercent"


@pytest.mark.parametrize(
    ("crd", "path", "changes", "said"),
    [
        # keys
        case("a key is lost", "spec.drain", {"properties": {}}, "spec.drain: lacks timeoutSeconds"),
        case("status is lost", "", {"properties": {}}, ": lacks status"),
        case(
            "a key that the wire type has not",
            "spec.drain",
            {"properties": {"graceSeconds": {"type": "integer"}}},
            "spec.drain: has graceSeconds, the wire type has not",
        ),
        case(
            "an initialism in lower case",
            "spec",
            {"properties": {"decisionId": {"type": "string"}}},
            "spec: lacks decisionID",
            PARTITION,
        ),
        # required
        case(
            "nothing is required",
            "spec",
            {"required": ABSENT},
            "spec: requires [], the wire type ['model']",
        ),
        case(
            "too much is required",
            "spec.autoscale",
            {"required": ["minReplicas", "maxReplicas"]},
            "spec.autoscale: requires ['maxReplicas', 'minReplicas'], the wire type ['maxReplicas']",
        ),
        # types
        case(
            "a list for an object",
            "spec.slo",
            {"type": "array"},
            "spec.slo: type is array, by the wire type object",
        ),
        case(
            "items without a type",
            "spec.scheduling.tolerations",
            {"items": {}},
            "spec.scheduling.tolerations[]: type is None, by the wire type object",
        ),
        case(
            "numbers for a map's values",
            "spec.scheduling.nodeSelector",
            {"additionalProperties": {"type": "integer"}},
            "spec.scheduling.nodeSelector{}: type is integer, by the wire type string",
        ),
        case(
            "a quantity is text alone",
            "spec.resources.memory",
            {"type": "string", "x-kubernetes-int-or-string": ABSENT},
            "spec.resources.memory: x-kubernetes-int-or-string is None, by the wire type True",
        ),
        case(
            "a small integer is long",
            "spec.replicas",
            {"format": "int64"},
            "spec.replicas: format is int64, by the wire type int32",
        ),
        case(
            "an integer without end is short",
            "status.observedGeneration",
            {"format": "int32"},
            "status.observedGeneration: format is int32, by the wire type int64",
        ),
        case(
            "a time without format",
            "status.decisions[].time",
            {"format": ABSENT},
            "status.decisions[].time: format is None, by the wire type date-time",
        ),
        # choices
        case(
            "a choice is lost",
            "spec.partition.mode",
            {"enum": ["Auto", "Static"]},
            "spec.partition.mode: enum is ['Auto', 'Static'], by the wire type ['Auto', 'Advisory', 'Static']",
        ),
        case(
            "a class falls back to Auto",
            "spec.device",
            {"enum": ["Auto", "CUDA", "CPU"]},
            "spec.device: enum is ['Auto', 'CUDA', 'CPU'], by the wire type ['CUDA', 'CPU']",
            CLASS,
        ),
        # ranges
        case("no minimum", MIN, {"minimum": ABSENT}, f"{MIN}: minimum is None, by the wire type 1"),
        case("another minimum", MIN, {"minimum": 0}, f"{MIN}: minimum is 0, by the wire type 1"),
        case("another maximum", MIN, {"maximum": 99}, f"{MIN}: maximum is 99, by the wire type 100"),
        case(
            "a maximum where the wire type has none",
            "status.slo.ttftMilliseconds",
            {"maximum": 1000},
            "status.slo.ttftMilliseconds: maximum is 1000, by the wire type None",
        ),
        # texts
        case(
            "a shorter name",
            "spec.classRef.name",
            {"maxLength": 63},
            "spec.classRef.name: maxLength is 63, by the wire type 253",
        ),
        case(
            "a name without pattern",
            "spec.runtimeClassName",
            {"pattern": ABSENT},
            "spec.runtimeClassName: pattern is None, by the wire type ^[a-z0-9]",
            CLASS,
        ),
        case(
            "an empty name",
            "spec.model.servedName",
            {"minLength": 0},
            "spec.model.servedName: minLength is 0, by the wire type 1",
        ),
        case(
            "a URI without end",
            "spec.model.uri",
            {"maxLength": 4096},
            "spec.model.uri: maxLength is 4096, by the wire type 1024",
        ),
        # lists
        case(
            "a list by another key",
            "status.engines[].gpus",
            {"x-kubernetes-list-map-keys": ["name"]},
            "status.engines[].gpus: x-kubernetes-list-map-keys is ['name'], by the wire type ['uuid']",
            PARTITION,
        ),
        case(
            "a keyed list that is atomic",
            "spec.scheduling.imagePullSecrets",
            {"x-kubernetes-list-type": "atomic", "x-kubernetes-list-map-keys": ABSENT},
            "spec.scheduling.imagePullSecrets: x-kubernetes-list-map-keys is None, by the wire type ['name']",
        ),
        # defaults
        case("a default in the schema", "spec.replicas", {"default": 1}, "spec.replicas: has a default"),
        case("an empty default", "spec.slo", {"default": {}}, "spec.slo: has a default"),
        case(
            "another default in words",
            MIN,
            {"description": "In percent. Default: 200."},
            f"{MIN}: does not say 'Default: 20.'",
        ),
        case(
            "silent about absence",
            "spec.classRef",
            {"description": "The class."},
            "spec.classRef: does not say 'Absent: '",
        ),
        case(
            "a required field with a default",
            "spec.model.uri",
            {"description": "Default: none."},
            "spec.model.uri: is required, but says Default: ",
        ),
    ],
)
def test_a_broken_schema_is_caught(crd: Crd, path: str, changes: Mapping[str, Any], said: str) -> None:
    defects = wire_defects(crd.wire_type, broken(crd.schema, path, changes))
    assert any(defect.startswith(said) for defect in defects), defects


@pytest.mark.parametrize(
    ("crd", "pattern"),
    [
        pytest.param(
            SERVICE,
            "^[a-z]([-a-z0-9]*[a-z0-9])?$",
            id="a service, as the Service object of its name needs it",
        ),
        pytest.param(CLASS, "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", id="a class"),
    ],
)
def test_the_schema_names_an_object_as_its_wire_type_does(crd: Crd, pattern: str) -> None:
    name = node_at(crd.schema, "metadata.name")
    (mark,) = shape.marks(shape.wire_fields(get_type_hints(crd.wire_type)["metadata"])["name"])
    assert isinstance(mark, Matches)
    assert (name["maxLength"], name["pattern"]) == (63, pattern) == (mark.max_length, f"^{mark.pattern}$")


def test_a_partition_is_named_like_its_pod() -> None:
    assert node_at(PARTITION.schema, "metadata") == {"type": "object"}


@pytest.mark.parametrize("crd", CRDS, ids=lambda crd: crd.kind)
def test_what_the_api_server_knows_an_object_by(crd: Crd) -> None:
    spec, plural = crd.manifest["spec"], crd.manifest["spec"]["names"]["plural"]
    assert crd.manifest["metadata"]["name"] == f"{plural}.{spec['group']}"
    assert f"{spec['group']}/{crd.version['name']}" == "semipd.io/v1alpha1"
    assert spec["names"]["kind"] == crd.kind
    assert spec["scope"] == ("Cluster" if crd is CLASS else "Namespaced")
    assert crd.version["served"]
    assert crd.version["storage"]
    assert crd.version["subresources"]["status"] == {}
