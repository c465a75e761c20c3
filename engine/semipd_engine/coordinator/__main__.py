"""`python -m semipd_engine.coordinator --config engine.json`."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path

import msgspec

from semipd_core.engine.coordinator import Coordinator, CoordinatorConfig
from semipd_core.engine.split_choice import SplitSettings
from semipd_core.engine_config import EngineConfig
from semipd_core.latency.share_curve import ASSUMED_GPU_CURVES
from semipd_core.partition import Isolation
from semipd_engine.coordinator.process import CoordinatorProcess
from semipd_engine.lane.arbiter import ControlPage
from semipd_engine.memory.client import attach_control
from semipd_engine.memory.manifest import Manifest
from semipd_shell import agent_watch, channel, log


def build_config(config: EngineConfig, manifest: Manifest) -> CoordinatorConfig:
    return CoordinatorConfig(
        roles=config.isolation.roles,
        num_blocks=manifest.num_blocks,
        block_tokens=manifest.block_tokens,
        max_context_tokens=manifest.max_context_tokens,
        max_rows=config.max_rows,
        prefill_budget_tokens=config.prefill_budget_tokens,
        mixed_budget_tokens=config.mixed_budget_tokens,
        prefill_policy=config.prefill_policy,
        spf_aging_tokens_per_s=config.spf_aging_tokens_per_s,
        spf_max_wait_s=config.spf_max_wait_s,
        run_ahead=config.run_ahead,
        prefix_cache=config.prefix_cache,
        num_slots=config.num_slots,
        step_split=build_step_split(config),
    )


def build_step_split(config: EngineConfig) -> SplitSettings | None:
    """Only green contexts, and what stands in for them, change shares between two steps."""
    if config.isolation is not Isolation.GREEN_CONTEXT:
        return None
    if config.device == "CUDA":
        curves = config.curves or ASSUMED_GPU_CURVES
        return SplitSettings.of(config.slo, curves, takes_turns=False, learns_curves=config.curves is None)
    return SplitSettings.of(config.slo)


def main() -> int:
    parser = argparse.ArgumentParser(prog="semipd-coordinator")
    parser.add_argument("--config", required=True, type=Path)
    config = msgspec.json.decode(parser.parse_args().config.read_bytes(), type=EngineConfig)
    log.configure(f"{config.engine_id}-coordinator")
    manifest, control = attach_control(config.memory_socket)
    process = CoordinatorProcess(
        Coordinator(build_config(config, manifest)),
        channel.listen(config.coordinator_socket),
        ControlPage(control),
        config.isolation,
        agent_watch.OrphanWatch(config.agent_lock),
    )

    def stop(_signal: int, _frame: object) -> None:
        process.stopping = True

    signal.signal(signal.SIGTERM, stop)
    started_s = time.monotonic()
    log.logger(__name__).info("coordinator ready", num_blocks=manifest.num_blocks)
    process.serve()
    Path(config.coordinator_socket).unlink(missing_ok=True)
    log.logger(__name__).info("coordinator stopped", seconds=round(time.monotonic() - started_s, 1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
