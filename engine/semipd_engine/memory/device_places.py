"""Which GPU holds which rank's arenas, and whether those GPUs will do."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import structlog

from semipd_core.engine_config import EngineConfig
from semipd_engine.cuda.devices import index_of
from semipd_engine.cuda.driver import Driver
from semipd_engine.cuda.facts import Facts
from semipd_engine.cuda.preflight import refuse_dtype, refuse_ranks


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a rank's arenas go."""

    rank: int
    device_index: int
    gpu: str  # UUID


def find_places(
    config: EngineConfig, driver: Driver, facts: Facts, log: structlog.stdlib.BoundLogger
) -> list[Place]:
    """Of each rank. Raises: InvalidSpec, CudaError."""
    wanted = [config.gpu_of(rank) for rank in range(config.num_ranks)]
    if (refusal := refuse_ranks(facts, wanted)) is not None:
        raise refusal
    places = []
    for rank, wish in enumerate(wanted):
        device_index = index_of(wish, [gpu.uuid for gpu in facts.gpus])
        gpu = facts.gpus[device_index]
        if (refusal := refuse_dtype(gpu, config.dtype)) is not None:
            raise refusal
        log.info(
            "gpu",
            uuid=gpu.uuid,
            gpu_name=gpu.name,
            driver_cuda=facts.driver_cuda,
            torch_cuda=facts.torch_cuda,
        )
        places.append(Place(rank=rank, device_index=device_index, gpu=gpu.uuid))
    for place, other in itertools.permutations(places, 2):
        if not driver.can_access_peer(place.device_index, other.device_index):
            log.warning(
                "no peer access: sums over the ranks go through host memory", gpu=place.gpu, peer=other.gpu
            )
    return places


@contextlib.contextmanager
def on_device(driver: Driver, device_index: int) -> Iterator[None]:
    """The device's context is current. Raises: CudaError."""
    driver.retain_context(device_index)
    try:
        yield
    finally:
        driver.release_context(device_index)
