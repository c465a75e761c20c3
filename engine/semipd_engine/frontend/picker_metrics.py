"""What an endpoint picker reads before it chooses a pod, under vLLM's names, which every picker knows without being told.

Source: the model server protocol of the Gateway API inference extension (proposal 003). There are no LoRA adapters to tell of.
A picker reads `/metrics` of the InferencePool's target port unless it is told otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from semipd_core.telemetry import EngineUsage


def render_usage(model_name: str, usages: Sequence[EngineUsage]) -> bytes:
    """All engines of a pod as one, in the text format; nothing where no engine says: a zero would draw requests."""
    if not usages:
        return b""
    registry = CollectorRegistry()
    registry.register(_Families(_families(model_name, usages)))
    return generate_latest(registry)


class _Families(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families


def _families(model_name: str, usages: Sequence[EngineUsage]) -> list[Metric]:
    total = sum(each.kv_blocks_total for each in usages)
    used = sum(each.kv_blocks_used for each in usages)
    blocks = {"block_size": str(usages[0].block_tokens), "num_gpu_blocks": str(total)}
    return [
        _gauge(
            "num_requests_waiting", "Requests that no step has begun.", model_name, _sum(usages, "waiting")
        ),
        _gauge("num_requests_running", "Requests in prefill or decode.", model_name, _sum(usages, "running")),
        _gauge(
            "kv_cache_usage_perc", "Part of the KV blocks in use, 0 to 1.", model_name, used / max(total, 1)
        ),
        _gauge("cache_config_info", "Tokens per block, and blocks.", model_name, 1, **blocks),
    ]


def _sum(usages: Sequence[EngineUsage], name: str) -> int:
    return sum(getattr(each, name) for each in usages)


def _gauge(name: str, text: str, model_name: str, value: float, **labels: str) -> GaugeMetricFamily:
    pairs = {"model_name": model_name, **labels}
    family = GaugeMetricFamily(f"vllm:{name}", text, labels=list(pairs))
    family.add_metric(list(pairs.values()), value)
    return family
