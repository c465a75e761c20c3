"""The stand-in for a metrics adapter: whose values it gives, and what it refuses."""

from __future__ import annotations

import pytest

from semipd_external_metrics.objects import build_objects
from semipd_external_metrics.samples import (
    BadSelector,
    build_resources,
    build_values,
    parse_selector,
    read_samples,
    select,
)

TEXT = """\
# HELP semipd_service_slo_pressure Latency over its target.
# TYPE semipd_service_slo_pressure gauge
semipd_service_slo_pressure{name="chat",namespace="team-a"} 0.9
semipd_service_slo_pressure{name="code",namespace="team-a"} 0.25
semipd_service_slo_pressure{name="chat",namespace="team-b"} 0.1
# HELP semipd_operator_services services known
# TYPE semipd_operator_services gauge
semipd_operator_services 3.0
"""
METRIC = "semipd_service_slo_pressure"


@pytest.mark.parametrize(
    ("metric", "namespace", "selector", "values"),
    [
        pytest.param(METRIC, "team-a", "name=chat", ["900m"], id="one service"),
        pytest.param(METRIC, "team-a", "", ["900m", "250m"], id="all of a namespace"),
        pytest.param(METRIC, "team-a", "name!=chat", ["250m"], id="all but one"),
        pytest.param(METRIC, "team-b", "name==chat", ["100m"], id="the same name in another namespace"),
        pytest.param(METRIC, "team-a", "name=none", [], id="no such service: an empty list, not zero"),
        pytest.param("semipd_operator_services", "team-a", "", [], id="a metric of no namespace is nobody's"),
    ],
)
def test_an_answer_holds_the_series_of_the_namespace_that_the_selector_takes(
    metric: str, namespace: str, selector: str, values: list[str]
) -> None:
    answer = build_values(select(read_samples(TEXT), metric, namespace, selector), "2026-11-21T12:00:00Z")
    assert [item["value"] for item in answer["items"]] == values


@pytest.mark.parametrize("selector", ["name", "name in (chat, code)", "!name"])
def test_a_selector_that_is_not_understood_is_refused_by_its_words(selector: str) -> None:
    with pytest.raises(BadSelector, match="allowed: label=value or label!=value"):
        parse_selector(selector)


def test_the_metrics_that_there_are_are_listed_once() -> None:
    names = [resource["name"] for resource in build_resources(read_samples(TEXT))["resources"]]
    assert names == ["semipd_operator_services", METRIC]


def test_the_api_server_is_led_to_the_port_and_checks_the_certificate() -> None:
    service, api_service = build_objects("localhost", 4443, b"PEM")["items"]
    assert service["spec"] == {
        "type": "ExternalName",
        "externalName": "localhost",
        "ports": [{"port": 4443}],
    }
    assert api_service["spec"]["caBundle"] == "UEVN"
    assert api_service["spec"]["service"]["port"] == 4443
    assert "insecureSkipTLSVerify" not in api_service["spec"]
