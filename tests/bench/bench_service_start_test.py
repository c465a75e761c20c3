"""A service under measurement has so long to start, and says what kept it."""

from __future__ import annotations

import asyncio
import sys

import pytest

from semipd_bench.service import ServiceEnded, ServiceNotReady, problems_of, run_service
from semipd_core.agent_config import FaultStatus


def start(tmp_path, script, start_s):
    async def run():
        async with run_service(
            tmp_path / "service.yaml",
            tmp_path,
            say=print,
            log=tmp_path / "log",
            start_s=start_s,
            command=(sys.executable, "-c", script),
        ):
            pytest.fail("it is never ready")

    asyncio.run(run())


def test_a_service_that_is_not_ready_in_time_is_stopped_and_says_why(tmp_path):
    with pytest.raises(ServiceNotReady, match="not ready after 0 s: its agent does not answer"):
        start(tmp_path, "import time; time.sleep(600)", 0.0)


def test_one_that_ends_by_itself_says_so(tmp_path):
    with pytest.raises(ServiceEnded, match="exit code 3"):
        start(tmp_path, "raise SystemExit(3)", None)


def test_what_keeps_it_is_what_its_agent_says(status_with):
    status = status_with()
    assert problems_of(status) == ["no engine yet"]
    status.problems.append("the MPS daemon does not answer")
    status.faults.append(FaultStatus(reason="GpuLost", message="Xid 79"))
    assert problems_of(status) == ["GpuLost: Xid 79", "the MPS daemon does not answer"]
