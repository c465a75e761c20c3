"""An agent without engines: real HTTP on a real unix socket, a real child process, phases that pass with time.

`FAKE_AGENT` says how it behaves: well (unset), `refuses` (an engine leaves error.json), `exits-2`,
`exits-2-silently`, `crashes`, `never-ready`,
`deaf` (ignores SIGTERM), `rolls-back`, `refuses-to-drain`, `dies-in-drain` (the first one),
`comes-back-late`, `hangs-when-back`, `breaks` (those after the first one).
What it is asked for is appended to `asked.jsonl` beside the run directory.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import signal
import socketserver
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

MODEL_S, LANES_S, READY_S, SWITCH_S = 0.2, 0.4, 0.6, 0.3


class FakeAgent:
    def __init__(self, directory: Path, behaviour: str, *, is_first: bool) -> None:
        self.directory = directory
        self.behaviour = behaviour
        self.is_first = is_first
        self.config = json.loads((directory / "service.json").read_text())
        partition = self.config["partition"]
        self.split = {
            "prefillPercent": partition["initialPrefillPercent"],
            "decodePercent": partition["initialDecodePercent"],
        }
        self.wish: dict[str, Any] | None = None
        self.switch: dict[str, Any] | None = None
        self.draining = False
        self.child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        self.started_s = time.monotonic()

    def note(self, entry: dict[str, Any]) -> None:
        with (self.directory.parent / "asked.jsonl").open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def take(self, wish: dict[str, Any], engine_id: str | None) -> None:
        self.note({"wish": wish, "engine": engine_id})
        self.wish = wish
        self.switch = {
            "decisionId": wish["decisionId"], "atS": time.time(), "fromPartition": self.split,
            "toPartition": wish["target"], "reason": wish["reason"], "message": wish["message"],
            "seconds": None, "outcome": "Switching",
        }  # fmt: skip
        threading.Timer(SWITCH_S, self.end_switch).start()

    def end_switch(self) -> None:
        assert self.switch is not None
        if self.behaviour == "rolls-back":
            self.switch |= {"outcome": "RolledBack", "message": "no lane attached within 20 s"}
        else:
            self.split = self.switch["toPartition"]
            self.switch |= {"outcome": "Done", "seconds": SWITCH_S}

    def status(self) -> dict[str, Any]:
        age_s = time.monotonic() - self.started_s
        ready = age_s > READY_S and self.behaviour not in {"never-ready", "refuses"}
        return {
            "service": self.config["service"], "url": f"http://{self.config['host']}:{self.config['port']}/v1",
            "ready": ready, "draining": self.draining, "agent": {"role": "agent", "pid": os.getpid()},
            "shared": [{"role": "zygote", "pid": self.child.pid}],
            "engines": [self.engine(index, age_s) for index in range(self.config["engines"])],
            "wish": self.wish, "decisions": [], "switches": [self.switch] if self.switch else [],
            "attainmentPermille": None,
        }  # fmt: skip

    def engine(self, index: int, age_s: float) -> dict[str, Any]:
        directory = self.directory / f"engine-{index}"
        directory.mkdir(exist_ok=True)
        if age_s > MODEL_S:
            (directory / "memory.sock").touch()
        lanes = age_s > LANES_S
        processes = [{"role": "memory", "pid": self.child.pid}]
        if lanes:
            processes += [
                {"role": role, "pid": self.child.pid, "requestedPercent": percent, "grantedPercent": percent}
                for role, percent in zip(("prefill", "decode"), self.split.values(), strict=True)
            ]
        return {
            "engineId": f"engine-{index}", "phase": "Steady" if lanes else "Starting", "isolation": "MPS",
            "requested": self.split, "granted": self.split if lanes else None, "processes": processes,
            "kvBlocksTotal": 64, "kvBlocksUsed": 3, "ready": lanes, "switch": self.switch, "error": None,
        }  # fmt: skip

    def windows(self) -> list[dict[str, Any]]:
        split = list(self.split.values())
        return [
            {
                "engineId": f"engine-{index}", "atS": time.time(), "phase": "Steady",
                "requested": split, "granted": split, "frontEnd": self.front_end(), "coordinator": None,
            }
            for index in range(self.config["engines"])
        ]  # fmt: skip

    def front_end(self) -> dict[str, Any]:
        """Of a service that nobody uses."""
        return {
            "atS": time.time(), "ready": True, "slo": self.config["slo"], "openRequests": 0, "queuedRequests": 0, "slots": [],
        }  # fmt: skip

    def end(self, *_: object) -> None:
        self.note({"signal": "SIGTERM"})
        if self.behaviour == "deaf":
            return
        if self.behaviour == "dies-in-drain" and self.is_first:
            os._exit(1)
        self.child.terminate()
        self.child.wait()
        os._exit(0)


class Handler(BaseHTTPRequestHandler):
    agent: FakeAgent

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        self.answer(200, self.agent.windows() if path == "/v1/windows" else self.agent.status())

    def do_PUT(self) -> None:
        wish = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if wish["target"]["prefillPercent"] == 13:
            self.answer(400, {"path": "target.prefillPercent", "given": 13, "allowed": "a multiple of 5"})
            return
        self.agent.take(wish, parse_qs(urlsplit(self.path).query).get("engine", [None])[0])
        self.answer(200, {})

    def do_POST(self) -> None:
        self.agent.note({"drain": True})
        if self.agent.behaviour == "refuses-to-drain":
            self.answer(500, {})
            return
        self.agent.draining = True
        self.answer(200, {})

    def answer(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_: object) -> None:
        pass


class UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


def come_back(behaviour: str) -> None:
    """What happens before an agent that takes another one's place hears anything."""
    if behaviour == "breaks":
        sys.exit("the fake agent cannot come back")
    time.sleep({"comes-back-late": 2.0, "hangs-when-back": 600.0}.get(behaviour, 0.0))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("-m")  # so that the command line reads like that of an agent
    parser.add_argument("--run-dir", type=Path)
    args = parser.parse_args()
    behaviour = os.environ.get("FAKE_AGENT", "")
    if behaviour == "crashes":
        sys.exit("the fake agent crashes")
    if behaviour == "exits-2-silently":
        print("no such device", file=sys.stderr)
        sys.exit(2)
    is_first = not (args.run_dir / "agent.lock").exists()
    if not is_first:
        come_back(behaviour)
    lock = os.open(args.run_dir / "agent.lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    agent = FakeAgent(args.run_dir, behaviour, is_first=is_first)
    signal.signal(signal.SIGTERM, agent.end)
    if behaviour in {"refuses", "exits-2"}:
        (args.run_dir / "engine-0").mkdir(exist_ok=True)
        error = {"path": "spec.model.uri", "given": "builtin://other", "allowed": "builtin://smollm2-135m"}
        (args.run_dir / "engine-0" / "error.json").write_text(json.dumps(error))
    if behaviour == "exits-2":
        agent.child.kill()
        agent.child.wait()
        sys.exit(2)
    Handler.agent = agent
    socket_path = args.run_dir / "agent.sock"
    socket_path.unlink(missing_ok=True)
    UnixServer(str(socket_path), Handler).serve_forever()


if __name__ == "__main__":
    main()
