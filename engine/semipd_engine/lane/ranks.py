"""What each rank of a lane does for itself, and the life of the ranks after the first: plan after plan until told to stop."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

import torch

from semipd_core import messages
from semipd_core.engine_config import EngineConfig
from semipd_engine.lane.communicator import Communicator
from semipd_engine.lane.followers import Seat
from semipd_engine.lane.led_turns import GatedTurns
from semipd_engine.memory.client import attach
from semipd_engine.model.executor import Executor
from semipd_engine.model.ranks import LoneRank, Ranks
from semipd_shell import log


def follow(config: EngineConfig, lane_id: str, seat: Seat) -> int:
    """A follower's exit code: 0 when told to stop, or when the first rank is gone."""
    log.configure(f"{lane_id}-rank-{seat.rank}")
    cpus = take_cpus(config, seat.rank)
    attachment = attach(config.memory_socket_of(seat.rank))
    joined = join_ranks(config, lane_id, seat.rank, torch.device("cpu"))
    executor = Executor.build(config, attachment, joined)
    warm_up(executor, cpus)
    turns = GatedTurns(seat.gate_fd)
    try:
        while isinstance(plan := seat.channel.receive(), messages.StepPlan):
            executor.execute(plan, turns)
    except EOFError:
        log.logger(__name__).info("the first rank is gone")
    return 0


def take_cpus(config: EngineConfig, rank: int) -> list[int]:
    """Those of the engine's CPUs that are this rank's: it runs on them, with as many compute threads."""
    cpus = rank_cpus(config.cpus, rank, config.num_ranks)
    os.sched_setaffinity(0, cpus)
    torch.set_num_threads(len(cpus))
    return cpus


def rank_cpus(cpus: Sequence[int], rank: int, num_ranks: int) -> list[int]:
    """The ranks compute at the same time, so each has CPUs of its own; where those are fewer than ranks, one, shared."""
    if len(cpus) < num_ranks:
        return [cpus[rank % len(cpus)]]
    return list(cpus[rank * len(cpus) // num_ranks : (rank + 1) * len(cpus) // num_ranks])


def join_ranks(config: EngineConfig, lane_id: str, rank: int, device: torch.device) -> Ranks:
    """Returns once all ranks of the lane have come, each with its `device`. Raises: RuntimeError if they do not."""
    if config.num_ranks == 1:
        return LoneRank()
    rendezvous = f"{config.directory}/{lane_id}.ranks"
    return Communicator(rendezvous, rank, config.num_ranks, device)


def warm_up(executor: Executor, cpus: Sequence[int]) -> None:
    before = list_threads()
    executor.warm_up()
    pin_threads(cpus, list_threads() - before)


def pin_threads(cpus: Sequence[int], workers: Iterable[int]) -> None:
    """The main thread and the compute workers (thread ids), one to each CPU; not at all where they are not as many.

    Lanes take turns of milliseconds on the same CPUs; left to the kernel, a lane that wakes may find its threads on one of them.
    """
    threads = [os.getpid(), *sorted(workers)]
    if len(threads) != len(cpus):
        return
    for thread, cpu in zip(threads, cpus, strict=True):
        os.sched_setaffinity(thread, {cpu})


def list_threads() -> set[int]:
    return {int(name) for name in os.listdir("/proc/self/task")}
