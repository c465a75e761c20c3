"""The one place that knows how this engine is asked to serve on CUDA: services, settings, and what it lacks."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from gpu_bench.llama import LLAMA_8B, write_model
from gpu_bench.needs import Needs, require_gpu
from semipd_cli.service_config import build_agent_config
from semipd_cli.service_file import read_service
from semipd_cli.settings import read_settings
from semipd_core.agent_config import AgentConfig
from semipd_core.api.fields import Device
from semipd_core.errors import InvalidSpec
from semipd_core.partition import Isolation, Partition
from semipd_core.telemetry import SloTargets

KV_CACHE = "80Gi"
SETTINGS: Mapping[str, str] = {
    "SEMIPD_MAX_ROWS": "256",
    "SEMIPD_PREFILL_BUDGET_TOKENS": "2048",
    "SEMIPD_MIXED_BUDGET_TOKENS": "512",
    "SEMIPD_RUN_AHEAD": "2",
    "SEMIPD_PREFIX_CACHE": "false",  # prompts are all different: it could only cost
}
START_LIMIT_S = 150.0  # then an engine counts as one that does not start
NO_SLO = SloTargets(ttft_percentile=90, ttft_ms=60_000, tpot_percentile=90, tpot_ms=60_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mode:
    """One way to serve: this engine's, or a baseline."""

    name: str
    isolation: Isolation
    initial: Partition = Partition(prefill_percent=100, decode_percent=100)  # noqa: RUF009  (frozen)
    moves: bool = False  # the policy may
    settings: Mapping[str, str] | None = None


def write_service(path: Path, model: Path, mode: Mode, slo: SloTargets = NO_SLO) -> Path:
    """A SemiPDService of one engine."""
    split = {
        "prefillPercent": mode.initial.prefill_percent, "decodePercent": mode.initial.decode_percent,
    }  # fmt: skip
    bounds = {
        "prefillMinPercent": 10, "prefillMaxPercent": 100, "decodeMinPercent": 10, "decodeMaxPercent": 100,
    }  # fmt: skip
    partition: dict[str, Any] = {
        "mode": "Auto" if mode.moves else "Static", "isolation": mode.isolation.value, "initial": split, "bounds": bounds,
    }  # fmt: skip
    service = {
        "apiVersion": "semipd.io/v1alpha1",
        "kind": "SemiPDService",
        "metadata": {"name": "gpu"},
        "spec": {
            "model": {
                "uri": f"file://{model}",
                "servedName": "llama",
                "dtype": "BF16",
                "maxContextTokens": 8192,
            },
            "replicas": 1,
            "resources": {"device": "CUDA", "kvCache": KV_CACHE},
            "slo": {
                "ttft": {"percentile": slo.ttft_percentile, "targetMilliseconds": slo.ttft_ms},
                "tpot": {"percentile": slo.tpot_percentile, "targetMilliseconds": slo.tpot_ms},
            },
            "partition": partition,
            "http": {"maxQueuedRequests": 4096},
            "drain": {"timeoutSeconds": 5},
        },
    }
    path.write_text(yaml.safe_dump(service, sort_keys=False))
    return path


def require_engine(file: Path) -> AgentConfig:
    """What an agent would be told. Raises: Needs with the product's own words where it cannot serve this yet."""
    require_gpu()
    os.environ.update(SETTINGS)
    try:
        return build_agent_config(
            read_service(str(file)), read_settings(), present=Device.CUDA, host="127.0.0.1", port=8000
        )
    except InvalidSpec as error:
        raise Needs(f"the engine on CUDA ({error})") from None


def model_directory(out: Path) -> Path:
    """The random Llama-3.1-8B, written at the first call: outside the results, which are small."""
    return write_model(Path(os.environ.get("SEMIPD_GPU_MODEL", f"{out}-llama")), LLAMA_8B)
