"""What a device says of itself: one unit per GPU, or the host's cores as one."""

from __future__ import annotations

import math

import msgspec


class DeviceUnit(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """`num_cores` are SMs on CUDA, None where the driver does not tell. `reason` says why it is not healthy."""

    uuid: str
    name: str
    num_cores: int | None
    memory_bytes: int
    percent_step: int  # shares are multiples of it, as far as the hardware can tell them apart
    healthy: bool
    reason: str = ""

    @property
    def legal_percents(self) -> list[int]:
        return list(range(self.percent_step, 101, self.percent_step))


class Inventory(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    kind: str  # "CPU" or "CUDA"
    units: list[DeviceUnit]

    @property
    def is_healthy(self) -> bool:
        return all(unit.healthy for unit in self.units)


def percent_step(num_sms: int, sm_granularity: int) -> int:
    """The least whole percent that is at least `sm_granularity` SMs of `num_sms`."""
    return math.ceil(100 * sm_granularity / num_sms)
