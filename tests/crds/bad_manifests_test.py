"""Decoder and schema refuse the same manifests at the same field, and let the same ones pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from bad_classes_and_partitions import CLASSES, PARTITIONS
from bad_manifest import BASES, Bad, By
from bad_services import SERVICES
from changed_manifest import changed
from crd_files import CRDS, SERVICE, broken
from schema_judge import build_judge, refused_path

from semipd_core.api.codec import decode_class, decode_partition, decode_service, encode
from semipd_core.errors import InvalidSpec

EXAMPLES = Path(__file__).parents[2] / "examples"
ALL = (*SERVICES, *CLASSES, *PARTITIONS)
DECODERS: Mapping[str, Callable[[object], Any]] = {
    "SemiPDService": decode_service,
    "SemiPDClass": decode_class,
    "SemiPDPartition": decode_partition,
}
JUDGES = {crd.kind: build_judge(crd.schema) for crd in CRDS}


def name_of(bad: Bad) -> str:
    return f"{bad.kind}: {bad.id}"


def test_the_table_is_long_and_names_each_row_once() -> None:
    assert len({name_of(bad) for bad in ALL}) == len(ALL) >= 100


@pytest.mark.parametrize("bad", ALL, ids=name_of)
def test_the_decoder_names_the_field(bad: Bad) -> None:
    with pytest.raises(InvalidSpec) as refused:
        DECODERS[bad.kind](bad.manifest)
    assert refused.value.path == bad.path


@pytest.mark.parametrize("bad", [bad for bad in ALL if bad.by is By.RULE], ids=name_of)
def test_the_decoder_says_the_words_of_the_rule(bad: Bad) -> None:
    with pytest.raises(InvalidSpec) as refused:
        DECODERS[bad.kind](bad.manifest)
    said = f"got {refused.value.given!r}, allowed: {refused.value.allowed}"
    assert bad.words.replace("'", "") in said.replace("'", "")


@pytest.mark.parametrize("bad", [bad for bad in ALL if bad.by in (By.SCHEMA, By.STRICT)], ids=name_of)
def test_the_schema_names_the_field(bad: Bad) -> None:
    parent = bad.path.rpartition(".")[0]
    assert refused_path(JUDGES[bad.kind], bad.manifest) in (bad.path, parent)


@pytest.mark.parametrize("bad", [bad for bad in ALL if bad.by in (By.RULE, By.KEYS)], ids=name_of)
def test_what_a_rule_or_a_key_refuses_is_fine_with_the_schema(bad: Bad) -> None:
    assert refused_path(JUDGES[bad.kind], bad.manifest) is None


FULL_SPLIT = {"prefillPercent": 80, "decodePercent": 100}
CONDITION = {
    "type": "Ready",
    "status": "False",
    "reason": "EnginesStarting",
    "message": "1 of 2 engines is ready",
    "observedGeneration": 3,
    "lastTransitionTime": "2026-01-01T00:00:00Z",
}
SERVICE_STATUS = {
    "observedGeneration": 3,
    "mode": "Auto",
    "placement": "Replicas",
    "replicas": 2,
    "readyReplicas": 1,
    "updatedReplicas": 2,
    "selector": "semipd.io/service=chat",
    "requested": FULL_SPLIT,
    "granted": FULL_SPLIT,
    "slo": {"attainmentPermille": 973, "ttftMilliseconds": 380, "tpotMilliseconds": 41},
    "decisions": [
        {
            "time": "2026-01-01T00:00:01Z",
            "decisionID": "cluster-1767225601000",
            "partition": FULL_SPLIT,
            "reason": "Held",
            "message": "",
        }
    ],
    "canary": {
        "partition": FULL_SPLIT,
        "decisionID": "cluster-1767225602000",
        "stage": "Percent",
        "since": "2026-01-01T00:00:02Z",
        "pods": ["chat-1", "chat-2"],
        "judgedBefore": 40,
        "attainedBefore": 39,
    },
    "proven": {
        "prefillMinPercent": 65,
        "prefillMaxPercent": 95,
        "decodeMinPercent": 85,
        "decodeMaxPercent": 100,
    },
    "conditions": [CONDITION],
}
PARTITION_STATUS = {
    "observedGeneration": 1,
    "observedDecisionID": "7",
    "lastHeartbeatTime": "2026-01-01T00:00:00.123456Z",
    "engines": [
        {
            "name": "engine-0",
            "requested": FULL_SPLIT,
            "granted": FULL_SPLIT,
            "gpus": [{"uuid": "GPU-1", "health": "Healthy", "message": "fine"}],
            "conditions": [CONDITION | {"type": "Switching"}],
        }
    ],
    "conditions": [CONDITION],
}


def with_status(kind: str, status: dict[str, Any]) -> dict[str, Any]:
    return changed(BASES[kind], {"status": status})


def example(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((EXAMPLES / name).read_text()))


@pytest.mark.parametrize(
    "manifest",
    [
        *(pytest.param(base, id=f"the smallest {kind}") for kind, base in BASES.items()),
        pytest.param(example("semipdservice.yaml"), id="the short example"),
        pytest.param(example("h200.yaml"), id="the long example"),
        pytest.param(example("cpu-class.yaml"), id="the class without GPUs"),
        pytest.param(example("gpu-class.yaml"), id="the class with GPUs"),
        pytest.param(with_status("SemiPDService", SERVICE_STATUS), id="a service with its status"),
        pytest.param(with_status("SemiPDPartition", PARTITION_STATUS), id="a partition with its status"),
        pytest.param(
            with_status("SemiPDClass", {"services": 2, "gpusInUse": 8, "conditions": [CONDITION]}),
            id="a class with its status",
        ),
        pytest.param(
            changed(BASES["SemiPDService"], {"spec.resources": {"cpu": 2, "memory": "1.5Gi", "kvCache": 7}}),
            id="quantities as text and as numbers",
        ),
    ],
)
def test_what_the_decoder_takes_and_what_it_writes_passes(manifest: dict[str, Any]) -> None:
    written = encode(DECODERS[manifest["kind"]](manifest))
    assert refused_path(JUDGES[manifest["kind"]], manifest) is None
    assert refused_path(JUDGES[manifest["kind"]], written) is None


def test_a_schema_that_refuses_too_much_is_caught() -> None:
    judge = build_judge(broken(SERVICE.schema, "spec.resources.kvCache", {"maxLength": 2}))
    assert refused_path(judge, example("h200.yaml")) == "spec.resources.kvCache"


def test_a_schema_that_refuses_too_little_is_caught() -> None:
    judge = build_judge(broken(SERVICE.schema, "spec.replicas", {"minimum": -5}))
    (bad,) = (bad for bad in SERVICES if bad.id == "negative replicas")
    assert refused_path(judge, bad.manifest) is None
