"""The CRDs keep the conventions of Kubernetes APIs: structural, bounded, described, no floats and no booleans."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from convention_checks import convention_defects
from crd_files import ABSENT, CRDS, DIRECTORY, SERVICE, Crd, broken

LARGEST_BYTES = 256 * 1024  # client-side apply keeps a copy of the file in an annotation, which is no longer


@pytest.mark.parametrize("crd", CRDS, ids=lambda crd: crd.kind)
def test_a_schema_keeps_the_conventions(crd: Crd) -> None:
    assert convention_defects(crd.schema) == []


def case(name: str, path: str, changes: Mapping[str, Any], said: str) -> Any:
    return pytest.param(path, changes, f"{path}: {said}", id=name)


TOLERATIONS, SELECTOR = "spec.scheduling.tolerations", "spec.scheduling.nodeSelector"
CONDITIONS, REPLICAS = "status.conditions", "spec.replicas"


@pytest.mark.parametrize(
    ("path", "changes", "said"),
    [
        case("a reference", "spec.slo", {"$ref": "#/definitions/slo"}, "$ref is no keyword here"),
        case(
            "unknown fields are kept", "spec", {"x-kubernetes-preserve-unknown-fields": True}, "x-kubernetes"
        ),
        case("null is a value", REPLICAS, {"nullable": True}, "nullable is no keyword here"),
        case("a default", REPLICAS, {"default": 1}, "default is no keyword here"),
        case("a float", REPLICAS, {"type": "number"}, "type number is not one of"),
        case("a boolean", REPLICAS, {"type": "boolean"}, "type boolean is not one of"),
        case("no type", "spec.slo", {"type": ABSENT}, "type None is not one of"),
        case("a float by its format", REPLICAS, {"format": "double"}, "format double is not allowed"),
        case(
            "an integer of unknown width", REPLICAS, {"format": ABSENT}, "an integer without int32 or int64"
        ),
        case("no description", "spec.slo", {"description": ABSENT}, "no description"),
        case(
            "a list's items without description",
            f"{TOLERATIONS}[]",
            {"description": ABSENT},
            "no description",
        ),
        case("half a description", "spec.slo", {"description": "What a request"}, "no description"),
        case(
            "a share without unit",
            "status.granted.prefillPercent",
            {"description": "Prefill's share."},
            "the description does not name the unit, percent",
        ),
        case(
            "a time without unit",
            "spec.slo.ttft.targetMilliseconds",
            {"description": "The target. Default: 400."},
            "the description does not name the unit, milliseconds",
        ),
        case("a text without end", "spec.model.uri", {"maxLength": ABSENT}, "a text without maxLength"),
        case(
            "a quantity without end", "spec.resources.cpu", {"maxLength": ABSENT}, "a text without maxLength"
        ),
        case(
            "a map's text without end", f"{SELECTOR}{{}}", {"maxLength": ABSENT}, "a text without maxLength"
        ),
        case("a list without end", TOLERATIONS, {"maxItems": ABSENT}, "a list without maxItems"),
        case(
            "a list without kind",
            TOLERATIONS,
            {"x-kubernetes-list-type": ABSENT},
            "a list without x-kubernetes-list-type",
        ),
        case(
            "a key that may be absent",
            CONDITIONS,
            {"x-kubernetes-list-map-keys": ["message"]},
            "key message may",
        ),
        case(
            "conditions without key",
            CONDITIONS,
            {"x-kubernetes-list-map-keys": ABSENT},
            "conditions are keyed by type",
        ),
        case(
            "a keyed list without keys",
            "spec.scheduling.imagePullSecrets",
            {"x-kubernetes-list-map-keys": ABSENT},
            "a keyed list without keys",
        ),
        case(
            "half a split", "spec.partition.initial", {"x-kubernetes-map-type": ABSENT}, "one value, but not"
        ),
        case(
            "half a reference", "spec.classRef", {"x-kubernetes-map-type": "granular"}, "one value, but not"
        ),
        case("a map without end", SELECTOR, {"maxProperties": ABSENT}, "a map without maxProperties"),
        case(
            "a map of anything",
            "spec.http",
            {"additionalProperties": {"type": "string"}, "maxProperties": 9},
            "a map with keys of the user's choice",
        ),
    ],
)
def test_a_broken_schema_is_caught(path: str, changes: Mapping[str, Any], said: str) -> None:
    defects = convention_defects(broken(SERVICE.schema, path, changes))
    assert any(defect.startswith(said) for defect in defects), defects


@pytest.mark.parametrize(
    "name", ["phase", "switchTimestamp", "classReference", "drainDuration", "proxyEnabled"]
)
def test_a_bad_name_is_caught(name: str) -> None:
    schema = broken(SERVICE.schema, "spec.drain", {"properties": {name: {"type": "integer"}}})
    assert any(defect.startswith(f"spec.drain.{name}: ") for defect in convention_defects(schema))
    assert any(defect.endswith(" in a name") for defect in convention_defects(schema))


@pytest.mark.parametrize("crd", CRDS, ids=lambda crd: crd.kind)
def test_a_file_is_small_enough_for_client_side_apply(crd: Crd) -> None:
    plural = crd.manifest["spec"]["names"]["plural"]
    assert (DIRECTORY / f"{plural}.yaml").stat().st_size < LARGEST_BYTES


def test_the_short_names_differ() -> None:
    names = [name for crd in CRDS for name in crd.manifest["spec"]["names"]["shortNames"]]
    assert sorted(names) == ["spd", "spdc", "spdp"]


@pytest.mark.parametrize("crd", CRDS, ids=lambda crd: crd.kind)
def test_get_semipd_lists_every_kind_and_get_all_none(crd: Crd) -> None:
    assert crd.manifest["spec"]["names"]["categories"] == ["semipd"]
