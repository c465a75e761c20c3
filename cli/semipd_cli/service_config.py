"""What an agent on this machine is told for a service: a pure mapping, with everything that one machine cannot do refused."""

from __future__ import annotations

from semipd_cli.settings import EngineSettings
from semipd_core.agent_config import AgentConfig, KubernetesSettings
from semipd_core.api.fields import Device
from semipd_core.api.model_uri import parse_model_uri
from semipd_core.api.quantity import parse_bytes
from semipd_core.api.service import (
    Dtype,
    HttpSpec,
    ModelSpec,
    Placement,
    SemiPDService,
    ServiceSpec,
)
from semipd_core.errors import InvalidSpec
from semipd_core.service_settings import partition_settings, slo_targets

_LOCAL_SCHEMES = ("builtin", "file", "hf")
_MAX_ENGINES = 64


def build_agent_config(
    service: SemiPDService,
    settings: EngineSettings,
    *,
    present: Device,
    host: str,
    port: int,
    kubernetes: KubernetesSettings | None = None,
) -> AgentConfig:
    """`present` is the device that `Auto` stands for.

    Raises: InvalidSpec for what a cluster could do with this service and one machine cannot.
    """
    spec = service.spec
    device = _device(spec, present)
    return AgentConfig(
        service=service.metadata.name,
        engines=_engines(spec),
        device=device.value,
        host=host,
        port=port,
        model_uri=_model_uri(spec.model),
        served_name=spec.model.served_name
        or parse_model_uri(spec.model.uri, "spec.model.uri").default_served_name,
        dtype=_dtype(spec.model),
        max_context_tokens=spec.model.max_context_tokens,
        kv_bytes=_kv_bytes(spec),
        block_tokens=settings.block_tokens,
        max_rows=settings.max_rows,
        prefill_budget_tokens=settings.prefill_budget_tokens,
        mixed_budget_tokens=settings.mixed_budget_tokens,
        prefill_policy=settings.prefill_policy,
        spf_aging_tokens_per_s=settings.spf_aging_tokens_per_s,
        spf_max_wait_s=settings.spf_max_wait_s,
        run_ahead=settings.run_ahead,
        prefix_cache=settings.prefix_cache,
        api_key=_api_key(spec.http, settings),
        max_queued_requests=spec.http.max_queued_requests,
        drain_timeout_seconds=spec.drain.timeout_seconds,
        slo=slo_targets(spec.slo),
        partition=partition_settings(spec.partition),
        kubernetes=kubernetes,
    )


def _device(spec: ServiceSpec, present: Device) -> Device:
    given = spec.resources.device
    device = present if given is Device.AUTO else given
    if device is not Device.CPU:
        found = "Auto, which is CUDA on this machine" if given is Device.AUTO else given.value
        raise InvalidSpec("spec.resources.device", found, "CPU in this version")
    return device


def _engines(spec: ServiceSpec) -> int:
    """Replicas of a cluster are engines of one agent here; this machine is every node there is."""
    if spec.placement is Placement.EVERY_NODE:
        return spec.resources.engines_per_pod
    replicas = 1 if spec.replicas is None else spec.replicas
    if not 1 <= replicas * spec.resources.engines_per_pod <= _MAX_ENGINES:
        raise InvalidSpec("spec.replicas", replicas, f"1..{_MAX_ENGINES} engines on one machine")
    return replicas * spec.resources.engines_per_pod


def _model_uri(model: ModelSpec) -> str:
    if parse_model_uri(model.uri, "spec.model.uri").scheme not in _LOCAL_SCHEMES:
        allowed = ", ".join(f"{scheme}://" for scheme in _LOCAL_SCHEMES)
        raise InvalidSpec("spec.model.uri", model.uri, f"{allowed} on one machine; the others need a cluster")
    return model.uri


def _dtype(model: ModelSpec) -> str:
    if model.dtype is Dtype.FP8:
        raise InvalidSpec("spec.model.dtype", model.dtype.value, "one of Auto, BF16, FP32 on device CPU")
    return model.dtype.value


def _kv_bytes(spec: ServiceSpec) -> int | None:
    quantity = spec.resources.kv_cache
    return None if quantity is None else parse_bytes(quantity, "spec.resources.kvCache")


def _api_key(http: HttpSpec, settings: EngineSettings) -> str | None:
    """The key is asked for where the service asks for it; one machine has no secrets but its environment."""
    if http.api_key_secret_ref is None:
        return None
    key = settings.api_key.get_secret_value() if settings.api_key else ""
    if not key:
        name = http.api_key_secret_ref.name
        raise InvalidSpec("spec.http.apiKeySecretRef", name, "with `semipd up`: the key in SEMIPD_API_KEY")
    return key
