"""Metrics of the GPUs, from what the watch saw last. The label `UUID` is spelled as DCGM's exporter does, to join them by."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from semipd_agent.device.health import GpuState
from semipd_agent.device.reading import GpuReading
from semipd_agent.device.watch import GpuWatch
from semipd_agent.faults import FaultReason
from semipd_core.agent_config import FaultStatus

Value = Callable[[GpuReading], float | None]
GAUGES: tuple[tuple[str, str, Value], ...] = (
    ("memory_total_bytes", "Memory that the GPU has", lambda gpu: gpu.memory_total_bytes),
    ("memory_used_bytes", "Memory that is taken, by anybody", lambda gpu: gpu.memory_used_bytes),
    ("sm_active_percent", "SMs that were busy, mean between two looks", lambda gpu: gpu.sm_active_percent),
    (
        "tensor_active_percent",
        "Time that tensor cores were busy, mean between two looks",
        lambda gpu: gpu.tensor_active_percent,
    ),
    (
        "dram_bandwidth_percent",
        "Memory bandwidth used of that there is, mean between two looks",
        lambda gpu: gpu.dram_bandwidth_percent,
    ),
    ("sm_clock_mhz", "Clock of the SMs", lambda gpu: gpu.sm_clock_mhz),
    ("temperature_celsius", "Temperature of the GPU", lambda gpu: gpu.temperature_celsius),
    ("power_watts", "Power that the board draws", lambda gpu: gpu.power_watts),
    (
        "uncorrected_memory_errors",
        "Since the driver was loaded",
        lambda gpu: gpu.uncorrected_errors,
    ),
)


def gpu_metrics(gpus: GpuWatch) -> Iterator[Metric]:
    """What a card does not tell has no sample."""
    yield _state(gpus)
    yield _xids(gpus)
    yield _throttling(gpus.readings)
    for name, text, value in GAUGES:
        family = GaugeMetricFamily(f"semipd_agent_gpu_{name}", text, labels=["UUID"])
        for reading in gpus.readings:
            if (found := value(reading)) is not None:
                family.add_metric([reading.uuid], found)
        yield family


def fault_metric(faults: Sequence[FaultStatus]) -> Metric:
    found = {fault.reason for fault in faults}
    family = GaugeMetricFamily("semipd_agent_fault", "1 while the fault lasts", labels=["reason"])
    for reason in FaultReason:
        family.add_metric([reason], float(reason in found))
    return family


def _state(gpus: GpuWatch) -> Metric:
    family = GaugeMetricFamily(
        "semipd_agent_gpu_state", "1 for the state that the pod's GPUs are in", labels=["state"]
    )
    for state in GpuState:
        family.add_metric([state], float(gpus.verdict.state is state))
    return family


def _xids(gpus: GpuWatch) -> Metric:
    family = CounterMetricFamily(
        "semipd_agent_gpu_xids", "Faults that the driver told, since this agent began", labels=["UUID", "xid"]
    )
    for (uuid, number), count in sorted(gpus.xids.items()):
        family.add_metric([uuid, str(number)], count)
    return family


def _throttling(readings: Sequence[GpuReading]) -> Metric:
    family = GaugeMetricFamily(
        "semipd_agent_gpu_throttled",
        "1 while the clocks are held down for the reason",
        labels=["UUID", "reason"],
    )
    for reading in readings:
        for reason in reading.throttle_reasons or ():
            family.add_metric([reading.uuid, reason], 1.0)
    return family
