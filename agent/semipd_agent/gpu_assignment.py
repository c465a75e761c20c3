"""Which GPUs are this agent's, and which engine has which: chosen once, kept by every agent that adopts its engines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from semipd_agent import configure
from semipd_agent.journal.recovery import JournalledProcess
from semipd_agent.processes.identity import boot_id
from semipd_agent.run_directory import RunDirectory
from semipd_core.agent_config import AgentConfig
from semipd_core.engine_config import EngineConfig


def settle_gpus(
    config: AgentConfig,
    run_directory: RunDirectory,
    journalled: Mapping[str, JournalledProcess],
    found: Sequence[str],
) -> list[list[str]]:
    """GPUs of each engine, as `configure.assign_gpus` says, out of `found` (UUIDs that NVML shows now).

    An engine whose processes may live keeps what they hold: NVML may leave out a GPU that is lost, or busy for a moment.
    Raises: InvalidSpec if nothing is kept and they are too few.
    """
    kept = _held_gpus(config, run_directory, journalled)
    if kept is not None:
        return kept
    return configure.assign_gpus(config.device, found, config.engines, config.num_ranks)


def known_uuids(assigned: Sequence[Sequence[str]]) -> frozenset[str]:
    """Of all engines' GPUs; empty, which stands for any, where some are known by number alone."""
    uuids = frozenset(gpu for own in assigned for gpu in own)
    return frozenset() if any(uuid.startswith(configure.ORDINAL) for uuid in uuids) else uuids


def own_gpus(engine: EngineConfig) -> list[str]:
    """Of its ranks, as `configure.assign_gpus` says."""
    return [gpu for gpu in (engine.gpu, *engine.other_gpus) if gpu is not None]


def _held_gpus(
    config: AgentConfig, run_directory: RunDirectory, journalled: Mapping[str, JournalledProcess]
) -> list[list[str]] | None:
    """What every engine was told by the agent before this one; None if no process of an engine can live."""
    names = configure.engine_ids(config)
    may_live = any(
        name.rpartition("/")[0] in names and (process.started is None or process.started.boot_id == boot_id())
        for name, process in journalled.items()
    )
    if config.device != "CUDA" or not may_live:
        return None
    held = [_read_gpus(run_directory, name) for name in names]
    return held if all(len(own) == config.num_ranks for own in held) else None


def _read_gpus(run_directory: RunDirectory, engine_id: str) -> list[str]:
    """Empty where it cannot be read."""
    try:
        told = msgspec.json.decode(run_directory.engine_config(engine_id).read_bytes(), type=EngineConfig)
    except (OSError, msgspec.MsgspecError):
        return []
    return own_gpus(told)
