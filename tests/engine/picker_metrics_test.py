"""The metrics that an endpoint picker reads: the names and meanings of the model server protocol."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from prometheus_client.parser import text_string_to_metric_families

from semipd_core.telemetry import EngineUsage
from semipd_engine.frontend.picker_metrics import render_usage


def usage(waiting: int = 0, running: int = 0, used: int = 0, total: int = 100) -> EngineUsage:
    return EngineUsage(
        waiting=waiting, running=running, kv_blocks_total=total, kv_blocks_used=used, block_tokens=16
    )


@dataclass(frozen=True, slots=True)
class Read:
    """What a picker that scrapes finds."""

    waiting: float
    running: float
    kv: float
    blocks: dict[str, str]


def read(text: bytes) -> Read | None:
    families = {each.name: each for each in text_string_to_metric_families(text.decode())}
    if not families:
        return None
    assert {each.type for each in families.values()} == {"gauge"}
    [waiting], [running], [kv], [info] = (
        families[f"vllm:{name}"].samples
        for name in (
            "num_requests_waiting",
            "num_requests_running",
            "kv_cache_usage_perc",
            "cache_config_info",
        )
    )
    assert {each.labels["model_name"] for each in (waiting, running, kv, info)} == {"chat"}
    return Read(waiting.value, running.value, kv.value, info.labels)


def blocks(total: int) -> dict[str, str]:
    return {"model_name": "chat", "block_size": "16", "num_gpu_blocks": str(total)}


@pytest.mark.parametrize(
    ("usages", "expected"),
    [
        pytest.param([], None, id="no engine says: no metric, which is not zero"),
        pytest.param([usage()], Read(0, 0, 0.0, blocks(100)), id="idle is zero"),
        pytest.param([usage(3, 2, used=25)], Read(3, 2, 0.25, blocks(100)), id="one engine"),
        pytest.param(
            [usage(3, 2, used=25), usage(1, 1, used=100, total=300)],
            Read(4, 3, 0.3125, blocks(400)),
            id="two engines are one endpoint",
        ),
        pytest.param([usage(total=0)], Read(0, 0, 0.0, blocks(0)), id="no cache yet"),
    ],
)
def test_what_a_picker_reads(usages: list[EngineUsage], expected: Read | None) -> None:
    assert read(render_usage("chat", usages)) == expected
