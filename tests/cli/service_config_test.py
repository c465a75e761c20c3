"""What one machine makes of a service, and what it leaves to a cluster."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from semipd_cli.service_config import build_agent_config
from semipd_cli.settings import EngineSettings, read_settings
from semipd_core.agent_config import AgentConfig, StandbySettings
from semipd_core.api.codec import decode_service
from semipd_core.api.fields import Device
from semipd_core.cluster.state import ClusterConfig
from semipd_core.engine_config import AttentionKernels
from semipd_core.errors import InvalidSpec
from semipd_core.latency.share_curve import ASSUMED_GPU_CURVES
from semipd_core.node.loop import NodeConfig
from semipd_core.partition import Isolation, Role


def build(
    spec: dict[str, Any], present: Device = Device.CPU, settings: EngineSettings | None = None
) -> AgentConfig:
    manifest = {"apiVersion": "semipd.io/v1alpha1", "kind": "SemiPDService", "metadata": {"name": "chat"}}
    whole = deepcopy({"model": {"uri": "builtin://smollm2-135m"}} | spec)
    service = decode_service(manifest | {"spec": whole})
    return build_agent_config(
        service, settings or read_settings(), present=present, host="127.0.0.1", port=8000
    )


def test_a_minimal_service_gets_every_default() -> None:
    config = build({})
    assert (config.service, config.engines, config.device) == ("chat", 1, "CPU")
    assert (config.model_uri, config.served_name) == ("builtin://smollm2-135m", "smollm2-135m")
    assert (config.dtype, config.max_context_tokens, config.kv_bytes, config.api_key) == (
        "Auto",
        None,
        None,
        None,
    )
    assert (config.block_tokens, config.max_rows, config.run_ahead) == (16, 32, 1)
    assert (config.prefill_budget_tokens, config.mixed_budget_tokens) == (128, 64)
    assert (config.prefill_policy, config.spf_aging_tokens_per_s, config.spf_max_wait_s) == (
        "SPF",
        15.0,
        10.0,
    )
    assert (config.max_queued_requests, config.drain_timeout_seconds, config.prefix_cache) == (256, 120, True)
    assert config.standby.lanes_max == 0, "a lane on a CPU is there within a second"
    assert config.partition.isolation is Isolation.MPS
    assert (config.partition.initial_prefill_percent, config.partition.initial_decode_percent) == (80, 100)


def test_auto_on_a_gpu_machine_is_cuda_with_steps_that_fill_a_gpu() -> None:
    config = build({}, present=Device.CUDA)
    assert config.device == "CUDA"
    assert (config.block_tokens, config.max_rows, config.run_ahead) == (64, 256, 2)
    assert (config.prefill_budget_tokens, config.mixed_budget_tokens) == (2048, 512)
    assert config.standby.lanes_max == 2


def test_without_a_profile_a_gpus_loops_start_from_a_curve_for_each_phase() -> None:
    for config in (ClusterConfig.of(build({}, Device.CUDA)), NodeConfig.of(build({}, Device.CUDA))):
        assert config.start is not None
        assert not config.start.steps.takes_turns
        assert config.start.steps.curve_of(Role.DECODE) == ASSUMED_GPU_CURVES.decode
        assert config.start.steps.curve_of(Role.PREFILL) == ASSUMED_GPU_CURVES.prefill
    assert ClusterConfig.of(build({})).start is None, "on a CPU speed is the share"


def test_a_size_that_is_set_holds_on_any_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEMIPD_MAX_ROWS", "48")
    assert build({}).max_rows == build({}, present=Device.CUDA).max_rows == 48


def test_attention_kernels_are_asked_for_on_a_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert build({}, present=Device.CUDA).attention_kernels is AttentionKernels.AUTO
    monkeypatch.setenv("SEMIPD_ATTENTION_KERNELS", "FlashInfer")
    assert build({}, present=Device.CUDA).attention_kernels is AttentionKernels.FLASHINFER
    with pytest.raises(InvalidSpec, match=r"SEMIPD_ATTENTION_KERNELS.*Auto on a CPU"):
        build({})


def test_standby_lanes_are_a_setting_and_none_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEMIPD_STANDBY_LANES", "0")
    monkeypatch.setenv("SEMIPD_STANDBY_MAX_AGE_S", "60")
    assert build({}, present=Device.CUDA).standby == StandbySettings(lanes_max=0, max_age_s=60.0)
    monkeypatch.setenv("SEMIPD_STANDBY_LANES", "-1")
    with pytest.raises(InvalidSpec, match="SEMIPD_STANDBY_LANES: got '-1'"):
        read_settings()


@pytest.mark.parametrize("present", [Device.CPU, Device.CUDA])
def test_gpus_per_engine_are_ranks(present: Device) -> None:
    assert build({}, present).num_ranks == 1
    assert build({"resources": {"gpusPerEngine": 2}}, present).num_ranks == 2


@pytest.mark.parametrize(
    ("spec", "engines"),
    [
        pytest.param({"replicas": 2}, 2, id="replicas are engines"),
        pytest.param({"replicas": 2, "resources": {"enginesPerPod": 3}}, 6, id="times engines per pod"),
        pytest.param(
            {"placement": "EveryNode", "resources": {"enginesPerPod": 3}}, 3, id="this machine is every node"
        ),
    ],
)
def test_engines(spec: dict[str, Any], engines: int) -> None:
    assert build(spec).engines == engines


def test_fields_of_the_service_arrive() -> None:
    config = build(
        {
            "model": {"uri": "hf://a/b@v1", "servedName": "b", "dtype": "FP32", "maxContextTokens": 512},
            "slo": {"ttft": {"percentile": 95, "targetMilliseconds": 700}},
            "resources": {"device": "CPU", "kvCache": "64Mi"},
            "partition": {"mode": "Static", "isolation": "GreenContext", "cooldownSeconds": 7},
            "drain": {"timeoutSeconds": 9},
        },
        present=Device.CUDA,
    )
    assert (config.served_name, config.dtype, config.max_context_tokens, config.kv_bytes) == (
        "b",
        "FP32",
        512,
        64 << 20,
    )
    assert (config.slo.ttft_percentile, config.slo.ttft_ms, config.slo.tpot_ms) == (95, 700, 60)
    assert (config.partition.mode, config.partition.isolation) == ("Static", Isolation.GREEN_CONTEXT)
    assert (config.partition.cooldown_seconds, config.drain_timeout_seconds) == (7, 9)


@pytest.mark.parametrize(
    ("spec", "present", "path", "given", "allowed"),
    [
        pytest.param(
            {"resources": {"device": "CUDA"}},
            Device.CPU,
            "spec.resources.device",
            "CUDA",
            "CPU here",
            id="CUDA without a GPU",
        ),
        pytest.param(
            {"resources": {"gpusPerEngine": 2}, "partition": {"isolation": "GreenContext"}},
            Device.CUDA,
            "spec.partition.isolation",
            "GreenContext with gpusPerEngine 2",
            "MPS, None or Unified",
            id="green contexts on several GPUs",
        ),
        pytest.param(
            {"replicas": 0}, Device.CPU, "spec.replicas", "0", "1..64 engines on one machine", id="no engine"
        ),
        pytest.param(
            {"replicas": 65}, Device.CPU, "spec.replicas", "65", "1..64", id="more engines than sense"
        ),
        pytest.param(
            {"model": {"uri": "pvc://models/llama"}},
            Device.CPU,
            "spec.model.uri",
            "pvc://models/llama",
            "builtin://, file://, hf://",
            id="a volume claim",
        ),
        pytest.param(
            {"http": {"apiKeySecretRef": {"name": "k", "key": "key"}}},
            Device.CPU,
            "spec.http.apiKeySecretRef",
            "k",
            "SEMIPD_API_KEY",
            id="a secret without the variable",
        ),
    ],
)
def test_what_needs_a_cluster_is_refused(
    spec: dict[str, Any], present: Device, path: str, given: str, allowed: str
) -> None:
    with pytest.raises(InvalidSpec) as refused:
        build(spec, present)
    assert refused.value.path == path
    assert given in str(refused.value.given)
    assert allowed in refused.value.allowed


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEMIPD_MIXED_BUDGET_TOKENS", "256")
    monkeypatch.setenv("SEMIPD_API_KEY", "secret")
    config = build({"http": {"apiKeySecretRef": {"name": "k", "key": "key"}}}, settings=read_settings())
    assert (config.mixed_budget_tokens, config.api_key) == (256, "secret")


def test_a_key_is_asked_for_only_where_the_service_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEMIPD_API_KEY", "secret")
    assert build({}, settings=read_settings()).api_key is None


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SEMIPD_MAX_ROWS", "0"),
        ("SEMIPD_RUN_AHEAD", "many"),
        ("SEMIPD_PREFILL_POLICY", "LIFO"),
        ("SEMIPD_ATTENTION_KERNELS", "FA4"),
    ],
)
def test_a_wrong_setting_names_its_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(InvalidSpec) as refused:
        read_settings()
    assert (refused.value.path, refused.value.given) == (variable, value)
