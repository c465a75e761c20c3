"""What is decoded has all defaults, survives a round trip, and says in its own types what the examples say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from semipd_core.api.codec import decode_class, decode_partition, decode_service, encode, read_service
from semipd_core.api.model_uri import parse_model_uri
from semipd_core.api.quantity import parse_bytes, parse_millicpus
from semipd_core.errors import InvalidSpec

EXAMPLES = Path(__file__).parents[2] / "examples"

percent = st.integers(1, 100)
label = st.from_regex(r"[a-z]([-a-z0-9]{0,10}[a-z0-9])?", fullmatch=True)
label_value = st.from_regex(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,10}[A-Za-z0-9])?)?", fullmatch=True)
ordered = st.tuples(percent, percent).map(sorted)


@st.composite
def bounds(draw: st.DrawFn) -> dict[str, int]:
    (prefill_min, prefill_max), (decode_min, decode_max) = draw(ordered), draw(ordered)
    return {
        "prefillMinPercent": prefill_min,
        "prefillMaxPercent": prefill_max,
        "decodeMinPercent": decode_min,
        "decodeMaxPercent": decode_max,
    }


@st.composite
def splits_inside(draw: st.DrawFn, limits: dict[str, int]) -> dict[str, int]:
    return {
        "prefillPercent": draw(st.integers(limits["prefillMinPercent"], limits["prefillMaxPercent"])),
        "decodePercent": draw(st.integers(limits["decodeMinPercent"], limits["decodeMaxPercent"])),
    }


condition = st.fixed_dictionaries(
    {
        "type": st.sampled_from(["Ready", "SLOMet"]),
        "status": st.sampled_from(["True", "False", "Unknown"]),
        "reason": st.just("Seen"),
    },
    optional={"message": st.text(), "observedGeneration": st.integers(0, 9)},
)


@st.composite
def services(draw: st.DrawFn) -> dict[str, Any]:
    limits = draw(bounds())
    spec = draw(
        st.fixed_dictionaries(
            {
                "model": st.fixed_dictionaries(
                    {"uri": st.sampled_from(["hf://a/b@main", "file:///m.gguf", "pvc://claim/m"])},
                    optional={"dtype": st.sampled_from(["Auto", "BF16"]), "servedName": label},
                )
            },
            optional={
                "classRef": st.fixed_dictionaries({"name": label}),
                "replicas": st.integers(0, 9),
                "routing": st.sampled_from(["Service", "Proxy", "InferencePool"]),
                "resources": st.fixed_dictionaries(
                    {},
                    optional={
                        "device": st.sampled_from(["Auto", "CPU", "CUDA"]),
                        "cpu": st.sampled_from(["500m", "4", 2]),
                        "kvCache": st.just("1.5Gi"),
                    },
                ),
                "slo": st.fixed_dictionaries(
                    {},
                    optional={"ttft": st.fixed_dictionaries({}, optional={"percentile": st.integers(1, 99)})},
                ),
                "scheduling": st.fixed_dictionaries(
                    {},
                    optional={
                        "nodeSelector": st.dictionaries(label, label_value, max_size=3),
                        "tolerations": st.lists(st.fixed_dictionaries({"key": label}), max_size=2),
                    },
                ),
                "partition": st.fixed_dictionaries(
                    {"bounds": st.just(limits)},
                    optional={
                        "initial": splits_inside(limits),
                        "isolation": st.sampled_from(["Auto", "MPS", "GreenContext", "None", "Unified"]),
                    },
                ),
            },
        )
    )
    manifest = {
        "apiVersion": "semipd.io/v1alpha1",
        "kind": "SemiPDService",
        "metadata": {"name": draw(label)},
        "spec": spec,
    }
    if draw(st.booleans()):
        manifest["status"] = {
            "conditions": draw(st.lists(condition, max_size=2, unique_by=lambda each: each["type"])),
            "granted": {"prefillPercent": 1, "decodePercent": 2},
        }
    return manifest


@given(services())
def test_round_trip(manifest: dict[str, Any]) -> None:
    service = decode_service(manifest)
    encoded = encode(service)
    assert decode_service(encoded) == service
    assert decode_service(json.loads(json.dumps(encoded))) == service


@given(services())
def test_what_was_given_is_kept(manifest: dict[str, Any]) -> None:
    assert_holds(encode(decode_service(manifest)), manifest)


def assert_holds(whole: Any, part: Any) -> None:
    if isinstance(part, dict):
        for key, value in part.items():
            assert_holds(whole[key], value)
    elif isinstance(part, list):
        assert len(whole) == len(part)
        for left, right in zip(whole, part, strict=True):
            assert_holds(left, right)
    else:
        assert whole == part


@given(services())
def test_the_initial_split_is_inside_the_bounds(manifest: dict[str, Any]) -> None:
    partition = decode_service(manifest).spec.partition
    split, limits = partition.initial_split, partition.bounds
    assert limits.prefill_min_percent <= split.prefill_percent <= limits.prefill_max_percent
    assert limits.decode_min_percent <= split.decode_percent <= limits.decode_max_percent


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(st.sampled_from(["spec", "kind", "metadata", "model", "uri", "x"]), inner)
        ),
    )
)
def test_any_input_is_decoded_or_refused(anything: Any) -> None:
    with pytest.raises(InvalidSpec):
        decode_service(anything)


def test_a_minimal_service_has_the_defaults_of_the_design() -> None:
    minimal = {
        "apiVersion": "semipd.io/v1alpha1",
        "kind": "SemiPDService",
        "metadata": {"name": "chat"},
        "spec": {"model": {"uri": "builtin://smollm2-135m"}},
    }
    spec = encode(decode_service(minimal))["spec"]
    assert "replicas" not in spec  # an autoscaler may own it
    assert spec["partition"] == {
        "mode": "Auto",
        "policy": "ModelPredictive",
        "isolation": "Auto",
        "bounds": {
            "prefillMinPercent": 20,
            "prefillMaxPercent": 100,
            "decodeMinPercent": 40,
            "decodeMaxPercent": 100,
        },
        "cooldownSeconds": 30,
    }
    assert spec["slo"] == {
        "ttft": {"percentile": 90, "targetMilliseconds": 400},
        "tpot": {"percentile": 90, "targetMilliseconds": 60},
    }
    assert spec["rollout"] == {"maxSurge": 1, "maxUnavailable": 0, "canaryPercent": 25}
    assert spec["drain"] == {"timeoutSeconds": 120}


@pytest.mark.parametrize("name", ["semipdservice.yaml", "h200.yaml"])
def test_an_example_is_decoded_and_kept(name: str) -> None:
    manifest = yaml.safe_load((EXAMPLES / name).read_text())
    assert_holds(encode(decode_service(manifest)), manifest)


def test_the_long_example_names_the_class_that_is_an_example_too_and_leaves_replicas_to_its_autoscaler() -> (
    None
):
    service = decode_service(yaml.safe_load((EXAMPLES / "h200.yaml").read_text()))
    cls = decode_class(yaml.safe_load((EXAMPLES / "gpu-class.yaml").read_text()))
    assert service.spec.class_ref is not None
    assert service.spec.class_ref.name == cls.metadata.name
    assert service.spec.autoscale is not None
    assert service.spec.replicas is None


def test_an_object_as_an_api_server_returns_it_is_decoded() -> None:
    manifest = yaml.safe_load((EXAMPLES / "h200.yaml").read_text())
    manifest["metadata"] |= {
        "uid": "0b6c",
        "resourceVersion": "81",
        "generation": 3,
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "managedFields": [{"manager": "kubectl", "fieldsV1": {"f:spec": {".": {}}}}],
    }
    manifest["status"] = {
        "observedGeneration": 3,
        "selector": "app.kubernetes.io/instance=chat",
        "decisions": [
            {
                "time": "2026-01-01T00:00:01Z",
                "decisionID": "7",
                "partition": {"prefillPercent": 40, "decodePercent": 100},
                "reason": "TpotPredictedToMiss",
                "message": "",
            }
        ],
    }
    service = decode_service(manifest)
    assert service.status is not None
    assert service.status.decisions[0].decision_id == "7"
    assert decode_service(encode(service)) == service


@pytest.mark.parametrize(
    ("status", "replicas"),
    [
        pytest.param({"replicas": 3, "weather": "fine"}, 3, id="a field that it does not know is left out"),
        pytest.param({"replicas": "three"}, None, id="what it cannot read is as if there were none"),
    ],
)
def test_a_status_by_another_release_keeps_nobody_from_reading_a_service(
    status: dict[str, Any], replicas: int | None
) -> None:
    written = {
        "apiVersion": "semipd.io/v1alpha1",
        "kind": "SemiPDService",
        "metadata": {"name": "chat"},
        "spec": {"model": {"uri": "builtin://smollm2-135m"}},
    }
    manifest = {**written, "status": status}
    with pytest.raises(InvalidSpec):
        decode_service(manifest)
    found = read_service(manifest)
    assert found.spec == decode_service(written).spec
    assert (found.status.replicas if found.status else None) == replicas
    with pytest.raises(InvalidSpec, match="weather"):
        read_service({**manifest, "spec": {**written["spec"], "weather": "fine"}})


def test_a_partition_and_a_class_survive_a_round_trip() -> None:
    partition = decode_partition(
        {
            "apiVersion": "semipd.io/v1alpha1",
            "kind": "SemiPDPartition",
            "metadata": {"name": "chat-7d9f.0"},
            "spec": {"target": {"prefillPercent": 80, "decodePercent": 100}, "decisionID": "7"},
            "status": {
                "observedDecisionID": "7",
                "engines": [
                    {
                        "name": "engine-0",
                        "requested": {"prefillPercent": 80, "decodePercent": 100},
                        "gpus": [{"uuid": "GPU-1", "health": "Healthy"}],
                    }
                ],
            },
        }
    )
    assert decode_partition(encode(partition)) == partition
    cls = decode_class(
        {
            "apiVersion": "semipd.io/v1alpha1",
            "kind": "SemiPDClass",
            "metadata": {"name": "standard", "annotations": {"semipd.io/is-default-class": "true"}},
            "spec": {"allowedIsolations": ["MPS", "None"]},
        }
    )
    assert cls.is_default
    assert decode_class(encode(cls)) == cls


@pytest.mark.parametrize(
    ("given_quantity", "expected"),
    [
        pytest.param("40Gi", 40 * 2**30, id="binary"),
        pytest.param("2G", 2 * 10**9, id="decimal"),
        pytest.param("1.5Ki", 1536, id="a fraction of a unit"),
        pytest.param("1E", 10**18, id="E alone is exa"),
        pytest.param("1E3", 1000, id="E with digits is an exponent"),
        pytest.param("1500m", 2, id="rounded up to whole bytes"),
        pytest.param(7, 7, id="a plain integer"),
    ],
)
def test_bytes_of_a_quantity(given_quantity: str | int, expected: int) -> None:
    assert parse_bytes(given_quantity, "spec.resources.memory") == expected


@pytest.mark.parametrize(("cpus", "expected"), [("500m", 500), ("4", 4000), (".5", 500), (2, 2000)])
def test_millicpus_of_a_quantity(cpus: str | int, expected: int) -> None:
    assert parse_millicpus(cpus, "spec.resources.cpu") == expected


@pytest.mark.parametrize(
    ("uri", "location", "revision", "served_name"),
    [
        pytest.param(
            "hf://meta-llama/Llama-3.1-8B@v1",
            "meta-llama/Llama-3.1-8B",
            "v1",
            "meta-llama/Llama-3.1-8B",
            id="hf with a revision",
        ),
        pytest.param("hf://a/b", "a/b", None, "a/b", id="hf"),
        pytest.param("file:///models/tiny.gguf", "/models/tiny.gguf", None, "tiny", id="a gguf file"),
        pytest.param("file:///models/tiny/", "/models/tiny/", None, "tiny", id="a directory"),
        pytest.param("builtin://smollm2-135m", "smollm2-135m", None, "smollm2-135m", id="built in"),
        pytest.param("pvc://claim/a/b", "claim/a/b", None, "b", id="a claim"),
    ],
)
def test_parts_of_a_model_uri(uri: str, location: str, revision: str | None, served_name: str) -> None:
    parsed = parse_model_uri(uri, "spec.model.uri")
    assert (parsed.location, parsed.revision, parsed.default_served_name) == (location, revision, served_name)
