"""Turns between real processes over one memfd."""

from __future__ import annotations

import fcntl
import mmap
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

import pytest

from semipd_core.partition import Role
from semipd_engine.lane.arbiter import ControlPage, Turns

ATTEMPTS = 3
FORK = multiprocessing.get_context("fork")


@contextmanager
def control_memory() -> Iterator[int]:
    fd = os.memfd_create("control")
    os.ftruncate(fd, mmap.PAGESIZE)
    yield fd
    os.close(fd)


@pytest.fixture
def control_fd() -> Iterator[int]:
    with control_memory() as fd:
        yield fd


def turns(fd: int, role: Role, cap: int) -> Turns:
    return Turns(ControlPage(mmap.mmap(fd, mmap.PAGESIZE)), fd, role, lambda: cap)


def in_process(
    target: Callable[[Connection], None],
) -> tuple[multiprocessing.process.BaseProcess, Connection]:
    ours, theirs = FORK.Pipe()
    process = FORK.Process(target=target, args=(theirs,))
    process.start()
    theirs.close()
    return process, ours


def test_a_lane_killed_inside_its_turn_does_not_block_the_other(control_fd: int) -> None:
    def hold(pipe: Connection) -> None:
        lane = turns(control_fd, Role.PREFILL, 100)
        with lane.step(), lane.turn():
            pipe.send("held")
            time.sleep(60)

    process, pipe = in_process(hold)
    assert pipe.recv() == "held"
    with pytest.raises(BlockingIOError):
        fcntl.lockf(control_fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 0)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    lane = turns(control_fd, Role.DECODE, 100)
    with lane.step(), lane.turn():
        pass
    assert lane.compute_ns > 0


def test_a_stale_waiting_word_does_not_stop_a_lane(control_fd: int) -> None:
    page = ControlPage(mmap.mmap(control_fd, mmap.PAGESIZE))
    page.set_waiting(Role.PREFILL, waiting=True)
    lane = turns(control_fd, Role.DECODE, 100)
    for _ in range(5):
        with lane.step(), lane.turn():
            time.sleep(0.001)
    assert page.account(Role.DECODE).virtual_ns > 0


@pytest.mark.parametrize(
    ("prefill", "decode", "least_ratio", "most_ratio"),
    [
        pytest.param(100, 100, 0.7, 1.4, id="equal caps"),
        pytest.param(25, 100, 2.8, 5.5, id="decode has four times the cap"),
        pytest.param(100, 50, 0.3, 0.75, id="decode has half the cap"),
    ],
)
def test_two_busy_processes_share_in_proportion_to_their_caps(
    prefill: int, decode: int, least_ratio: float, most_ratio: float
) -> None:
    """Wall-clock time of two processes: a machine that holds one of them up says nothing about their turns."""
    caps = {Role.PREFILL: prefill, Role.DECODE: decode}
    ratios: list[float] = []
    while len(ratios) < ATTEMPTS:
        with control_memory() as fd:
            ratios.append(decode_ratio(fd, caps))
        if least_ratio <= ratios[-1] <= most_ratio:
            return
    pytest.fail(f"decode's time over prefill's is {ratios}, allowed: {least_ratio} to {most_ratio}")


def decode_ratio(control_fd: int, caps: dict[Role, int]) -> float:
    """Decode's time over prefill's, where both compute all the time."""
    seconds_per_turn = {Role.PREFILL: 0.008, Role.DECODE: 0.002}

    def compute(pipe: Connection, role: Role) -> None:
        lane = turns(control_fd, role, caps[role])
        pipe.recv()
        total_ns = 0
        end_s = time.monotonic() + 2.0
        while time.monotonic() < end_s:
            with lane.step():
                for _ in range(10):
                    with lane.turn():
                        time.sleep(seconds_per_turn[role])
            total_ns += lane.compute_ns
        pipe.send(total_ns)

    running = {role: in_process(lambda pipe, role=role: compute(pipe, role)) for role in caps}
    for _, pipe in running.values():
        pipe.send("go")
    total_ns = {role: pipe.recv() for role, (_, pipe) in running.items()}
    for process, _ in running.values():
        process.join()
    return total_ns[Role.DECODE] / max(1, total_ns[Role.PREFILL])


def test_caps_are_read_at_each_turn(control_fd: int) -> None:
    page = ControlPage(mmap.mmap(control_fd, mmap.PAGESIZE))
    slept: list[float] = []
    clock = iter(range(0, 10**12, 1_000_000))
    lane = Turns(
        page,
        control_fd,
        Role.PREFILL,
        lambda: page.cap_percent(Role.PREFILL),
        lambda: next(clock),
        slept.append,
    )
    page.set_caps(100, 100)
    with lane.step(), lane.turn():
        pass
    page.set_caps(1, 100)
    with lane.step():
        for _ in range(2):
            with lane.turn():
                pass
    assert max(slept) > 0.05
