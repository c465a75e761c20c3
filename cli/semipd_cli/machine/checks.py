"""What the facts of a machine mean for semipd. Pure.

Source: CUDA Programming Guide 4.6 (green contexts from CUDA 12.4 on, unequal groups and work queues from 13.1 on); CUDA
Driver API (virtual memory management with POSIX file descriptors).
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

import msgspec

from semipd_agent.device import health
from semipd_agent.device.facts import DeviceUnit
from semipd_agent.device.health import GpuState, GpuView
from semipd_agent.device.reading import GpuReading
from semipd_agent.isolation import GREEN_CONTEXTS
from semipd_cli.machine.facts import MachineFacts
from semipd_cli.machine.service_facts import ServiceFacts

OLDEST_CAPABILITY = (8, 0)
UNEQUAL_GREEN_CONTEXTS = (13, 1)
MEMORY_BY_FD = (10, 2)
GIB = 1 << 30


class Verdict(StrEnum):
    PASS = "Pass"  # noqa: S105 - no password
    WARN = "Warn"  # something will not work as well as it could
    FAIL = "Fail"  # semipd does not serve on it as it is


class Check(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """`remedy` is "" where nothing need be done."""

    name: str
    verdict: Verdict
    message: str
    remedy: str = ""


class MachineReport(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    has_gpu: bool
    healthy: bool  # no check fails
    checks: list[Check]
    facts: MachineFacts


def build_report(facts: MachineFacts) -> MachineReport:
    checks = list(_checks(facts))
    return MachineReport(
        has_gpu=bool(facts.gpus) or facts.is_lost,
        healthy=all(check.verdict is not Verdict.FAIL for check in checks),
        checks=checks,
        facts=facts,
    )


def _checks(facts: MachineFacts) -> Iterator[Check]:
    yield check_driver(facts)
    if not facts.gpus and not facts.is_lost:
        return
    for gpu, unit in zip(facts.gpus, facts.units, strict=True):
        yield check_gpu(gpu, unit)
        yield check_compute_mode(gpu)
        yield check_mig(gpu)
        yield check_clocks(gpu)
        yield check_users(gpu, facts)
        yield check_gpm(gpu)
    yield check_health(facts)
    yield check_xids(facts)
    yield from map(check_lanes, facts.services)
    yield check_mps_programs(facts)
    yield check_mps_servers(facts)
    yield check_green_contexts(facts)
    yield check_memory_transport(facts)
    yield check_compiler(facts)


def check_driver(facts: MachineFacts) -> Check:
    if facts.problem is not None:
        remedy = "without an NVIDIA GPU semipd serves on the CPU; with one, install its driver"
        return Check(name="driver", verdict=Verdict.FAIL, message=facts.problem, remedy=remedy)
    driver = facts.versions.driver if facts.versions is not None else None
    said = f"{driver or 'of unknown version'}, serves CUDA up to {_version(_cuda(facts))}"
    if not facts.gpus and not facts.is_lost:
        remedy = "in a container: NVIDIA_VISIBLE_DEVICES, the device plugin, or the runtime class"
        return Check(name="driver", verdict=Verdict.FAIL, message=f"{said}; it shows no GPU", remedy=remedy)
    return _passed("driver", said)


def check_gpu(gpu: GpuReading, unit: DeviceUnit) -> Check:
    name = f"GPU {gpu.uuid}"
    sms = f"{unit.num_cores} SMs" if unit.num_cores is not None else "SMs not told"
    said = f"{gpu.name}, {_memory(gpu)}, {sms}, compute capability {gpu.compute_capability}{_weather(gpu)}"
    capability = _capability(gpu)
    if capability is not None and capability < OLDEST_CAPABILITY:
        remedy = f"compute capability {_version(OLDEST_CAPABILITY)} or later is needed"
        return Check(name=name, verdict=Verdict.FAIL, message=said, remedy=remedy)
    return _passed(name, said)


def check_compute_mode(gpu: GpuReading) -> Check:
    name, mode = f"compute mode of {gpu.uuid}", gpu.compute_mode or "not told"
    if gpu.compute_mode in (None, "DEFAULT"):
        return _passed(name, mode)
    return Check(
        name=name,
        verdict=Verdict.FAIL,
        message=f"{mode}: isolation MPS refuses the GPU, and memory server and lanes could not share it",
        remedy="as root: nvidia-smi --compute-mode=DEFAULT, after finding out who changed it",
    )


def check_mig(gpu: GpuReading) -> Check:
    name = f"MIG of {gpu.uuid}"
    if gpu.is_mig:
        remedy = "semipd shares whole GPUs: as root: nvidia-smi --multi-instance-gpu=0"
        return Check(name=name, verdict=Verdict.FAIL, message="enabled", remedy=remedy)
    return _passed(name, "disabled" if gpu.is_mig is False else "not supported")


def check_clocks(gpu: GpuReading) -> Check:
    name = f"clocks of {gpu.uuid}"
    memory = "" if gpu.memory_clock_mhz is None else f", memory {gpu.memory_clock_mhz} MHz"
    said = f"{_or(gpu.sm_clock_mhz)} of {_or(gpu.max_sm_clock_mhz)} MHz{memory}"
    if gpu.throttle_reasons:
        message = f"{said}, held down by {', '.join(gpu.throttle_reasons)}"
        return Check(
            name=name, verdict=Verdict.WARN, message=message, remedy="look at power limit and cooling"
        )
    return _passed(name, said)


def check_users(gpu: GpuReading, facts: MachineFacts) -> Check:
    """Its PIDs are the host's, so whose they are is not told here; a service of ours is meant to be there."""
    name = f"users of {gpu.uuid}"
    if not gpu.processes:
        return _passed(name, "none" if gpu.processes is not None else "not told")
    pids = ", ".join(str(process.pid) for process in gpu.processes)
    said = f"PID {pids}"
    if any(server.is_own for server in facts.mps_servers):
        return _passed(name, f"{said}; a semipd service runs here")
    return Check(
        name=name,
        verdict=Verdict.WARN,
        message=said,
        remedy="semipd wants a GPU of its own: their memory and time are not its",
    )


def check_gpm(gpu: GpuReading) -> Check:
    name = f"activity counters of {gpu.uuid}"
    if gpu.has_gpm:
        return _passed(name, f"GPM{_activity(gpu)}")
    message = "no GPM (Hopper and later): SM activity and bandwidth are not measured"
    return Check(name=name, verdict=Verdict.WARN, message=message)


def check_health(facts: MachineFacts) -> Check:
    verdict = health.decide(
        GpuView(units=tuple(facts.units), readings=tuple(facts.gpus), says_lost=facts.is_lost)
    )
    if verdict.state is GpuState.HEALTHY and not facts.is_lost:
        return _passed("health", "no GPU reports a fault")
    grave = verdict.state is not GpuState.DEGRADED
    message = verdict.reason if verdict.state is not GpuState.HEALTHY else "NVML says that a GPU is lost"
    return Check(
        name="health",
        verdict=Verdict.FAIL if grave else Verdict.WARN,
        message=message,
        remedy="docs/gpu-faults.md says what to do",
    )


def check_xids(facts: MachineFacts) -> Check:
    """NVML tells of an Xid once, to who listens: what was before an agent is in the kernel's log alone."""
    name = "Xids"
    if not any(service.problem is None for service in facts.services):
        return _passed(name, "not known without a running agent, which counts them; `dmesg` may have them")
    xids = [xid for service in facts.services for xid in service.xids]
    if not xids:
        return _passed(name, "none since the agents here began")
    told = ", ".join(f"{each.count} x Xid {each.xid} of {each.uuid or 'some GPU'}" for each in xids)
    return Check(
        name=name,
        verdict=Verdict.WARN,
        message=f"{told}, since the agents here began",
        remedy="docs/gpu-faults.md says what each means",
    )


def check_lanes(service: ServiceFacts) -> Check:
    name = f"lanes of {service.service}"
    if service.problem is not None:
        remedy = "ask again; if it stays so, `semipd status` and the agent's log"
        return Check(name=name, verdict=Verdict.WARN, message=service.problem, remedy=remedy)
    told = (
        f"{lane.engine_id} {lane.lane_id} ({lane.granted_percent} % granted) "
        + ("busy: not told" if lane.busy_percent is None else f"{lane.busy_percent:.0f} % busy")
        for lane in service.lanes
    )
    return _passed(name, ", ".join(told) or "none yet")


def check_mps_programs(facts: MachineFacts) -> Check:
    name = "MPS programs"
    programs = {"nvidia-cuda-mps-control": facts.mps_control, "nvidia-cuda-mps-server": facts.mps_server}
    missing = [program for program, path in programs.items() if path is None]
    if missing:
        return Check(
            name=name,
            verdict=Verdict.WARN,
            message=f"not on PATH: {', '.join(missing)}",
            remedy="they come with the driver; in a container NVIDIA_DRIVER_CAPABILITIES=compute,utility; "
            "without them isolation Auto takes another, and MPS does not serve",
        )
    return _passed(name, ", ".join(path for path in programs.values() if path is not None))


def check_mps_servers(facts: MachineFacts) -> Check:
    name = "MPS servers"
    foreign = [server for server in facts.mps_servers if not server.is_own]
    if foreign:
        found = ", ".join(f"PID {each.pid} ({each.pipe_directory or 'of another user'})" for each in foreign)
        return Check(
            name=name,
            verdict=Verdict.WARN,
            message=f"foreign: {found}; isolation MPS refuses to share with it, Auto takes another",
            remedy="switch the device plugin's MPS sharing off, or end it: echo quit | nvidia-cuda-mps-control",
        )
    own = len(facts.mps_servers)
    return _passed(name, f"{own} of semipd's own" if own else "none, so semipd may start its own")


def check_green_contexts(facts: MachineFacts) -> Check:
    name, cuda = "green contexts", _cuda(facts)
    if cuda is None or cuda < GREEN_CONTEXTS:
        return Check(
            name=name,
            verdict=Verdict.WARN,
            message=f"not to be expected with CUDA {_version(cuda)}",
            remedy=f"a driver that serves CUDA {_version(GREEN_CONTEXTS)} or later; else isolation MPS",
        )
    steps = ", ".join(sorted({f"{unit.percent_step} %" for unit in facts.units}))
    kind = "with work queues of their own" if cuda >= UNEQUAL_GREEN_CONTEXTS else "without work queues"
    return _passed(name, f"to be expected, {kind}, in steps of {steps or 'unknown size'}")


def check_memory_transport(facts: MachineFacts) -> Check:
    """What the memory server tries first; its probe at the start is what counts."""
    name, cuda = "shared GPU memory", _cuda(facts)
    if cuda is None or cuda < MEMORY_BY_FD:
        message = f"by IPC handle alone: no memory by file descriptor with CUDA {_version(cuda)}"
        return Check(name=name, verdict=Verdict.WARN, message=message, remedy="a newer driver")
    return _passed(name, "memory by file descriptor is to be expected; a probe at the start decides")


def check_compiler(facts: MachineFacts) -> Check:
    name = "C compiler"
    if facts.c_compiler is None:
        message = "neither gcc nor clang on PATH, nor CC: Triton cannot build the launchers of its kernels"
        return Check(name=name, verdict=Verdict.FAIL, message=message, remedy="install gcc and libc6-dev")
    return _passed(name, facts.c_compiler)


def _passed(name: str, message: str) -> Check:
    return Check(name=name, verdict=Verdict.PASS, message=message)


def _cuda(facts: MachineFacts) -> tuple[int, int] | None:
    return facts.versions.cuda if facts.versions is not None else None


def _version(pair: tuple[int, int] | None) -> str:
    return "unknown" if pair is None else f"{pair[0]}.{pair[1]}"


def _capability(gpu: GpuReading) -> tuple[int, int] | None:
    if gpu.compute_capability is None:
        return None
    major, minor = gpu.compute_capability.split(".")
    return int(major), int(minor)


def _memory(gpu: GpuReading) -> str:
    if gpu.memory_total_bytes is None:
        return "memory not told"
    used = "" if gpu.memory_used_bytes is None else f" ({gpu.memory_used_bytes / GIB:.1f} used)"
    return f"{gpu.memory_total_bytes / GIB:.1f} GiB{used}"


def _weather(gpu: GpuReading) -> str:
    parts = []
    if gpu.temperature_celsius is not None:
        parts.append(f"{gpu.temperature_celsius} °C")
    if gpu.power_watts is not None:
        limit = "" if gpu.power_limit_watts is None else f" of {gpu.power_limit_watts:.0f}"
        parts.append(f"{gpu.power_watts:.0f}{limit} W")
    return "".join(f", {part}" for part in parts)


def _activity(gpu: GpuReading) -> str:
    parts = (
        ("SMs active", gpu.sm_active_percent),
        ("tensor cores active", gpu.tensor_active_percent),
        ("of the DRAM bandwidth", gpu.dram_bandwidth_percent),
    )
    told = ", ".join(f"{value:.0f} % {name}" for name, value in parts if value is not None)
    return f": {told}" if told else ", which tells nothing now"


def _or(value: int | None) -> str:
    return "?" if value is None else str(value)
