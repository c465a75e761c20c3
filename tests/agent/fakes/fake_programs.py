"""Stand-ins for the engine's programs: real processes over the real sockets, without a model.

`python fake_programs.py PROGRAM …` with the arguments of the program that it stands for. What a test wants to go wrong is
read from `faults.json` in the run directory, at each start: see `program_faults`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing.connection
import os
import signal
import socket
import sys
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer

import msgspec
from program_faults import LOST_ORDER_S, ORPHAN_GRACE_S, Faults, read_config, read_faults
from stepless_coordinator import SteplessCoordinator

from semipd_core import messages
from semipd_core.engine_config import EngineConfig
from semipd_core.partition import Role
from semipd_core.telemetry import FrontEndReport, SloTargets
from semipd_shell import agent_watch, channel

LANE_BYTES = 1 << 20


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
    if faults.memory_problem is not None:
        Path(config.memory_problem_file).write_text(faults.memory_problem)
        return 1
    Path(config.memory_problem_file).unlink(missing_ok=True)
    listener = channel.listen(config.memory_socket)
    with contextlib.suppress(Stop):
        idle(config.agent_lock)
    listener.close()
    Path(config.memory_socket).unlink(missing_ok=True)
    return 0


# --- coordinator --------------------------------------------------------------------------------------------------


def coordinator(config: EngineConfig) -> int:
    fake = SteplessCoordinator(config)
    with contextlib.suppress(Stop):
        fake.serve()
    Path(config.coordinator_socket).unlink(missing_ok=True)
    return 0


# --- front end ----------------------------------------------------------------------------------------------------


def frontend(config: EngineConfig) -> int:
    faults = read_faults(Path(config.directory).parent)
    drained_s: list[float] = []
    lost: list[str] = []
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
            if len(lost) < faults.drain_orders_lost:
                lost.append(self.path)
                time.sleep(LOST_ORDER_S)
                return
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
        os.environ.update(order["env"])  # type: ignore[call-overload]
        code = lane(order)
    except Stop:
        code = 0
    finally:
        os._exit(code)


def lane(order: dict[str, object]) -> int:
    config = read_config(str(order["config"]))
    faults = read_faults(Path(config.directory).parent)
    percent = int(str(order["percent"]))
    if faults.lane_problem is not None:
        Path(config.lane_problem_file).write_text(faults.lane_problem)
        return 76
    if percent == faults.lane_exits_at_percent:
        return 1
    while percent == faults.lane_hangs_at_percent:
        time.sleep(1)
    _become_mps_client(faults)
    granted = percent - 1 if percent == faults.lane_grants_less_at_percent else percent
    first = _say_hello(config, order, granted)
    second = order.get("second")
    if isinstance(second, dict):  # one process with both roles ends with either connection
        peers = [first, _say_hello(config, second, second["percent"])]
        first = next(peer for peer in multiprocessing.connection.wait(peers) if peer in peers)  # type: ignore[misc,arg-type]
    try:
        message = first.receive()
    except EOFError:
        return 0
    assert isinstance(message, messages.Stop)
    return 0


def _say_hello(config: EngineConfig, order: dict[str, object], granted_percent: int) -> channel.Channel:
    peer = channel.connect(config.coordinator_socket)
    peer.send(
        messages.LaneHello(
            lane_id=str(order["laneId"]),
            role=Role(str(order["role"])),
            pid=os.getpid(),
            requested_percent=int(str(order["percent"])),
            granted_percent=granted_percent,
            private_bytes=LANE_BYTES,
        )
    )
    return peer


def _become_mps_client(faults: Faults) -> None:
    """As CUDA does: a client of the daemon that its environment names, or of none."""
    if faults.lanes_ignore_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    pipes = os.environ.get("CUDA_MPS_PIPE_DIRECTORY")
    if pipes is not None and not faults.lanes_bypass_mps:
        clients = Path(pipes, "clients")
        clients.mkdir(exist_ok=True)
        (clients / str(os.getpid())).write_text(json.dumps(dict(os.environ)), encoding="utf-8")


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
