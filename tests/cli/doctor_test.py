"""`semipd doctor`: from the facts of a machine to checks, lines and an exit code."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from prometheus_client import generate_latest

from semipd_agent.device.facts import DeviceUnit
from semipd_agent.device.reading import DriverVersions, GpuProcess, GpuReading, Look
from semipd_agent.http import gpu_metrics
from semipd_agent.run_directory import RunDirectory
from semipd_cli import doctor
from semipd_cli.__main__ import main
from semipd_cli.machine import facts as machine
from semipd_cli.machine import services
from semipd_cli.machine.checks import Check, MachineReport, Verdict, build_report
from semipd_cli.machine.facts import MachineFacts, MpsServer
from semipd_cli.machine.lines import render
from semipd_cli.machine.service_facts import LaneActivity, ServiceFacts, XidCount, activity, read_xids
from semipd_core.partition import Role
from semipd_core.telemetry import CoordinatorReport, EngineReport, LaneReport

UNIT = DeviceUnit(
    uuid="GPU-1", name="NVIDIA H200", num_cores=132, memory_bytes=139 << 30, percent_step=7, healthy=True
)
GPU = GpuReading(
    uuid="GPU-1",
    name="NVIDIA H200",
    compute_capability="9.0",
    memory_total_bytes=139 << 30,
    memory_used_bytes=20 << 30,
    sm_clock_mhz=1980,
    max_sm_clock_mhz=1980,
    throttle_reasons=[],
    temperature_celsius=41,
    power_watts=512.3,
    power_limit_watts=700.0,
    compute_mode="DEFAULT",
    is_mig=False,
    processes=[],
    has_gpm=True,
)
H200 = MachineFacts(
    versions=DriverVersions(driver="580.65.06", cuda=(13, 0)),
    units=[UNIT],
    gpus=[GPU],
    mps_control="/usr/bin/nvidia-cuda-mps-control",
    mps_server="/usr/bin/nvidia-cuda-mps-server",
    c_compiler="/usr/bin/gcc",
)
FOREIGN = MpsServer(pid=7, pipe_directory="/tmp/nvidia-mps", is_own=False)
OWN = MpsServer(pid=8, pipe_directory="/run/semipd/pod/mps/pipe", is_own=True)


SERVICE = ServiceFacts(
    service="tiny",
    xids=[XidCount(uuid="GPU-1", xid=94, count=2)],
    lanes=[LaneActivity(engine_id="engine-0", lane_id="decode-2", granted_percent=70, busy_percent=25.0)],
)


def with_gpu(**changes: Any) -> MachineFacts:
    return msgspec.structs.replace(H200, gpus=[msgspec.structs.replace(GPU, **changes)])


def on(**changes: Any) -> MachineFacts:
    return msgspec.structs.replace(H200, **changes)


def check(report: MachineReport, name: str) -> Check:
    return next(each for each in report.checks if each.name == name)


def test_a_machine_that_semipd_can_use_passes() -> None:
    report = build_report(H200)
    assert {each.verdict for each in report.checks} == {Verdict.PASS}
    assert doctor.exit_code(report) == 0


@pytest.mark.parametrize(
    ("facts", "name", "verdict", "words"),
    [
        pytest.param(
            on(c_compiler=None), "C compiler", Verdict.FAIL, "neither gcc nor clang", id="no compiler"
        ),
        pytest.param(
            with_gpu(compute_capability="7.5"),
            "GPU GPU-1",
            Verdict.FAIL,
            "capability 7.5",
            id="too old a GPU",
        ),
        pytest.param(
            with_gpu(compute_mode="EXCLUSIVE_PROCESS"),
            "compute mode of GPU-1",
            Verdict.FAIL,
            "EXCLUSIVE_PROCESS",
            id="another compute mode",
        ),
        pytest.param(with_gpu(is_mig=True), "MIG of GPU-1", Verdict.FAIL, "enabled", id="MIG"),
        pytest.param(
            with_gpu(throttle_reasons=["HwThermalSlowdown"], sm_clock_mhz=900),
            "clocks of GPU-1",
            Verdict.WARN,
            "900 of 1980 MHz, held down by HwThermalSlowdown",
            id="a hot GPU",
        ),
        pytest.param(
            with_gpu(processes=[GpuProcess(pid=5, memory_bytes=None)]),
            "users of GPU-1",
            Verdict.WARN,
            "PID 5",
            id="somebody else's GPU",
        ),
        pytest.param(
            msgspec.structs.replace(
                with_gpu(processes=[GpuProcess(pid=5, memory_bytes=None)]), mps_servers=[OWN]
            ),
            "users of GPU-1",
            Verdict.PASS,
            "a semipd service runs here",
            id="a GPU that semipd uses",
        ),
        pytest.param(
            with_gpu(has_gpm=False), "activity counters of GPU-1", Verdict.WARN, "no GPM", id="no GPM"
        ),
        pytest.param(
            with_gpu(memory_clock_mhz=2619),
            "clocks of GPU-1",
            Verdict.PASS,
            "1980 of 1980 MHz, memory 2619 MHz",
            id="memory clock",
        ),
        pytest.param(
            with_gpu(sm_active_percent=37.2, tensor_active_percent=0.0, dram_bandwidth_percent=55.0),
            "activity counters of GPU-1",
            Verdict.PASS,
            "GPM: 37 % SMs active, 0 % tensor cores active, 55 % of the DRAM bandwidth",
            id="activity",
        ),
        pytest.param(
            H200,
            "Xids",
            Verdict.PASS,
            "not known without a running agent",
            id="Xids without an agent",
        ),
        pytest.param(
            on(services=[ServiceFacts(service="tiny")]), "Xids", Verdict.PASS, "none since", id="no Xids"
        ),
        pytest.param(
            on(services=[SERVICE]), "Xids", Verdict.WARN, "2 x Xid 94 of GPU-1, since", id="Xids of an agent"
        ),
        pytest.param(
            on(services=[SERVICE]),
            "lanes of tiny",
            Verdict.PASS,
            "engine-0 decode-2 (70 % granted) 25 % busy",
            id="lanes of a service",
        ),
        pytest.param(
            on(services=[ServiceFacts(service="tiny", problem="the agent does not answer")]),
            "lanes of tiny",
            Verdict.WARN,
            "does not answer",
            id="a silent agent",
        ),
        pytest.param(
            with_gpu(recovery_action="NodeReboot"), "health", Verdict.FAIL, "NodeReboot", id="an ill GPU"
        ),
        pytest.param(
            with_gpu(is_remap_pending=True), "health", Verdict.WARN, "remapped", id="a GPU that wants a reset"
        ),
        pytest.param(
            on(is_lost=True, gpus=[], units=[]), "health", Verdict.FAIL, "the GPU is lost", id="a lost GPU"
        ),
        pytest.param(
            on(mps_server=None),
            "MPS programs",
            Verdict.WARN,
            "not on PATH: nvidia-cuda-mps-server",
            id="no MPS server",
        ),
        pytest.param(
            on(mps_servers=[FOREIGN]),
            "MPS servers",
            Verdict.WARN,
            "PID 7 (/tmp/nvidia-mps)",
            id="a foreign MPS server",
        ),
        pytest.param(
            on(mps_servers=[OWN]), "MPS servers", Verdict.PASS, "1 of semipd's own", id="its own server"
        ),
        pytest.param(
            on(versions=DriverVersions(driver="535.261.03", cuda=(12, 2))),
            "green contexts",
            Verdict.WARN,
            "not to be expected with CUDA 12.2",
            id="a driver before green contexts",
        ),
        pytest.param(
            on(versions=DriverVersions(driver="590.1", cuda=(13, 1))),
            "green contexts",
            Verdict.PASS,
            "with work queues of their own, in steps of 7 %",
            id="a driver with work queues",
        ),
        pytest.param(
            with_gpu(compute_capability=None, memory_total_bytes=None, processes=None, compute_mode=None),
            "users of GPU-1",
            Verdict.PASS,
            "not told",
            id="a driver that tells little",
        ),
    ],
)
def test_checks(facts: MachineFacts, name: str, verdict: Verdict, words: str) -> None:
    report = build_report(facts)
    found = check(report, name)
    assert (found.verdict, words in found.message) == (verdict, True)
    assert (found.remedy == "") is (verdict is Verdict.PASS or name.startswith("activity"))
    assert doctor.exit_code(report) == (1 if verdict is Verdict.FAIL else 0)


@pytest.mark.parametrize(
    "facts",
    [
        pytest.param(MachineFacts(problem="NVML does not start: Driver Not Loaded"), id="no driver"),
        pytest.param(on(gpus=[], units=[]), id="a driver that shows no GPU"),
    ],
)
def test_without_a_gpu_it_says_so_and_has_its_own_exit_code(facts: MachineFacts) -> None:
    report = build_report(facts)
    assert [each.name for each in report.checks] == ["driver"]
    assert doctor.exit_code(report) == doctor.EXIT_NO_GPU
    assert list(render(report))[-1].startswith("no GPU that semipd could use")


def test_lines_have_the_verdict_first_and_the_remedy_below() -> None:
    lines = list(render(build_report(on(c_compiler=None))))
    assert lines[1].startswith(
        "PASS  GPU GPU-1: NVIDIA H200, 139.0 GiB (20.0 used), 132 SMs, compute capability 9.0"
    )
    at = next(index for index, line in enumerate(lines) if line.startswith("FAIL"))
    assert lines[at].startswith("FAIL  C compiler: neither gcc nor clang")
    assert lines[at + 1].startswith("      -> ")
    assert lines[-1] == "13 pass, 1 fail"


def test_a_server_of_semipd_is_known_by_the_lock_beside_its_pipes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "agent.lock").touch()
    own, foreign = str(tmp_path / "mps" / "pipe"), str(tmp_path / "other" / "mps" / "pipe")
    monkeypatch.setattr(machine.processes, "servers", lambda: [(1, own), (2, foreign), (3, None)])
    assert [server.is_own for server in machine.observe().mps_servers] == [True, False, False]


class TwoLooks:
    """A GPU whose activity is told from the second look on."""

    def __init__(self) -> None:
        self.looks, self.is_closed = 0, False

    def look(self) -> Look:
        self.looks += 1
        active = None if self.looks == 1 else 40.0
        reading = msgspec.structs.replace(GPU, sm_active_percent=active)
        return Look(units=(UNIT,), readings=(reading,))

    def close(self) -> None:
        self.is_closed = True


def test_activity_is_the_mean_between_two_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    device = TwoLooks()
    monkeypatch.setattr(machine, "NvmlDevice", lambda: device)
    monkeypatch.setattr(machine, "GPM_PAUSE_S", 0.0)
    monkeypatch.setattr(machine.services, "observe", lambda: [SERVICE])
    facts = machine.observe()
    assert (facts.gpus[0].sm_active_percent, facts.services) == (40.0, [SERVICE])
    assert device.is_closed


def report(at_s: float, busy_us: int) -> EngineReport:
    lanes = [
        LaneReport(
            lane_id=lane_id, role=Role.DECODE, pid=1, active=active, requested_percent=70, granted_percent=70,
            batch=0, steps=1, tokens=1, busy_us=busy_us, compute_us=1,
        )
        for lane_id, active in (("decode-2", True), ("decode-1", False))
    ]  # fmt: skip
    coordinator = CoordinatorReport(
        waiting=0, prefilling=0, decoding=0, kv_blocks_total=1, kv_blocks_used=0, kv_blocks_cached=0, block_tokens=16,
        waiting_tokens=0, oldest_wait_ms=0, preemptions=0, prefix_hit_tokens=0, lane_restarts=0, lanes=lanes,
    )  # fmt: skip
    return EngineReport(
        engine_id="engine-0", at_s=at_s, phase="Steady", requested=(30, 70), granted=(30, 70), front_end=None,
        coordinator=coordinator,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("before", "busy_percent"),
    [
        pytest.param([report(10.0, 1_000_000)], 25.0, id="half a second of two"),
        pytest.param([report(12.0, 1_500_000)], None, id="the same report"),
        pytest.param([report(10.0, 9_000_000)], None, id="a coordinator that began anew"),
        pytest.param([], None, id="no report before"),
    ],
)
def test_a_lane_is_busy_for_a_part_of_the_time_between_two_reports(
    before: list[EngineReport], busy_percent: float | None
) -> None:
    (found,) = activity(before, [report(12.0, 1_500_000)])
    assert (found.lane_id, found.granted_percent, found.busy_percent) == ("decode-2", 70, busy_percent)


def test_an_agent_that_does_not_answer_is_told_and_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services.run_directory, "living", lambda: [RunDirectory(tmp_path / "tiny")])
    (found,) = services.observe()
    assert found.service == "tiny"
    assert "the agent does not answer" in (found.problem or "")


def test_xids_are_read_from_what_an_agent_exposes() -> None:
    watch = SimpleNamespace(xids={("GPU-1", 94): 2, ("", 79): 1}, verdict=None, readings=())
    registry = SimpleNamespace(collect=lambda: [gpu_metrics._xids(watch)])
    assert read_xids(generate_latest(registry).decode()) == [
        XidCount(uuid="", xid=79, count=1),
        XidCount(uuid="GPU-1", xid=94, count=2),
    ]


def test_the_command_prints_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(machine, "observe", lambda: H200)
    assert main(["doctor", "-o", "json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["hasGpu"], printed["healthy"]) == (True, True)
    assert printed["facts"]["gpus"][0]["memoryTotalBytes"] == 139 << 30


@pytest.mark.parametrize("pipe_directory", [None, "/", "/pipe", "/no/such/run/mps/pipe"])
def test_pipes_outside_a_run_directory_are_no_agents(pipe_directory: str | None) -> None:
    assert not machine._is_own(pipe_directory)
