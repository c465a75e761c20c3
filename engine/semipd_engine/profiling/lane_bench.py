"""Real lanes at any caps: asks for lane processes, gives them synthetic plans, reads what their steps took.

Where a share is a process's (MPS), other caps mean other lanes, each asked what it was granted; where the cap is read at each
turn (GreenContext), the caps change under them.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from semipd_core import messages
from semipd_core.engine_config import EngineConfig
from semipd_core.errors import DeviceError
from semipd_core.partition import Partition, Role
from semipd_core.profile.format import Point, Setting, StepLoad
from semipd_engine.lane.arbiter import ControlPage
from semipd_engine.memory.manifest import Manifest
from semipd_engine.profiling.lane_link import (
    Forked,
    LaneLink,
    LaneLost,
    clock_ns,
    open_process,
    wait_for_results,
)
from semipd_engine.profiling.plans import build_plans
from semipd_engine.profiling.timing import Sampling, build_point
from semipd_shell.channel import Channel

ROLES = (Role.PREFILL, Role.DECODE)
ATTACH_TIMEOUT_S = 120.0  # a lane on a GPU compiles and captures before its hello
STEP_TIMEOUT_S = 120.0


class NotGranted(DeviceError):
    """A lane has another share than it was asked to take: what it measures would be filed under the wrong share."""


@dataclass(slots=True, kw_only=True)
class LaneBench:
    """`fork(role, percent)` starts a lane process that connects to `listener`. `close` ends what it started."""

    config: EngineConfig
    manifest: Manifest
    page: ControlPage
    listener: socket.socket
    fork: Callable[[Role, int], Forked]
    sampling: Sampling = field(default_factory=Sampling)
    _lanes: dict[Role, LaneLink] = field(default_factory=dict)

    def measure(self, setting: Setting) -> Point:
        """The lanes it used stay for the next setting, unless one fails: then none does.

        Raises: LaneLost, NotGranted; InvalidSpec and what `fork` raises, which other settings would meet too.
        """
        try:
            return self._measure(setting)
        except (LaneLost, NotGranted):
            self._stop_lanes()
            raise

    def close(self) -> None:
        """Stop the lanes."""
        self._stop_lanes()
        self.listener.close()

    def _stop_lanes(self) -> None:
        """Whatever goes wrong with one, the other is stopped too."""
        for role in list(self._lanes):
            with contextlib.suppress(LaneLost):
                self._lanes.pop(role).stop()

    def _measure(self, setting: Setting) -> Point:
        self._grant(setting.caps)
        own = self._lanes[setting.load.role]
        own_plans = self._plans(setting.load)
        if setting.beside is None:
            links, plans = [own], {own: own_plans}
        else:
            other = self._lanes[setting.beside.role]
            links, plans = [own, other], {own: own_plans, other: self._plans(setting.beside)}
        for link in links:
            link.results.clear()
        measured_from = self._run(own, links, plans)
        self._settle(links)
        beside = links[1].results if len(links) > 1 else []
        return build_point(setting, own.results[measured_from:], beside)

    def _run(
        self,
        own: LaneLink,
        links: list[LaneLink],
        plans: dict[LaneLink, Iterator[messages.StepPlan]],
    ) -> int:
        """Keep all of `links` busy until `own` has enough steps; returns how many of its results were to warm up."""
        first_ns, warm = clock_ns(), None
        for link in links:
            link.feed(plans[link])
        while True:
            for link in wait_for_results(links, STEP_TIMEOUT_S):
                link.take()
            if warm is None and self.sampling.is_warm(first_ns, clock_ns(), len(own.results)):
                warm = len(own.results)
            if warm is not None and self.sampling.is_enough(own.results[warm:]):
                return warm
            for link in links:
                link.feed(plans[link])

    def _settle(self, links: Sequence[LaneLink]) -> None:
        """Wait for what is in flight. A last step beside which the other lane has stopped comes after those that count."""
        counted = [len(link.results) for link in links]
        for link in links:
            while not link.is_idle:
                wait_for_results([link], STEP_TIMEOUT_S)
                link.take()
        del links[0].results[counted[0] :]

    def _plans(self, load: StepLoad) -> Iterator[messages.StepPlan]:
        """Decode takes blocks from the beginning of the cache, prefill from its end; block 0 is the null block."""
        blocks = range(1, self.manifest.num_blocks)
        return build_plans(
            load,
            blocks=blocks if load.role is Role.DECODE else blocks[::-1],
            block_tokens=self.manifest.block_tokens,
            vocab_size=self.manifest.model.vocab_size,
        )

    def _grant(self, caps: Partition) -> None:
        """Both lanes at `caps`. Raises: NotGranted, LaneLost."""
        if not self.config.isolation.replaces_lanes:
            self.page.set_caps(caps.prefill_percent, caps.decode_percent)
        for role in ROLES:
            link, percent = self._lanes.get(role), caps.percent(role)
            if link is not None and link.hello.requested_percent != percent:
                if not self.config.isolation.replaces_lanes:
                    continue
                self._lanes.pop(role).stop()
                link = None
            if link is None:
                self._lanes[role] = self._attach(role, percent)

    def _attach(self, role: Role, percent: int) -> LaneLink:
        forked = self.fork(role, percent)
        self._await_connection(forked, f"the {role} lane with {percent} %")
        connection, _ = self.listener.accept()
        channel = Channel(connection)
        try:
            hello = channel.receive()
        except EOFError as error:
            channel.close()
            raise forked.last_error() from error
        assert isinstance(hello, messages.LaneHello), hello
        link = LaneLink(channel, hello, forked, run_ahead=self.config.run_ahead)
        if hello.granted_percent != percent:
            link.stop()
            raise NotGranted(
                f"the {role} lane asked for {percent} % and was granted {hello.granted_percent} %"
            )
        return link

    def _await_connection(self, forked: Forked, name: str) -> None:
        listener, process = self.listener.fileno(), open_process(forked.pid)
        if process is None:
            raise forked.why_ended()
        try:
            ready, _, _ = select.select([listener, process], [], [], ATTACH_TIMEOUT_S)
            if not ready:
                signal.pidfd_send_signal(process, signal.SIGKILL)  # else it would attach as another one
                raise LaneLost(f"{name} has not attached for {ATTACH_TIMEOUT_S:.0f} s")
        finally:
            os.close(process)
        if listener not in ready:
            raise forked.why_ended()
