from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from semipd_shell import agent_watch

HOLD = """
import sys, time
from semipd_shell.agent_watch import AgentLock
print(AgentLock(sys.argv[1]).acquire(), flush=True)
time.sleep(60)
"""


def start_holder(lock: Path) -> subprocess.Popen[str]:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(lock)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "True\n"
    return holder


def test_the_lock_is_held_while_the_agent_lives_and_free_after_kill_9(tmp_path: Path) -> None:
    lock = tmp_path / "agent.lock"
    with start_holder(lock) as holder:
        assert agent_watch.is_held(str(lock))
        assert not agent_watch.AgentLock(str(lock)).acquire()
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        assert not agent_watch.is_held(str(lock))


def test_a_process_is_orphaned_only_after_the_grace_without_an_agent(tmp_path: Path) -> None:
    lock = agent_watch.AgentLock(str(tmp_path / "agent.lock"))
    assert lock.acquire()
    watch = agent_watch.OrphanWatch(str(tmp_path / "agent.lock"), grace_s=30.0)
    assert not watch.is_orphaned(0.0)
    lock.release()
    assert not watch.is_orphaned(10.0)
    assert not watch.is_orphaned(39.9)
    assert watch.is_orphaned(40.0)


def test_a_new_agent_within_the_grace_resets_it(tmp_path: Path) -> None:
    path = str(tmp_path / "agent.lock")
    watch = agent_watch.OrphanWatch(path, grace_s=30.0)
    assert not watch.is_orphaned(0.0)
    lock = agent_watch.AgentLock(path)
    assert lock.acquire()
    assert not watch.is_orphaned(20.0)
    lock.release()
    assert not watch.is_orphaned(31.0)
    assert watch.is_orphaned(61.0)


def test_a_cleared_run_directory_means_no_agent(tmp_path: Path) -> None:
    assert not agent_watch.is_held(str(tmp_path / "gone" / "agent.lock"))
