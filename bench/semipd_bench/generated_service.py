"""The service files that benchmarks serve: one engine, one split, no policy."""

from __future__ import annotations

from pathlib import Path

import yaml

from semipd_core.partition import Isolation, Partition

BUILTIN_MODEL = "builtin://smollm2-135m"


def write_service_file(
    path: Path,
    *,
    model_uri: str,
    isolation: Isolation,
    initial: Partition | None = None,
    drain_s: int = 5,
    served_name: str | None = None,
) -> Path:
    """A one-engine service whose split moves only by hand. `initial` None: the default."""
    model = {"uri": model_uri} | ({} if served_name is None else {"servedName": served_name})
    partition: dict[str, object] = {
        "mode": "Static",
        "isolation": isolation.value,
        "bounds": {
            "prefillMinPercent": 1,
            "prefillMaxPercent": 100,
            "decodeMinPercent": 1,
            "decodeMaxPercent": 100,
        },
    }
    if initial is not None:
        partition["initial"] = {
            "prefillPercent": initial.prefill_percent,
            "decodePercent": initial.decode_percent,
        }
    service = {
        "apiVersion": "semipd.io/v1alpha1",
        "kind": "SemiPDService",
        "metadata": {"name": "bench"},
        "spec": {
            "model": model,
            "replicas": 1,
            "slo": {
                "ttft": {"percentile": 90, "targetMilliseconds": 2000},
                "tpot": {"percentile": 90, "targetMilliseconds": 250},
            },
            "partition": partition,
            "drain": {"timeoutSeconds": drain_s},
        },
    }
    path.write_text(yaml.safe_dump(service, sort_keys=False))
    return path
