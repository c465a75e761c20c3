"""The coordinator's loop: read a message, let the core decide, send what it says.

One thread, no torch, no decisions of its own. Events reach the core in the order in which they are read.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Callable

import msgspec

from semipd_core import messages
from semipd_core.engine import coordinator as core
from semipd_core.engine.coordinator import Coordinator
from semipd_core.partition import Band, Isolation, Role
from semipd_core.telemetry import CoordinatorReport, EngineUsage
from semipd_engine.coordinator.peers import Peer, Peers, send
from semipd_engine.lane.arbiter import ControlPage
from semipd_shell import agent_watch, failpoints, log

TICK_S = 1.0


class CoordinatorProcess:
    """Everything but the decisions. `clock_ns` is monotonic and common to all processes of the machine."""

    def __init__(
        self,
        decider: Coordinator,
        listener: socket.socket,
        control: ControlPage,
        isolation: Isolation,
        orphan_watch: agent_watch.OrphanWatch,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._decider = decider
        self._listener = listener
        self._control = control
        self._orphan_watch = orphan_watch
        self._clock_ns = clock_ns
        self._peers = Peers()
        self._said_ready = False
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ)
        self._log = log.logger(__name__)
        self.stopping = False
        if isolation is Isolation.GREEN_CONTEXT:
            self._take_over_caps()

    def serve(self) -> None:
        """Until SIGTERM sets `stopping` or there has been no agent for the grace period."""
        while not self.stopping and not self._orphan_watch.is_orphaned(self._clock_ns() / 1e9):
            for key, _ in self._selector.select(TICK_S):
                if key.fileobj is self._listener:
                    self._accept()
                else:
                    self._read(key.data)

    def _take_over_caps(self) -> None:
        """Caps outlive a coordinator in the control page; a fresh page caps nobody."""
        prefill_percent = self._control.cap_percent(Role.PREFILL) or 100
        decode_percent = self._control.cap_percent(Role.DECODE) or 100
        self._set_caps(prefill_percent, decode_percent)

    def _set_caps(self, prefill_percent: int, decode_percent: int, band: Band | None = None) -> None:
        split = self._decider.set_caps(prefill_percent, decode_percent, band)
        self._control.set_caps(split.prefill_percent, split.decode_percent)

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        peer = self._peers.add(connection)
        self._selector.register(peer.channel, selectors.EVENT_READ, peer)

    def _read(self, peer: Peer) -> None:
        try:
            message = peer.channel.receive()
        except (EOFError, OSError):
            self._gone(peer)
            return
        except msgspec.ValidationError as error:
            self._log.error("unreadable message", lane_id=peer.lane_id, error=str(error))
            self._gone(peer)
            return
        self._receive(peer, message)

    def _gone(self, peer: Peer) -> None:
        self._selector.unregister(peer.channel)
        self._peers.remove(peer)
        if isinstance(peer.hello, messages.FrontEndHello):
            self._decide(core.FrontEndGone())
        elif peer.lane_id is not None and not peer.told_to_stop:
            self._log.warning("lane lost", lane_id=peer.lane_id)
            self._decide(core.LaneDisconnected(lane_id=peer.lane_id))

    def _receive(self, peer: Peer, message: messages.AnyMessage) -> None:
        match message:
            case messages.FrontEndHello() | messages.AgentHello() | messages.LaneHello():
                self._greet(peer, message)
            case messages.GetState():
                send(peer, messages.State(report=self._report()))
            case messages.GetUsage():
                send(peer, messages.Usage(usage=_usage(self._report())))
            case messages.SetCaps():
                self._set_caps(message.prefill_percent, message.decode_percent, message.band)
                send(peer, messages.State(report=self._report()))
            case messages.Submit():
                failpoints.reach("coordinator.submit_received")
                self._log.debug("submit", request_id=message.request_id, prompt_tokens=len(message.prompt))
                self._decide(message)
            case messages.StepResult():
                failpoints.reach("coordinator.result_received")
                self._decide(message)
            case messages.Swap():
                failpoints.reach("coordinator.swap_received")
                self._decide(message)
            case messages.Abort() | messages.LaneExited():
                self._decide(message)
            case _:
                self._log.error("unexpected message", kind=type(message).__name__)

    def _greet(
        self, peer: Peer, hello: messages.FrontEndHello | messages.AgentHello | messages.LaneHello
    ) -> None:
        peer.hello = hello
        self._log.info("connected", kind=type(hello).__name__, peer_pid=hello.pid, lane_id=peer.lane_id)
        for older in self._peers.displace(peer):
            self._gone(older)
        if isinstance(hello, messages.LaneHello):
            self._decide(hello)
        elif isinstance(hello, messages.FrontEndHello):
            self._say_readiness()

    def _decide(self, event: core.Event) -> None:
        news = []
        for effect in self._decider.handle(event, self._clock_ns()):
            if isinstance(effect, core.ToFrontEnd):
                news.append(effect.message)
            else:
                self._apply(effect)
        if news:  # after the plans: lanes go on while clients are told
            self._tell(news)
        if self._decider.is_ready != self._said_ready:
            self._say_readiness()

    def _tell(self, news: list[messages.Tokens | messages.Failed]) -> None:
        send(self._peers.front_end(), messages.News(items=news) if len(news) > 1 else news[0])
        failpoints.reach("coordinator.tokens_sent")

    def _say_readiness(self) -> None:
        self._said_ready = self._decider.is_ready
        send(self._peers.front_end(), messages.Readiness(ready=self._said_ready))

    def _apply(self, effect: core.ToAgent | core.ToLane | core.SetSplit) -> None:
        match effect:
            case core.SetSplit(choice=choice):
                self._control.set_caps(choice.split.prefill_percent, choice.split.decode_percent)
                self._log.debug("split", choice=choice.message)
            case core.ToAgent(message=message):
                self._log.info("lane event", event_kind=type(message).__name__, lane_id=message.lane_id)
                send(self._peers.agent(), message)
            case core.ToLane(lane_id=lane_id, message=message):
                self._to_lane(lane_id, message)

    def _to_lane(self, lane_id: str, message: messages.StepPlan | messages.Stop) -> None:
        peer = self._peers.lane(lane_id)
        if peer is None:
            return
        if isinstance(message, messages.Stop):
            peer.told_to_stop = True
            send(peer, message)
            return
        failpoints.reach("coordinator.plan.before_send")
        self._log.debug("plan", lane_id=lane_id, epoch=message.epoch, request_ids=message.request_ids)
        send(peer, message)
        failpoints.reach("coordinator.plan.after_send")

    def _report(self) -> CoordinatorReport:
        return self._decider.report(self._clock_ns())


def _usage(report: CoordinatorReport) -> EngineUsage:
    return EngineUsage(
        waiting=report.waiting,
        running=report.prefilling + report.decoding,
        kv_blocks_total=report.kv_blocks_total,
        kv_blocks_used=report.kv_blocks_used,
        block_tokens=report.block_tokens,
    )
