"""A lane may lead a process group: it has ended when the last of the group has."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable

from semipd_agent.processes.identity import Identity, group_members, outlives, read_identity
from semipd_agent.processes.process import Process

WITHIN_S = 90.0
# A process that leads a group of two; with an argument it ends and leaves the other behind, which ends with its stdin.
GROUP = """
import os, sys, time
os.setpgid(0, 0)
if os.fork() == 0:
    sys.stdin.read()
    os._exit(0)
print("forked", flush=True)
os._exit(0) if sys.argv[1:] else time.sleep(600)
"""


def start(*arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", GROUP, *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def wait_until(is_done: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + WITHIN_S
    while not is_done():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_the_members_of_a_group_are_found_until_the_last_has_ended() -> None:
    with start() as leader:
        assert leader.stdout.readline()
        both = group_members(leader.pid)
        assert len(both) == 2
        assert leader.pid in both
        [member] = set(both) - {leader.pid}
        identity = read_identity(leader.pid)
        assert not outlives(identity), "the leader lives"
        leader.kill()
        os.waitid(os.P_PID, leader.pid, os.WEXITED | os.WNOWAIT)
        assert group_members(leader.pid) == [member], "a zombie is no member"
        assert outlives(identity)
        leader.stdin.close()
        wait_until(lambda: not outlives(identity))
        assert group_members(leader.pid) == []


async def test_a_process_with_its_group_has_ended_when_the_group_has() -> None:
    leader = start("leave")
    ended = asyncio.Event()
    assert leader.stdout.readline()
    identity = read_identity(leader.pid) or Identity(pid=leader.pid, start_ticks=0, boot_id="")
    watched = Process(identity, ended.set, with_group=True)
    await asyncio.to_thread(os.waitid, os.P_PID, leader.pid, os.WEXITED | os.WNOWAIT)
    assert outlives(identity)
    assert watched.is_alive
    assert not ended.is_set()
    leader.stdin.close()
    await asyncio.wait_for(ended.wait(), WITHIN_S)
    assert not watched.is_alive
    leader.wait()
    leader.stdout.close()
