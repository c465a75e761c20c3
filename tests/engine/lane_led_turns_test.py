"""The ranks of a lane compute inside the turns of its first rank, and nowhere else."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import pytest

from semipd_engine.lane.led_turns import GatedTurns, LedTurns
from semipd_engine.lane.ranks import rank_cpus

TURNS = 200
PATIENCE_S = 90.0


class OneAtATime:
    """Turns on one device, taken by threads."""

    compute_ns = 7

    def __init__(self, device: threading.Lock) -> None:
        self._device = device

    @contextmanager
    def turn(self) -> Iterator[None]:
        with self._device:
            yield


class Gate:
    """Followers' gates, without the followers."""

    def __init__(self, openers: list[int]) -> None:
        self._openers = openers

    def open_turn(self) -> None:
        for fd in self._openers:
            os.write(fd, b"\0")


class Device:
    """Who computes on it, by lane; remembers whether two lanes ever did at once."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.was_shared = False
        self.computed: Counter[str] = Counter()
        self._lanes: Counter[str] = Counter()
        self._guard = threading.Lock()

    def compute(self, lane: str) -> None:
        with self._guard:
            self._lanes[lane] += 1
        with self._guard:
            self.was_shared |= len(+self._lanes) > 1
            self.computed[lane] += 1
            self._lanes[lane] -= 1


def test_two_lanes_never_compute_at_once_and_never_wait_for_each_other() -> None:
    device = Device()
    with ExitStack() as pipes, ThreadPoolExecutor(6) as pool:
        running = []
        for lane in ("prefill", "decode"):
            gates = [os.pipe() for _ in range(2)]
            for fd in (fd for gate in gates for fd in gate):
                pipes.callback(os.close, fd)
            collective = threading.Barrier(3, timeout=PATIENCE_S)
            led = LedTurns(OneAtATime(device.lock), Gate([writer for _, writer in gates]))
            running += [
                pool.submit(take_turns, turns, device, lane, collective)
                for turns in (led, *(GatedTurns(reader) for reader, _ in gates))
            ]
        for each in running:
            each.result(PATIENCE_S)
    assert device.computed == {"prefill": 3 * TURNS, "decode": 3 * TURNS}
    assert not device.was_shared


def take_turns(
    turns: LedTurns | GatedTurns, device: Device, lane: str, collective: threading.Barrier
) -> None:
    for _ in range(TURNS):
        with turns.turn():
            device.compute(lane)
            collective.wait()


def test_a_follower_whose_first_rank_is_gone_gets_no_turn() -> None:
    reader, writer = os.pipe()
    os.close(writer)
    with pytest.raises(EOFError), GatedTurns(reader).turn():
        pass
    os.close(reader)


def test_the_time_inside_turns_is_that_of_the_first_rank() -> None:
    assert LedTurns(OneAtATime(threading.Lock()), Gate([])).compute_ns == OneAtATime.compute_ns


@pytest.mark.parametrize(
    ("cpus", "num_ranks", "expected"),
    [
        pytest.param([3, 5], 1, [[3, 5]], id="a lone rank has all"),
        pytest.param([3, 5], 2, [[3], [5]], id="one each"),
        pytest.param([0, 1, 2, 3, 4], 2, [[0, 1], [2, 3, 4]], id="as even as it goes"),
        pytest.param([3, 5], 4, [[3], [5], [3], [5]], id="shared where they are fewer than ranks"),
    ],
)
def test_ranks_divide_the_cpus_of_their_engine(
    cpus: list[int], num_ranks: int, expected: list[list[int]]
) -> None:
    assert [rank_cpus(cpus, rank, num_ranks) for rank in range(num_ranks)] == expected
