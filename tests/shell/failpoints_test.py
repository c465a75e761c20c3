from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from semipd_shell import failpoints

PASS = (
    "from semipd_shell import failpoints\nfor i in range(5): failpoints.reach('lane.started')\nprint('alive')"
)


def run(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PASS], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("armed", "code"),
    [
        pytest.param("", 0, id="nothing armed, nothing happens"),
        pytest.param("lane.started", -signal.SIGKILL, id="dies at the first pass"),
        pytest.param("lane.started=5", -signal.SIGKILL, id="dies at the fifth pass"),
        pytest.param("lane.started=6", 0, id="lives when passed less often"),
        pytest.param("lane.hello_sent=1", 0, id="another place does not matter"),
    ],
)
def test_a_process_dies_where_it_is_told(armed: str, code: int) -> None:
    assert run({failpoints.ENVIRONMENT: armed}).returncode == code


def test_a_place_kills_only_once_in_all_processes_of_a_run(tmp_path: Path) -> None:
    environment = {failpoints.ENVIRONMENT: "lane.started", failpoints.ONCE_ENVIRONMENT: str(tmp_path)}
    assert run(environment).returncode == -signal.SIGKILL
    assert run(environment).returncode == 0


def test_an_unknown_place_is_refused() -> None:
    with pytest.raises(AssertionError, match=r"no\.such\.place"):
        failpoints.reach("no.such.place")
