"""What the agent tells an engine's memory server of its GPU, and what it makes of one that cannot start yet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from agent_process import AgentProcess, agent_config

from semipd_agent.__main__ import write_configs
from semipd_agent.configure import assign_gpus, build_engine_config
from semipd_agent.gpu_assignment import known_uuids, settle_gpus
from semipd_agent.journal.entries import Started, Starting
from semipd_agent.journal.recovery import JournalledProcess
from semipd_agent.processes.identity import boot_id
from semipd_agent.run_directory import RunDirectory
from semipd_core.errors import InvalidSpec
from semipd_core.partition import Isolation
from semipd_engine.cuda.devices import index_of

GPUS = ["GPU-a", "GPU-b", "GPU-c"]


@pytest.mark.parametrize(
    ("device", "gpus", "engines", "num_ranks", "expected"),
    [
        pytest.param("CUDA", GPUS, 3, 1, [["GPU-a"], ["GPU-b"], ["GPU-c"]], id="one each"),
        pytest.param("CUDA", GPUS, 2, 1, [["GPU-a"], ["GPU-b"]], id="the first ones"),
        pytest.param("CUDA", GPUS, 1, 2, [["GPU-a", "GPU-b"]], id="one for each rank"),
        pytest.param("CUDA", [], 2, 1, [["#0"], ["#1"]], id="by number while no driver tells their names"),
        pytest.param("CUDA", [], 2, 2, [["#0", "#1"], ["#2", "#3"]], id="ranks by number"),
        pytest.param("CPU", [], 2, 2, [[], []], id="none on the CPU"),
    ],
)
def test_each_rank_of_each_engine_has_a_gpu_of_its_own(
    device: str, gpus: list, engines: int, num_ranks: int, expected: list
) -> None:
    assert assign_gpus(device, gpus, engines, num_ranks) == expected


def journalled(name: str, boot: str | None = None) -> dict[str, JournalledProcess]:
    started = Started(process=name, pid=1, start_ticks=1, boot_id=boot or boot_id())
    return {name: JournalledProcess(starting=Starting(process=name), started=started)}


@pytest.mark.parametrize(
    ("processes", "found", "expected"),
    [
        pytest.param({}, GPUS[1:], [["GPU-b"], ["GPU-c"]], id="a first start"),
        pytest.param(journalled("engine-0/memory"), GPUS[1:], [["GPU-a"], ["GPU-b"]], id="one is not found"),
        pytest.param(journalled("engine-1/frontend"), [], [["GPU-a"], ["GPU-b"]], id="no driver now"),
        pytest.param(
            journalled("engine-0/memory", "before"), GPUS[1:], [["GPU-b"], ["GPU-c"]], id="of another boot"
        ),
        pytest.param(journalled("zygote"), GPUS[1:], [["GPU-b"], ["GPU-c"]], id="no engine lives"),
    ],
)
def test_engines_that_may_live_keep_their_gpus_whatever_is_found(
    tmp_path: Path, processes: dict[str, JournalledProcess], found: list[str], expected: list[list[str]]
) -> None:
    directory, config = RunDirectory(tmp_path), agent_config(engines=2, device="CUDA")
    write_configs(config, directory, settle_gpus(config, directory, {}, GPUS))
    assert settle_gpus(config, directory, processes, found) == expected


def test_gpus_known_by_number_stand_for_any() -> None:
    assert known_uuids([["GPU-a"], ["GPU-b"]]) == {"GPU-a", "GPU-b"}
    assert known_uuids([["#0"]]) == known_uuids([[]]) == frozenset()


@pytest.mark.parametrize(("gpu", "index"), [(None, 0), ("GPU-b", 1), ("#0", 0), ("#2", 2)])
def test_a_process_finds_its_engines_gpu(gpu: str | None, index: int) -> None:
    assert index_of(gpu, GPUS) == index


@pytest.mark.parametrize("gpu", ["GPU-d", "#3"])
def test_a_gpu_that_is_not_there_is_refused_with_those_that_are(gpu: str) -> None:
    with pytest.raises(InvalidSpec, match="not there', allowed: one of GPU-a, GPU-b, GPU-c"):
        index_of(gpu, GPUS)


def test_more_engines_than_gpus_are_refused_with_both_numbers() -> None:
    with pytest.raises(InvalidSpec, match=r"engines: got 4, allowed: at most 3.*GPU-a, GPU-b, GPU-c"):
        assign_gpus("CUDA", GPUS, 4)


def test_more_ranks_than_gpus_are_refused_with_all_numbers() -> None:
    refused = (
        r"gpusPerEngine: got '2, for each of 2 engines', allowed: at most 3 GPUs in all: GPU-a, GPU-b, GPU-c"
    )
    with pytest.raises(InvalidSpec, match=refused):
        assign_gpus("CUDA", GPUS, 2, 2)


@pytest.mark.parametrize(
    ("device", "isolation", "is_client"),
    [
        ("CUDA", Isolation.MPS, True),
        ("CUDA", Isolation.GREEN_CONTEXT, False),
        ("CPU", Isolation.MPS, False),
    ],
)
def test_an_engine_knows_its_device_and_the_mps_daemon_of_its_lanes(
    device: str, isolation: Isolation, is_client: bool
) -> None:
    directory = RunDirectory(Path("/run/semipd"))
    gpus = GPUS[:2] if device == "CUDA" else []
    config = build_engine_config(
        agent_config(device=device, isolation=isolation), "engine-0", [0], directory, gpus
    )
    assert (config.device, [config.gpu, *config.other_gpus]) == (device, gpus or [None])
    assert config.mps_pipe_directory == (str(directory.mps_pipes) if is_client else None)


@pytest.mark.slow
def test_a_memory_server_that_cannot_start_yet_is_a_problem_until_it_starts(
    start_agent: Callable[..., AgentProcess],
) -> None:
    problem = "GPU-a: cuInit: CUDA_ERROR_SYSTEM_NOT_READY: system not yet initialized"
    agent = start_agent({"memory_problem": problem})
    said = f"engine-0: no memory server: {problem}"
    agent.until(lambda: agent.status().problems == [said], "the problem is told")
    assert agent.engine().phase == "Starting"
    assert agent.engine().error is None
    assert agent.get("/readyz").status_code == 503
    agent.kill()
    agent.start()
    agent.until(lambda: agent.status().problems == [said], "the next agent tells it too")
    agent.set_faults()
    agent.until_ready()
    agent.until(lambda: agent.status().problems == [], "the problem is over")


@pytest.mark.slow
def test_lanes_that_find_too_little_memory_are_a_fault_until_every_role_has_one(
    start_agent: Callable[..., AgentProcess],
) -> None:
    agent = start_agent({"lane_problem": "OutOfMemoryError: 1 GiB"})
    said = "engine-0: no lane: OutOfMemoryError: 1 GiB"
    agent.until(lambda: agent.status().problems == [said], "the problem is told")
    (fault,) = agent.status().faults
    assert (fault.reason, fault.message) == ("TooLittleMemory", said)
    agent.kill()
    agent.start()
    agent.until(lambda: agent.status().problems == [said], "the next agent tells it too")
    agent.set_faults()
    agent.until_ready()
    agent.until(lambda: agent.status().problems == [] == agent.status().faults, "it is over")
