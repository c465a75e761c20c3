"""The stand-in for the coordinator: lanes come, are swapped and are lost as with the real one; no step is ever computed."""

from __future__ import annotations

import json
import selectors
import time
from pathlib import Path

from program_faults import ORPHAN_GRACE_S, read_faults

from semipd_core import messages
from semipd_core.engine_config import EngineConfig
from semipd_core.partition import Role
from semipd_core.telemetry import CoordinatorReport, LaneReport
from semipd_shell import agent_watch, channel


class SteplessCoordinator:
    """Lanes of each role: one active, others on standby; swaps at once, as if no step were ever in flight."""

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self.faults = read_faults(Path(config.directory).parent)
        self.selector = selectors.DefaultSelector()
        self.listener = channel.listen(config.coordinator_socket)
        self.selector.register(self.listener, selectors.EVENT_READ)
        self.hello: dict[channel.Channel, messages.AnyMessage | None] = {}
        self.active: dict[Role, messages.LaneHello] = {}
        self.standby: dict[str, messages.LaneHello] = {}
        self.told_to_stop: set[str] = set()
        self.lost: list[str] = []
        self.confirmed: list[str] = []
        self.caps: dict[Role, int] = {}

    def serve(self) -> None:
        watch = agent_watch.OrphanWatch(self.config.agent_lock, ORPHAN_GRACE_S)
        while not watch.is_orphaned(time.monotonic()):
            for key, _ in self.selector.select(0.2):
                if key.fileobj is self.listener:
                    peer = channel.Channel(self.listener.accept()[0])
                    self.hello[peer] = None
                    self.selector.register(peer, selectors.EVENT_READ, peer)
                else:
                    self._read(key.data)

    def _read(self, peer: channel.Channel) -> None:
        try:
            message = peer.receive()
        except (EOFError, OSError):
            self._gone(peer)
            return
        match message:
            case messages.LaneHello():
                self.hello[peer] = message
                self._attached(message)
            case messages.AgentHello() | messages.FrontEndHello():
                self.hello[peer] = message
            case messages.GetState():
                peer.send(messages.State(report=self._report()))
            case messages.SetCaps():
                if not self.faults.caps_ignored:
                    self.caps = {Role.PREFILL: message.prefill_percent, Role.DECODE: message.decode_percent}
                peer.send(messages.State(report=self._report()))
            case messages.Swap(lane_id=lane_id, keeps_old=keeps_old):
                self._swap(lane_id, keeps_old)
            case messages.LaneExited(lane_id=lane_id):
                self.confirmed.append(lane_id)
                self._write_trace()
            case _:
                raise AssertionError(message)

    def _gone(self, peer: channel.Channel) -> None:
        hello = self.hello.pop(peer)
        self.selector.unregister(peer)
        peer.close()
        if not isinstance(hello, messages.LaneHello) or hello.lane_id in self.told_to_stop:
            return
        self.lost.append(hello.lane_id)
        self.standby.pop(hello.lane_id, None)
        if self.active.get(hello.role) is hello:
            del self.active[hello.role]
        self._write_trace()
        self._to_agent(messages.LaneLost(lane_id=hello.lane_id, role=hello.role))
        self._fill(hello.role)

    def _attached(self, hello: messages.LaneHello) -> None:
        self.standby[hello.lane_id] = hello
        self._to_agent(
            messages.LaneAttached(
                lane_id=hello.lane_id,
                role=hello.role,
                pid=hello.pid,
                requested_percent=hello.requested_percent,
                granted_percent=hello.granted_percent,
                private_bytes=hello.private_bytes,
            )
        )
        self._fill(hello.role)

    def _fill(self, role: Role) -> None:
        waiting = next((hello for hello in self.standby.values() if hello.role is role), None)
        if role not in self.active and waiting is not None:
            self.active[role] = self.standby.pop(waiting.lane_id)
            self._to_agent(messages.Swapped(lane_id=waiting.lane_id, old_lane_id=None))

    def _swap(self, lane_id: str, keeps_old: bool) -> None:
        hello = self.standby.pop(lane_id, None)
        if hello is None:
            return
        old = self.active[hello.role]
        self.active[hello.role] = hello
        if keeps_old:
            self.standby[old.lane_id] = old
        else:
            self._stop(old)
        self._to_agent(messages.Swapped(lane_id=lane_id, old_lane_id=old.lane_id, is_old_kept=keeps_old))

    def _stop(self, lane: messages.LaneHello) -> None:
        self.told_to_stop.add(lane.lane_id)
        for peer, other in self.hello.items():
            if other is lane:
                peer.send(messages.Stop())

    def _to_agent(self, message: messages.Message) -> None:
        for peer, hello in self.hello.items():
            if isinstance(hello, messages.AgentHello):
                try:
                    peer.send(message)
                except OSError:
                    return

    def _write_trace(self) -> None:
        """For the test: a lost lane must be confirmed."""
        trace = {"lost": self.lost, "confirmed": self.confirmed}
        new = Path(self.config.directory, "trace.new")
        new.write_text(json.dumps(trace), encoding="utf-8")
        new.rename(new.with_suffix(".json"))

    def _report(self) -> CoordinatorReport:
        lanes = [(hello, True) for hello in self.active.values()]
        lanes += [(hello, False) for hello in self.standby.values()]
        return CoordinatorReport(
            waiting=0,
            prefilling=0,
            decoding=0,
            kv_blocks_total=64,
            kv_blocks_used=3,
            kv_blocks_cached=0,
            block_tokens=16,
            waiting_tokens=0,
            oldest_wait_ms=0,
            preemptions=0,
            prefix_hit_tokens=0,
            lane_restarts=0,
            lanes=[
                LaneReport(
                    lane_id=hello.lane_id,
                    role=hello.role,
                    pid=hello.pid,
                    active=is_active,
                    requested_percent=hello.requested_percent,
                    granted_percent=self.caps.get(hello.role, hello.granted_percent),
                    batch=0,
                    steps=0,
                    tokens=0,
                    busy_us=0,
                    compute_us=0,
                    private_bytes=hello.private_bytes,
                )
                for hello, is_active in lanes
            ],
        )
