"""The cores that this process may use, as one unit."""

from __future__ import annotations

import os

from semipd_agent.device.facts import DeviceUnit, Inventory
from semipd_agent.mps.preflight import GpuSharing

PERCENT_STEP = 1  # turns are weighted by time, so any percent is a cap


class CpuDevice:
    def inventory(self) -> Inventory:
        unit = DeviceUnit(
            uuid="cpu",
            name=os.uname().machine,
            num_cores=len(os.sched_getaffinity(0)),
            memory_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
            percent_step=PERCENT_STEP,
            healthy=True,
        )
        return Inventory(kind="CPU", units=[unit])

    def sharing(self) -> list[GpuSharing]:
        return []
