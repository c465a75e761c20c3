"""The zygote: imports torch once, starts no thread, and forks lanes in milliseconds.

`python -m semipd_engine.lane.zygote --socket PATH --agent-lock PATH`. One JSON line in, one out, over a unix socket:
`{"op":"fork","laneId","role","percent","config","env","log"}` -> `{"pid":N}` or `{"error":"…"}`. It reaps its lanes, and
stops by SIGTERM or when there has been no agent for 30 s; its lanes end with their coordinators.
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import signal
import socket
import sys
import time
import warnings
from pathlib import Path

# No thread team may exist when lanes are forked, and idle OpenMP threads must sleep: the other lane needs the cores.
THREAD_ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "0",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_DYNAMIC": "FALSE",
}
os.environ.update(THREAD_ENVIRONMENT)

import msgspec  # noqa: E402

from semipd_engine.lane.process import LaneOrder, run_lane  # noqa: E402
from semipd_shell import agent_watch, channel, failpoints, log  # noqa: E402

TICK_S = 1.0


class ForkOrder(LaneOrder, frozen=True, rename="camel", kw_only=True, tag_field="op", tag="fork"):
    pass


class Zygote:
    def __init__(self, socket_path: str, agent_lock: str) -> None:
        self._path = socket_path
        self._orphan_watch = agent_watch.OrphanWatch(agent_lock)
        self._selector = selectors.DefaultSelector()
        self._listener = channel.listen(socket_path)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._buffers: dict[socket.socket, bytes] = {}
        self._stopping = False
        self._log = log.logger(__name__)
        signal.signal(signal.SIGTERM, self._on_sigterm)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # wakes select; `_reap` does the work

    def _on_sigterm(self, _signal: int, _frame: object) -> None:
        self._stopping = True

    def serve(self) -> int:
        threads = len(os.listdir("/proc/self/task"))
        self._log.info("zygote ready", threads=threads)
        if threads != 1:
            self._log.warning("threads exist before any fork: lanes may hang", threads=threads)
        while not self._stopping and not self._orphan_watch.is_orphaned(time.monotonic()):
            for key, _ in self._selector.select(TICK_S):
                if key.fileobj is self._listener:
                    self._accept()
                else:
                    assert isinstance(key.fileobj, socket.socket)
                    self._read(key.fileobj)
            self._reap()
        Path(self._path).unlink(missing_ok=True)
        return 0

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        self._buffers[connection] = b""
        self._selector.register(connection, selectors.EVENT_READ)

    def _drop(self, connection: socket.socket) -> None:
        self._selector.unregister(connection)
        del self._buffers[connection]
        connection.close()

    def _read(self, connection: socket.socket) -> None:
        try:
            data = connection.recv(1 << 16)
        except ConnectionError:
            data = b""
        if not data:
            self._drop(connection)
            return
        *lines, rest = (self._buffers[connection] + data).split(b"\n")
        self._buffers[connection] = rest
        for line in lines:
            answer = self._answer(line)
            try:
                connection.sendall(json.dumps(answer).encode() + b"\n")
            except OSError:
                self._drop(connection)
                return

    def _answer(self, line: bytes) -> dict[str, object]:
        try:
            order = msgspec.json.decode(line, type=ForkOrder)
        except msgspec.MsgspecError as error:
            return {"error": str(error)}
        try:
            pid = os.fork()
        except OSError as error:
            return {"error": f"fork: {error}"}
        if pid == 0:
            self._become_lane(order)
        self._log.info("lane forked", lane_id=order.lane_id, lane_pid=pid)
        return {"pid": pid}

    def _become_lane(self, order: LaneOrder) -> None:
        """In the child: leave every socket of the zygote, take the order's environment and log, run, exit."""
        code = 70
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._selector.close()
            self._listener.close()
            for connection in self._buffers:
                connection.close()
            os.environ.update(order.env)
            failpoints.rearm()
            if order.log:
                _log_to(order.log)
            code = run_lane(order)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stderr.flush()
            os._exit(code)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._log.info("lane exited", lane_pid=pid, status=os.waitstatus_to_exitcode(status))


def _log_to(path: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(fd)


def main() -> int:
    parser = argparse.ArgumentParser(prog="semipd-zygote")
    parser.add_argument("--socket", required=True)
    parser.add_argument("--agent-lock", required=True)
    arguments = parser.parse_args()
    log.configure("zygote")
    warnings.filterwarnings("ignore", message=".*not writable.*")
    return Zygote(arguments.socket, arguments.agent_lock).serve()


if __name__ == "__main__":
    sys.exit(main())
