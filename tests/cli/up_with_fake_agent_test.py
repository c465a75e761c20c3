"""`semipd up` as an init: real processes, a fake agent, every way to end; afterwards nothing is left behind."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from running_service import free_port

from semipd_cli.__main__ import main
from semipd_core.telemetry import FrontEndReport, SloTargets

pytestmark = pytest.mark.slow

SEMIPD = [sys.executable, str(Path(__file__).parent / "fakes" / "semipd_with_fake_agent.py")]
SERVICE = """
apiVersion: semipd.io/v1alpha1
kind: SemiPDService
metadata: {name: chat}
spec:
  model: {uri: "builtin://smollm2-135m"}
  replicas: 2
  resources: {device: CPU}
  drain: {timeoutSeconds: 5}
"""
DRAIN_S, STOP_S = 5, 20  # a pod's grace period


def wait_for(condition: Callable[[], Any], timeout_s: float = 30.0) -> Any:
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError("it did not happen in time")


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


def is_gone(process: psutil.Process) -> bool:
    """Ended; whoever its parent is may not have reaped it yet."""
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


class Service:
    """A service file, a run directory and the `semipd up` that serves it."""

    def __init__(self, root: Path) -> None:
        self.file = root / "service.yaml"
        self.file.write_text(SERVICE)
        self.directory = root / "run"
        self.output = root / "up.out"
        self.port = free_port()
        self.up: subprocess.Popen[bytes] | None = None

    def start(self, behaviour: str = "", *arguments: str) -> subprocess.Popen[bytes]:
        command = [
            *SEMIPD,
            "up",
            "-f",
            str(self.file),
            "--port",
            str(self.port),
            "--run-dir",
            str(self.directory),
        ]
        with self.output.open("wb") as out:
            self.up = subprocess.Popen(
                [*command, *arguments], stdout=out, stderr=out, env={**os.environ, "FAKE_AGENT": behaviour}
            )
        return self.up

    def start_and_wait(self, behaviour: str = "", *arguments: str) -> subprocess.Popen[bytes]:
        up = self.start(behaviour, *arguments)
        wait_for(lambda: "serving" in self.said or up.poll() is not None)
        assert up.poll() is None, self.said
        return up

    @property
    def said(self) -> str:
        return self.output.read_text()

    @property
    def asked(self) -> list[dict[str, Any]]:
        file = self.directory.parent / "asked.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def command(self, *arguments: str) -> Done:
        """In this process: an interpreter less to start."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main([*arguments, "--run-dir", str(self.directory)])
        return Done(returncode=code, stdout=out.getvalue(), stderr=err.getvalue())

    def status(self) -> dict[str, Any]:
        done = self.command("status", "-o", "json")
        assert done.returncode == 0, done.stderr
        status: dict[str, Any] = json.loads(done.stdout)
        return status

    def status_or_none(self) -> dict[str, Any] | None:
        done = self.command("status", "-o", "json")
        return json.loads(done.stdout) if done.returncode == 0 else None


@contextlib.contextmanager
def running_in(root: Path) -> Iterator[Service]:
    """A service that is stopped at the end, if it still runs; then nothing may be left of it."""
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    service = Service(root)
    yield service
    if service.up is not None:
        if service.up.poll() is None:
            service.up.terminate()
        service.up.wait(40)
    # Processes whose parents are gone are no children of this one: they are known by their command line.
    named = [p for p in psutil.process_iter(["cmdline"]) if str(root) in " ".join(p.info["cmdline"] or ())]
    left = [process for process in named if not is_gone(process)]
    for process in left:
        process.kill()
    assert left == []
    assert {child.pid for child in psutil.Process().children(recursive=True)} <= before


@pytest.fixture
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running_in(tmp_path_factory.mktemp("up")) as made:
        yield made


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One that runs for all tests which leave it running."""
    with running_in(tmp_path_factory.mktemp("steady")) as made:
        made.start_and_wait("", "--cluster-period", "0.5")
        yield made


def test_up_says_its_phases_and_ends_clean_on_sigterm(service: Service) -> None:
    up = service.start_and_wait()
    for phase in ("agent answers", "model loaded", "lanes attached", "ready"):
        assert phase in service.said
    assert f"serving smollm2-135m at http://127.0.0.1:{service.port}/v1" in service.said
    assert service.directory.stat().st_mode & 0o777 == 0o700
    record = json.loads((service.directory / "up.json").read_text())
    assert (record["pid"], record["service"]) == (up.pid, "chat")
    assert list(record["phaseSeconds"]) == ["agent answers", "model loaded", "lanes attached", "ready"]

    up.send_signal(signal.SIGTERM)

    assert up.wait(30) == 0
    assert {"drain": True} in service.asked
    assert not service.directory.exists()


def test_ctrl_c_while_it_starts_is_clean(service: Service) -> None:
    up = service.start("never-ready")
    wait_for(lambda: "agent answers" in service.said)
    up.send_signal(signal.SIGINT)
    assert up.wait(30) == 0
    assert not service.directory.exists()


def test_a_second_signal_hurries_an_agent_that_does_not_end(service: Service) -> None:
    up = service.start_and_wait("deaf")
    up.send_signal(signal.SIGINT)
    wait_for(lambda: {"signal": "SIGTERM"} in service.asked)
    up.send_signal(signal.SIGINT)
    assert up.wait(40) == 0  # the fake never ends by itself
    assert "stopping at once" in service.said


def test_a_killed_agent_is_started_again_and_its_orphans_are_ended(service: Service) -> None:
    up = service.start_and_wait()
    first = service.status()
    orphan = psutil.Process(first["shared"][0]["pid"])
    os.kill(first["agent"]["pid"], signal.SIGKILL)

    second = wait_for(
        lambda: (s := service.status_or_none()) and s["agent"]["pid"] != first["agent"]["pid"] and s
    )

    assert second["upPid"] == up.pid
    assert orphan.ppid() == up.pid  # kept for the next agent to adopt
    up.send_signal(signal.SIGTERM)
    assert up.wait(30) == 0
    assert is_gone(orphan)


def kill_agent(service: Service) -> None:
    os.kill(service.status()["agent"]["pid"], signal.SIGKILL)


@pytest.mark.parametrize(
    "is_seen", [pytest.param(False, id="it has just died"), pytest.param(True, id="the next one starts")]
)
def test_sigterm_while_no_agent_answers_drains_by_the_next_one(is_seen: bool, service: Service) -> None:
    up = service.start_and_wait("comes-back-late")
    kill_agent(service)
    if is_seen:
        wait_for(lambda: "it starts again" in service.said)
    up.send_signal(signal.SIGTERM)
    assert up.wait(30) == 0
    assert service.asked[-2:] == [{"drain": True}, {"signal": "SIGTERM"}]


def test_an_agent_that_dies_while_it_drains_is_replaced_by_one_that_drains(service: Service) -> None:
    up = service.start_and_wait("dies-in-drain")
    up.send_signal(signal.SIGTERM)
    assert up.wait(30) == 0
    assert service.asked[-4:] == [{"drain": True}, {"signal": "SIGTERM"}] * 2


def test_a_second_signal_waits_for_no_agent_that_could_drain(service: Service) -> None:
    up = service.start_and_wait("hangs-when-back")
    kill_agent(service)
    up.send_signal(signal.SIGTERM)
    wait_for(lambda: "open requests finish first" in service.said)
    asked_s = time.monotonic()
    up.send_signal(signal.SIGTERM)
    assert up.wait(30) == 0
    assert time.monotonic() - asked_s < DRAIN_S


def test_an_agent_is_asked_to_drain_until_the_time_for_it_is_over(service: Service) -> None:
    up = service.start_and_wait("refuses-to-drain")
    asked_s = time.monotonic()
    up.send_signal(signal.SIGTERM)
    assert up.wait(DRAIN_S + STOP_S) == 0
    assert time.monotonic() - asked_s >= DRAIN_S
    asked = service.asked[service.asked.index({"drain": True}) :]
    assert asked[1] == {"drain": True}
    assert asked[-1] == {"signal": "SIGTERM"}


def test_an_engine_that_fails_beside_others_that_serve_drains_them(service: Service) -> None:
    up = service.start_and_wait()
    error = {"path": "spec.model.uri", "given": "gone", "allowed": "a model"}
    (service.directory / "engine-1" / "error.json").write_text(json.dumps(error))
    assert up.wait(30) == 2
    said = service.said.splitlines()
    assert "stopping, open requests finish first: spec.model.uri: got gone, allowed: a model" in said
    assert said[-1] == "semipd: spec.model.uri: got gone, allowed: a model"
    assert {"drain": True} in service.asked


class OneOpenRequest(BaseHTTPRequestHandler):
    """A front end with a request open until `is_done` is set."""

    is_done: threading.Event

    def do_GET(self) -> None:
        slo = SloTargets(ttft_percentile=0, ttft_ms=0, tpot_percentile=0, tpot_ms=0)
        num_open = 0 if self.is_done.is_set() else 1
        report = FrontEndReport(
            at_s=time.time(), ready=True, slo=slo, open_requests=num_open, queued_requests=0, slots=[]
        )
        body = msgspec.json.encode(report)
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_: object) -> None:
        return


@contextlib.contextmanager
def open_request(socket_path: Path) -> Iterator[threading.Event]:
    done = threading.Event()
    handler = type("Handler", (OneOpenRequest,), {"is_done": done})
    with socketserver.ThreadingUnixStreamServer(str(socket_path), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield done
        server.shutdown()


def test_without_an_agent_that_could_drain_what_is_open_may_finish(service: Service) -> None:
    up = service.start_and_wait("breaks")
    left = psutil.Process(service.status()["shared"][0]["pid"])
    with open_request(service.directory / "engine-1" / "front.sock") as done:
        kill_agent(service)
        wait_for(lambda: "waiting until nothing is open" in service.said)
        time.sleep(2.0)  # longer than one that has nothing open is looked at
        assert up.poll() is None
        assert not is_gone(left)
        done.set()
        assert up.wait(30) == 1
    assert "the fake agent cannot come back" in service.said
    assert is_gone(left)


def test_an_engine_that_cannot_run_ends_everything_with_its_message(service: Service) -> None:
    for behaviour in ("refuses", "exits-2"):
        up = service.start(behaviour)
        assert up.wait(20) == 2
        last = service.said.splitlines()[-1]
        assert last == "semipd: spec.model.uri: got builtin://other, allowed: builtin://smollm2-135m"
        assert not service.directory.exists()


def test_an_agent_that_refuses_its_input_without_a_word_fails_with_its_log(service: Service) -> None:
    up = service.start("exits-2-silently")
    assert up.wait(30) == 1
    assert "the agent refuses its input\nno such device" in service.said


def test_an_agent_that_cannot_start_is_given_up_with_its_log(service: Service) -> None:
    up = service.start("crashes")
    assert up.wait(30) == 1
    assert "the agent ended 5 times before it answered, the last time with exit code 1" in service.said
    assert "the fake agent crashes" in service.said


def test_a_port_in_use_is_said_before_anything_starts(service: Service) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", service.port))
        other.listen()
        up = service.start()
        assert up.wait(30) == 2
    assert (
        service.said
        == f"semipd: --port: got {service.port}, allowed: a free port; this one is in use on 127.0.0.1\n"
    )
    assert not service.directory.exists()


def test_a_second_up_on_the_same_directory_is_refused(service: Service) -> None:
    up = service.start_and_wait()
    port, service.port = service.port, free_port()
    done = service.command("up", "-f", str(service.file), "--port", str(service.port))
    service.port = port
    assert done.returncode == 2
    assert f"in use by `semipd up` with pid {up.pid}" in done.stderr
    assert service.status()["ready"]


def test_down_stops_the_service(service: Service) -> None:
    up = service.start_and_wait()
    done = service.command("down")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "stopped")
    assert up.wait(30) == 0
    assert not service.directory.exists()
    assert service.command("down").returncode == 2


def test_logs_are_kept_where_that_is_asked_for(service: Service) -> None:
    up = service.start_and_wait("", "--keep-run-dir")
    assert service.command("down").returncode == 0
    assert up.wait(30) == 0
    assert (service.directory / "logs" / "agent.log").exists()


def test_down_stops_an_agent_whose_up_was_killed(service: Service) -> None:
    up = service.start_and_wait()
    agent = psutil.Process(service.status()["agent"]["pid"])
    up.kill()
    up.wait()
    assert service.status()["upPid"] is None
    refused = service.command("up", "-f", str(service.file), "--port", str(free_port()))
    assert refused.returncode == 2
    assert "semipd down --run-dir" in refused.stderr

    done = service.command("down")

    assert done.returncode == 0, done.stderr
    assert is_gone(agent)
    assert not service.directory.exists()


def test_up_starts_again_where_a_killed_one_has_left_files(service: Service) -> None:
    up = service.start_and_wait()
    agent = psutil.Process(service.status()["agent"]["pid"])
    up.kill()
    up.wait()
    agent.terminate()
    wait_for(lambda: is_gone(agent))
    assert (service.directory / "up.json").exists()
    up = service.start_and_wait()
    up.terminate()
    assert up.wait(30) == 0


def test_the_cluster_loop_tells_every_engine_where_it_starts(steady: Service) -> None:
    wait_for(lambda: {entry.get("engine") for entry in steady.asked} >= {"engine-0", "engine-1"})
    assert steady.asked[0]["wish"]["target"] == {"prefillPercent": 80, "decodePercent": 100}
    assert steady.asked[0]["wish"]["band"]["prefillMinPercent"] < 80
    assert "cluster: holds (80, 100)" in steady.said


def test_status_shows_processes_with_requested_and_granted_shares(steady: Service) -> None:
    table = steady.command("status").stdout
    assert f"chat: ready at http://127.0.0.1:{steady.port}/v1" in table
    rows = [line.split() for line in table.splitlines()]
    assert any(row[:2] == ["engine-0", "Steady"] for row in rows)
    assert any(row[0] == "prefill" and row[3] == "%" and row[2] == row[4] for row in rows if row)


def test_a_wish_that_the_agent_refuses_names_field_value_and_what_is_allowed(steady: Service) -> None:
    done = steady.command("set-partition", "--prefill", "13", "--decode", "100")
    assert (done.returncode, done.stderr) == (
        2,
        "semipd: target.prefillPercent: got 13, allowed: a multiple of 5\n",
    )


def test_a_wish_by_hand_is_granted_pinned_and_let_go(steady: Service) -> None:
    done = steady.command("set-partition", "--prefill", "60", "--decode", "100")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("(60, 100) granted after ")
    status = steady.status()
    assert status["wish"]["pinned"]
    assert status["engines"][1]["granted"] == {"prefillPercent": 60, "decodePercent": 100}
    wait_for(lambda: "(Pinned)" in steady.said)

    assert steady.command("set-partition", "--auto").returncode == 0
    manual = [entry["wish"] for entry in steady.asked if entry.get("engine") is None]
    assert [wish["pinned"] for wish in manual] == [True, False]
    assert manual[1]["target"] == {"prefillPercent": 60, "decodePercent": 100}


def test_a_wish_that_is_rolled_back_fails(service: Service) -> None:
    service.start_and_wait("rolls-back")
    done = service.command("set-partition", "--prefill", "60", "--decode", "100")
    assert done.returncode == 1
    assert "rolled back: no lane attached within 20 s" in done.stderr


def test_advisory_mode_puts_no_wish(service: Service) -> None:
    service.file.write_text(SERVICE + "  partition: {mode: Advisory}\n")
    service.start_and_wait("", "--cluster-period", "0.5")
    wait_for(lambda: "(Advisory)" in service.said)
    time.sleep(1.2)  # two rounds more
    assert not [entry for entry in service.asked if "wish" in entry]
