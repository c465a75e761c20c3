"""From the service's settings to each engine's: pure."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from msgspec import structs

from semipd_agent.run_directory import RunDirectory
from semipd_core.agent_config import AgentConfig, PartitionWire, WishWire
from semipd_core.cluster.state import bounds_of
from semipd_core.engine_config import EngineConfig
from semipd_core.errors import InvalidSpec
from semipd_core.latency.share_curve import RoleCurves
from semipd_core.partition import Band, Isolation, Partition, Role
from semipd_core.policies.splits import legal_splits, nearest_split
from semipd_core.profile.format import Profile
from semipd_core.profile.start import start_from
from semipd_core.proxy_config import ProxyConfig

ORDINAL = "#"  # before the number of a GPU among those that CUDA shows
WHOLE_DEVICE = Partition(prefill_percent=100, decode_percent=100)
ANY_SHARES = Band(
    prefill_min_percent=1, prefill_max_percent=100, decode_min_percent=1, decode_max_percent=100
)


def engine_ids(config: AgentConfig) -> list[str]:
    return [f"engine-{number}" for number in range(config.engines)]


def split_cpus(cpus: Sequence[int], engines: int) -> list[list[int]]:
    """Disjoint runs of neighbouring cores, sizes differing by at most one; where cores are fewer, one each, shared."""
    cores = sorted(cpus)
    if engines > len(cores):
        return [[cores[number % len(cores)]] for number in range(engines)]
    edges = [number * len(cores) // engines for number in range(engines + 1)]
    return [cores[begin:end] for begin, end in itertools.pairwise(edges)]


def assign_gpus(device: str, gpus: Sequence[str], engines: int, num_ranks: int = 1) -> list[list[str]]:
    """GPUs (UUIDs) of each engine, one for each of its ranks; none on a CPU.

    Ordinals where no driver tells UUIDs yet: the agent waits for it.
    Raises: InvalidSpec if they are fewer than are needed.
    """
    if device != "CUDA":
        return [[] for _ in range(engines)]
    needed = engines * num_ranks
    found = list(gpus) or [f"{ORDINAL}{number}" for number in range(needed)]
    if needed > len(found) and num_ranks == 1:
        raise InvalidSpec("engines", engines, f"at most {len(found)}, one for each GPU: {', '.join(found)}")
    if needed > len(found):
        given = f"{num_ranks}, for each of {engines} engines"
        allowed = f"at most {len(found)} GPUs in all: {', '.join(found)}"
        raise InvalidSpec("spec.resources.gpusPerEngine", given, allowed)
    return [found[first : first + num_ranks] for first in range(0, needed, num_ranks)]


def initial_partition(config: AgentConfig) -> Partition:
    """Where isolation keeps no shares apart, every lane has the whole device."""
    settings = config.partition
    if not moves_shares(settings.isolation):
        return WHOLE_DEVICE
    return Partition(
        prefill_percent=settings.initial_prefill_percent, decode_percent=settings.initial_decode_percent
    )


def with_isolation(config: AgentConfig, isolation: Isolation) -> AgentConfig:
    """`config` with `isolation` in force, and a split to start at that it can run."""
    asked = config.partition
    if isolation is asked.isolation:
        return config
    wanted = Partition(
        prefill_percent=asked.initial_prefill_percent, decode_percent=asked.initial_decode_percent
    )
    initial = runnable_split(isolation, wanted, bounds_of(asked))
    settings = structs.replace(
        asked,
        isolation=isolation,
        initial_prefill_percent=initial.prefill_percent,
        initial_decode_percent=initial.decode_percent,
    )
    return structs.replace(config, partition=settings)


def runnable_split(isolation: Isolation, wanted: Partition, preferred: Band) -> Partition:
    """`wanted` where `isolation` can run it; else what is nearest, inside `preferred` if that holds anything legal."""
    every = legal_splits(isolation, ANY_SHARES)
    if wanted in every:
        return wanted
    return nearest_split([split for split in every if preferred.holds(split)] or every, wanted)


def runnable_wish(isolation: Isolation, wish: WishWire) -> WishWire:
    """A wish of who does not know yet what this agent has fallen back to. A band that does not hold its split is left out."""
    wanted = Partition(prefill_percent=wish.target.prefill_percent, decode_percent=wish.target.decode_percent)
    band = ANY_SHARES if wish.band is None else Band(**structs.asdict(wish.band))
    split = runnable_split(isolation, wanted, band)
    if split == wanted:
        return wish
    target = PartitionWire(prefill_percent=split.prefill_percent, decode_percent=split.decode_percent)
    return structs.replace(wish, target=target, band=wish.band if band.holds(split) else None)


def moves_shares(isolation: Isolation) -> bool:
    return isolation in (Isolation.MPS, Isolation.GREEN_CONTEXT)


def has_duplex_lane(config: AgentConfig) -> bool:
    """Green contexts are streams of one process; what stands in for them on a CPU is two."""
    return config.device == "CUDA" and config.partition.isolation is Isolation.GREEN_CONTEXT


def measured_curves(profile: Profile | None) -> RoleCurves | None:
    """None where lanes take turns: speed is the share there. And where a phase's curve is still an assumed one, to be learned."""
    if profile is None or profile.takes_turns:
        return None
    steps = start_from(profile).steps
    if steps.learners:
        return None
    return RoleCurves(prefill=steps.curve_of(Role.PREFILL), decode=steps.curve_of(Role.DECODE))


def uses_mps(config: AgentConfig) -> bool:
    """Whether lanes are MPS clients: elsewhere the isolation of that name is played by processes that take turns."""
    return config.device == "CUDA" and config.partition.isolation is Isolation.MPS


def build_engine_config(
    config: AgentConfig,
    engine_id: str,
    cpus: Sequence[int],
    run_directory: RunDirectory,
    gpus: Sequence[str] = (),
) -> EngineConfig:
    """A lone engine listens on the service's port itself; several do so behind the proxy. gpus: of its ranks."""
    is_alone = config.engines == 1
    has_mps = uses_mps(config)
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
        duplex_lane=has_duplex_lane(config),
        bounds=Band(
            prefill_min_percent=config.partition.prefill_min_percent,
            prefill_max_percent=config.partition.prefill_max_percent,
            decode_min_percent=config.partition.decode_min_percent,
            decode_max_percent=config.partition.decode_max_percent,
        ),
        curves=measured_curves(config.profile),
        device=config.device,
        gpu=gpus[0] if gpus else None,
        other_gpus=tuple(gpus[1:]),
        mps_pipe_directory=str(run_directory.mps_pipes) if has_mps else None,
        attention_kernels=config.attention_kernels,
        num_ranks=config.num_ranks,
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
