"""From the service's settings to each engine's: pure."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from semipd_agent.run_directory import RunDirectory
from semipd_core.agent_config import AgentConfig
from semipd_core.engine_config import EngineConfig
from semipd_core.partition import Isolation, Partition
from semipd_core.proxy_config import ProxyConfig

WHOLE_DEVICE = Partition(prefill_percent=100, decode_percent=100)


def engine_ids(config: AgentConfig) -> list[str]:
    return [f"engine-{number}" for number in range(config.engines)]


def split_cpus(cpus: Sequence[int], engines: int) -> list[list[int]]:
    """Disjoint runs of neighbouring cores, sizes differing by at most one; where cores are fewer, one each, shared."""
    cores = sorted(cpus)
    if engines > len(cores):
        return [[cores[number % len(cores)]] for number in range(engines)]
    edges = [number * len(cores) // engines for number in range(engines + 1)]
    return [cores[begin:end] for begin, end in itertools.pairwise(edges)]


def initial_partition(config: AgentConfig) -> Partition:
    """Where isolation keeps no shares apart, every lane has the whole device."""
    settings = config.partition
    if not moves_shares(settings.isolation):
        return WHOLE_DEVICE
    return Partition(
        prefill_percent=settings.initial_prefill_percent, decode_percent=settings.initial_decode_percent
    )


def moves_shares(isolation: Isolation) -> bool:
    return isolation in (Isolation.MPS, Isolation.GREEN_CONTEXT)


def build_engine_config(
    config: AgentConfig, engine_id: str, cpus: Sequence[int], run_directory: RunDirectory
) -> EngineConfig:
    """A lone engine listens on the service's port itself; several do so behind the proxy."""
    is_alone = config.engines == 1
    return EngineConfig(
        engine_id=engine_id,
        directory=str(run_directory.engine(engine_id)),
        agent_lock=str(run_directory.agent_lock),
        zygote_socket=str(run_directory.zygote_socket),
        model_uri=config.model_uri,
        served_name=config.served_name,
        dtype=config.dtype,
        max_context_tokens=config.max_context_tokens,
        kv_bytes=config.kv_bytes,
        block_tokens=config.block_tokens,
        max_rows=config.max_rows,
        prefill_budget_tokens=config.prefill_budget_tokens,
        mixed_budget_tokens=config.mixed_budget_tokens,
        prefill_policy=config.prefill_policy,
        spf_aging_tokens_per_s=config.spf_aging_tokens_per_s,
        spf_max_wait_s=config.spf_max_wait_s,
        run_ahead=config.run_ahead,
        isolation=config.partition.isolation,
        cpus=list(cpus),
        host=config.host if is_alone else None,
        port=config.port if is_alone else None,
        api_key=config.api_key,
        max_queued_requests=config.max_queued_requests,
        slo=config.slo,
        prefix_cache=config.prefix_cache,
    )


def build_proxy_config(
    config: AgentConfig, engines: Sequence[EngineConfig], run_directory: RunDirectory
) -> ProxyConfig:
    return ProxyConfig(
        host=config.host,
        port=config.port,
        upstreams=[engine.front_socket for engine in engines],
        served_name=config.served_name,
        drain_lag_s=config.drain_lag_s,
        agent_lock=str(run_directory.agent_lock),
        error_file=str(run_directory.proxy_error),
    )
