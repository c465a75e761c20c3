"""Prometheus' text as answers of the external metrics API. Pure.

Source: k8s.io/metrics/pkg/apis/external_metrics/v1beta1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

GROUP_VERSION = "external.metrics.k8s.io/v1beta1"


class BadSelector(ValueError):
    """The selector has a requirement that is not understood."""


@dataclass(frozen=True, slots=True)
class Sample:
    metric: str
    labels: Mapping[str, str]
    value: float


def read_samples(text: str) -> list[Sample]:
    return [
        Sample(sample.name, dict(sample.labels), sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]


def select(samples: Iterable[Sample], metric: str, namespace: str, selector: str) -> list[Sample]:
    """Of `namespace`, which is a label of every series that has one. Raises: BadSelector."""
    requirements = parse_selector(selector)
    return [
        sample
        for sample in samples
        if sample.metric == metric
        and sample.labels.get("namespace") == namespace
        and all((sample.labels.get(key) == value) is equal for key, value, equal in requirements)
    ]


def parse_selector(selector: str) -> list[tuple[str, str, bool]]:
    """(label, value, whether they must be equal) each. Raises: BadSelector."""
    found = []
    for part in filter(None, (part.strip() for part in selector.split(","))):
        for operator in ("!=", "==", "="):
            key, middle, value = part.partition(operator)
            if middle:
                found.append((key.strip(), value.strip(), operator != "!="))
                break
        else:
            raise BadSelector(f"labelSelector: got {part!r}, allowed: label=value or label!=value")
    return found


def build_values(samples: Iterable[Sample], timestamp: str) -> dict[str, Any]:
    """An ExternalMetricValueList; values in thousandths."""
    return {
        "kind": "ExternalMetricValueList",
        "apiVersion": GROUP_VERSION,
        "metadata": {},
        "items": [
            {
                "metricName": sample.metric,
                "metricLabels": dict(sample.labels),
                "timestamp": timestamp,
                "value": f"{round(sample.value * 1000)}m",
            }
            for sample in samples
        ],
    }


def build_resources(samples: Iterable[Sample]) -> dict[str, Any]:
    """An APIResourceList of the metrics that there are."""
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": GROUP_VERSION,
        "resources": [
            {
                "name": metric,
                "singularName": "",
                "namespaced": True,
                "kind": "ExternalMetricValueList",
                "verbs": ["get"],
            }
            for metric in sorted({sample.metric for sample in samples})
        ],
    }
