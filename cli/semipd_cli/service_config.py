"""What an agent on this machine is told for a service: a pure mapping, with everything that one machine cannot do refused."""

from __future__ import annotations

from collections.abc import Sequence

from semipd_cli.settings import EngineSettings
from semipd_core.agent_config import AgentConfig, KubernetesSettings, StandbySettings
from semipd_core.api.fields import Device
from semipd_core.api.model_uri import parse_model_uri
from semipd_core.api.quantity import parse_bytes
from semipd_core.api.service import (
    HttpSpec,
    ModelSpec,
    Placement,
    SemiPDService,
    ServiceSpec,
)
from semipd_core.engine_config import AttentionKernels
from semipd_core.errors import InvalidSpec
from semipd_core.partition import Isolation
from semipd_core.service_settings import partition_settings, ranks_defect, slo_targets

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
    isolations: Sequence[Isolation] = tuple(Isolation),
) -> AgentConfig:
    """`present` is the device that `Auto` stands for; `isolations` those that its class lets `Auto` choose from.

    Raises: InvalidSpec for what a cluster could do with this service and one machine cannot.
    """
    spec = service.spec
    device = _device(spec, present, in_pod=kubernetes is not None)
    sizes = settings.sizes(device)
    return AgentConfig(
        service=service.metadata.name,
        engines=_engines(spec),
        device=device.value,
        host=host,
        port=port,
        model_uri=_model_uri(spec.model),
        served_name=spec.model.served_name
        or parse_model_uri(spec.model.uri, "spec.model.uri").default_served_name,
        dtype=spec.model.dtype.value,
        max_context_tokens=spec.model.max_context_tokens,
        kv_bytes=_kv_bytes(spec),
        block_tokens=sizes.block_tokens,
        max_rows=sizes.max_rows,
        prefill_budget_tokens=sizes.prefill_budget_tokens,
        mixed_budget_tokens=sizes.mixed_budget_tokens,
        prefill_policy=settings.prefill_policy,
        spf_aging_tokens_per_s=settings.spf_aging_tokens_per_s,
        spf_max_wait_s=settings.spf_max_wait_s,
        run_ahead=sizes.run_ahead,
        prefix_cache=settings.prefix_cache,
        api_key=_api_key(spec.http, settings),
        max_queued_requests=spec.http.max_queued_requests,
        drain_timeout_seconds=spec.drain.timeout_seconds,
        slo=slo_targets(spec.slo),
        partition=partition_settings(spec.partition, isolations),
        kubernetes=kubernetes,
        attention_kernels=_attention_kernels(settings, device),
        num_ranks=_num_ranks(spec, device, isolations),
        standby=StandbySettings(lanes_max=sizes.standby_lanes, max_age_s=settings.standby_max_age_s),
    )


def _device(spec: ServiceSpec, present: Device, *, in_pod: bool) -> Device:
    """A pod that was given GPUs waits for their driver; a command says at once that there are none."""
    given = spec.resources.device
    device = present if given is Device.AUTO else given
    if device is Device.CUDA and present is not Device.CUDA and not in_pod:
        raise InvalidSpec("spec.resources.device", given.value, "CPU here: `semipd doctor` finds no GPU")
    return device


def _attention_kernels(settings: EngineSettings, device: Device) -> AttentionKernels:
    """Whether a GPU can have those that are asked for, its lanes find out."""
    kernels = settings.attention_kernels
    if device is not Device.CUDA and kernels is not AttentionKernels.AUTO:
        raise InvalidSpec("SEMIPD_ATTENTION_KERNELS", kernels.value, "Auto on a CPU: it has no such kernels")
    return kernels


def _engines(spec: ServiceSpec) -> int:
    """Replicas of a cluster are engines of one agent here; this machine is every node there is."""
    if spec.placement is Placement.EVERY_NODE:
        return spec.resources.engines_per_pod
    replicas = 1 if spec.replicas is None else spec.replicas
    if not 1 <= replicas * spec.resources.engines_per_pod <= _MAX_ENGINES:
        raise InvalidSpec("spec.replicas", replicas, f"1..{_MAX_ENGINES} engines on one machine")
    return replicas * spec.resources.engines_per_pod


def _num_ranks(spec: ServiceSpec, device: Device, isolations: Sequence[Isolation]) -> int:
    """On GPUs each has one of its own; on a CPU they share its cores."""
    defect = ranks_defect(spec, device, isolations)
    if defect is not None:
        raise defect
    return spec.resources.gpus_per_engine


def _model_uri(model: ModelSpec) -> str:
    if parse_model_uri(model.uri, "spec.model.uri").scheme not in _LOCAL_SCHEMES:
        allowed = ", ".join(f"{scheme}://" for scheme in _LOCAL_SCHEMES)
        raise InvalidSpec("spec.model.uri", model.uri, f"{allowed} on one machine; the others need a cluster")
    return model.uri


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
