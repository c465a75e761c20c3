"""Each wrong SemiPDClass and SemiPDPartition is refused with the path of the field, the value given and what is allowed."""

from __future__ import annotations

from typing import Any

import pytest
from changed_manifest import CLASS, PARTITION, SERVICE, case, changed

from semipd_core.api.codec import decode_class, decode_partition, decode_service
from semipd_core.errors import InvalidSpec


@pytest.mark.parametrize(
    ("changes", "path", "given", "allowed"),
    [
        case(
            "a class falls back to a device",
            {"spec.device": "Auto"},
            "spec.device",
            "'Auto'",
            "one of CUDA, CPU",
        ),
        case(
            "no isolation allowed",
            {"spec.allowedIsolations": []},
            "spec.allowedIsolations",
            "[]",
            "not empty",
        ),
        case(
            "Auto is no back-end",
            {"spec.allowedIsolations": ["MPS", "Auto"]},
            "spec.allowedIsolations[1]",
            "'Auto'",
            "one of MPS, GreenContext, None, Unified",
        ),
        case(
            "an isolation twice",
            {"spec.allowedIsolations": ["MPS", "MPS"]},
            "spec.allowedIsolations",
            "['MPS', 'MPS']",
            "without repeats",
        ),
        case(
            "bounds the wrong way round",
            {"spec.bounds": {"prefillMinPercent": 90, "prefillMaxPercent": 80}},
            "spec.bounds.prefillMinPercent",
            "90",
            "at most prefillMaxPercent, which is 80",
        ),
        case(
            "no switch at all",
            {"spec.maxSwitchesPerHour": 0},
            "spec.maxSwitchesPerHour",
            "0",
            "an integer 1..100000",
        ),
    ],
)
def test_class_is_refused(changes: dict[str, Any], path: str, given: str, allowed: str) -> None:
    with pytest.raises(InvalidSpec) as refused:
        decode_class(changed(CLASS, changes))
    assert refused.value.path == path
    assert given in repr(refused.value.given)
    assert allowed in refused.value.allowed


BAND = {"prefillMinPercent": 60, "prefillMaxPercent": 90, "decodeMinPercent": 100, "decodeMaxPercent": 100}


@pytest.mark.parametrize(
    ("changes", "path", "given", "allowed"),
    [
        case("a decision without name", {"spec.decisionID": ""}, "spec.decisionID", "''", "not empty"),
        case(
            "an initialism in lower case",
            {"spec.decisionId": "7"},
            "spec.decisionId",
            "an unknown key",
            "decisionID",
        ),
        case(
            "a target outside its band",
            {"spec.band": {**BAND, "prefillMaxPercent": 70}},
            "spec.target.prefillPercent",
            "80",
            "60..70, the band of prefill",
        ),
        case(
            "half a band",
            {"spec.band": {"prefillMinPercent": 60}},
            "spec.band.prefillMaxPercent",
            "nothing",
            "an integer 1..100 (required)",
        ),
    ],
)
def test_partition_is_refused(changes: dict[str, Any], path: str, given: str, allowed: str) -> None:
    with pytest.raises(InvalidSpec) as refused:
        decode_partition(changed(PARTITION, changes))
    assert refused.value.path == path
    assert given in repr(refused.value.given)
    assert allowed in refused.value.allowed


def test_the_bases_of_the_tables_are_fine() -> None:
    assert decode_service(SERVICE).metadata.name == "chat"
    assert decode_class(CLASS).metadata.name == "standard"
    assert decode_partition(changed(PARTITION, {"spec.band": BAND})).spec.decision_id == "7"


def test_a_message_has_path_value_and_what_is_allowed() -> None:
    with pytest.raises(InvalidSpec, match=r"^spec\.replicas: got '2', allowed: an integer 0\.\.100000$"):
        decode_service(changed(SERVICE, {"spec.replicas": "2"}))
