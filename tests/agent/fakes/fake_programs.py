"""Stand-ins for the engine's programs: real processes over the real sockets, without a model.

`python fake_programs.py PROGRAM …` with the arguments of the program that it stands for. What a test wants to go wrong is
read from `faults.json` in the run directory, at each start: see `Faults`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import selectors
import signal
import socket
import sys
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer

import msgspec

from semipd_core import messages
from semipd_core.engine_config import EngineConfig, SpecError
from semipd_core.partition import Role
from semipd_core.telemetry import CoordinatorReport, FrontEndReport, LaneReport, SloTargets
from semipd_shell import agent_watch, channel

ORPHAN_GRACE_S = 8.0


class Faults(msgspec.Struct, kw_only=True):
    """What goes wrong, by program."""

    memory_error: SpecError | None = None  # exit 2 with it
    lane_exits_at_percent: int | None = None
    lane_hangs_at_percent: int | None = None
    lane_grants_less_at_percent: int | None = None
    caps_ignored: bool = False
    open_requests: int = 0  # of each front end, until it drains for `drain_s`
    drain_s: float = 0.0


def read_faults(run_directory: Path) -> Faults:
    path = run_directory / "faults.json"
    return msgspec.json.decode(path.read_bytes(), type=Faults) if path.exists() else Faults()


def read_config(path: str) -> EngineConfig:
    return msgspec.json.decode(Path(path).read_bytes(), type=EngineConfig)


class Stop(Exception):
    pass


def _raise_stop(*_args: object) -> None:
    raise Stop


def idle(lock: str) -> None:
    """Until SIGTERM, or until there has been no agent for a while."""
    watch = agent_watch.OrphanWatch(lock, ORPHAN_GRACE_S)
    while not watch.is_orphaned(time.monotonic()):
        time.sleep(0.2)


# --- memory server ------------------------------------------------------------------------------------------------


def memory(config: EngineConfig) -> int:
    faults = read_faults(Path(config.directory).parent)
    if faults.memory_error is not None:
        Path(config.error_file).write_bytes(msgspec.json.encode(faults.memory_error))
        return 2
    listener = channel.listen(config.memory_socket)
    with contextlib.suppress(Stop):
        idle(config.agent_lock)
    listener.close()
    Path(config.memory_socket).unlink(missing_ok=True)
    return 0


# --- coordinator --------------------------------------------------------------------------------------------------


class FakeCoordinator:
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
            case messages.Swap(lane_id=lane_id):
                self._swap(lane_id)
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
            )
        )
        self._fill(hello.role)

    def _fill(self, role: Role) -> None:
        waiting = next((hello for hello in self.standby.values() if hello.role is role), None)
        if role not in self.active and waiting is not None:
            self.active[role] = self.standby.pop(waiting.lane_id)
            self._to_agent(messages.Swapped(lane_id=waiting.lane_id, old_lane_id=None))

    def _swap(self, lane_id: str) -> None:
        hello = self.standby.pop(lane_id, None)
        if hello is None:
            return
        old = self.active[hello.role]
        self.active[hello.role] = hello
        self.told_to_stop.add(old.lane_id)
        for peer, other in self.hello.items():
            if other is old:
                peer.send(messages.Stop())
        self._to_agent(messages.Swapped(lane_id=lane_id, old_lane_id=old.lane_id))

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
        Path(self.config.directory, "trace.json").write_text(json.dumps(trace), encoding="utf-8")

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
                )
                for hello, is_active in lanes
            ],
        )


def coordinator(config: EngineConfig) -> int:
    fake = FakeCoordinator(config)
    with contextlib.suppress(Stop):
        fake.serve()
    Path(config.coordinator_socket).unlink(missing_ok=True)
    return 0


# --- front end ----------------------------------------------------------------------------------------------------


def frontend(config: EngineConfig) -> int:
    faults = read_faults(Path(config.directory).parent)
    drained_s: list[float] = []
    slos = [config.slo]

    def open_requests() -> int:
        is_done = bool(drained_s) and time.monotonic() - drained_s[0] >= faults.drain_s
        return 0 if is_done else faults.open_requests

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            report = FrontEndReport(
                at_s=time.time(),
                ready=not drained_s and Path(config.coordinator_socket).exists(),
                slo=slos[-1],
                open_requests=open_requests(),
                queued_requests=0,
                slots=[],
            )
            self._answer(msgspec.json.encode(report))

        def do_POST(self) -> None:
            drained_s.append(time.monotonic())
            self._answer(b"{}")

        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            slos.append(msgspec.json.decode(body, type=SloTargets))
            self._answer(b"{}")

        def _answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def address_string(self) -> str:
            return "agent"

        def log_message(self, *_args: object) -> None:
            return

    class Server(ThreadingMixIn, UnixStreamServer):
        daemon_threads = True

    Path(config.front_socket).unlink(missing_ok=True)
    server = Server(config.front_socket, Handler)
    server.timeout = 0.2
    watch = agent_watch.OrphanWatch(config.agent_lock, ORPHAN_GRACE_S)
    with contextlib.suppress(Stop):
        while not watch.is_orphaned(time.monotonic()):
            server.handle_request()
    Path(config.front_socket).unlink(missing_ok=True)
    return 0


# --- zygote and lanes -----------------------------------------------------------------------------------------------


def zygote(socket_path: str, lock: str) -> int:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps lanes
    listener = channel.listen(socket_path)
    listener.settimeout(0.2)
    watch = agent_watch.OrphanWatch(lock, ORPHAN_GRACE_S)
    with contextlib.suppress(Stop):
        while not watch.is_orphaned(time.monotonic()):
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            with connection, connection.makefile("rb") as lines:
                for line in lines:
                    connection.sendall(
                        json.dumps({"pid": _fork(json.loads(line), listener)}).encode() + b"\n"
                    )
    Path(socket_path).unlink(missing_ok=True)
    return 0


def _fork(order: dict[str, object], listener: socket.socket) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        listener.close()
        code = lane(order)
    except Stop:
        code = 0
    finally:
        os._exit(code)


def lane(order: dict[str, object]) -> int:
    config = read_config(str(order["config"]))
    faults = read_faults(Path(config.directory).parent)
    percent = int(str(order["percent"]))
    if percent == faults.lane_exits_at_percent:
        return 1
    while percent == faults.lane_hangs_at_percent:
        time.sleep(1)
    granted = percent - 1 if percent == faults.lane_grants_less_at_percent else percent
    peer = channel.connect(config.coordinator_socket)
    peer.send(
        messages.LaneHello(
            lane_id=str(order["laneId"]),
            role=Role(str(order["role"])),
            pid=os.getpid(),
            requested_percent=percent,
            granted_percent=granted,
        )
    )
    try:
        message = peer.receive()
    except EOFError:
        return 0
    assert isinstance(message, messages.Stop)
    return 0


def proxy(path: str) -> int:
    with contextlib.suppress(Stop):
        idle(json.loads(Path(path).read_bytes())["agentLock"])
    return 0


def main() -> int:
    signal.signal(signal.SIGTERM, _raise_stop)
    parser = argparse.ArgumentParser()
    parser.add_argument("program", choices=["memory", "coordinator", "frontend", "zygote", "proxy"])
    parser.add_argument("--config")
    parser.add_argument("--socket")
    parser.add_argument("--agent-lock")
    arguments = parser.parse_args()
    if arguments.program == "zygote":
        return zygote(arguments.socket, arguments.agent_lock)
    if arguments.program == "proxy":
        return proxy(arguments.config)
    program = {"memory": memory, "coordinator": coordinator, "frontend": frontend}[arguments.program]
    return program(read_config(arguments.config))


if __name__ == "__main__":
    sys.exit(main())
