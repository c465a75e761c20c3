"""The plugin's entry point as a process against a real API server, with agents and kubelet played."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time

import pytest
from api_server import API_SERVER_IS_BUILT
from operator_process import NAMESPACE
from played_cluster import FakeAgent, PlayedCluster, condition, engine_report, share
from plugin_process import Plugin

from semipd_cluster.control_plane import ControlPlane
from semipd_core.telemetry import EngineReport

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(180),
    pytest.mark.skipif(not API_SERVER_IS_BUILT, reason="the API server is not built: make cluster-build"),
]
IN = ("-n", NAMESPACE)
ADVICE = "the policy says (60, 100) (TPOTMissed): TPOT p90 71 of 60 ms"


def decided(
    split: tuple[int, int],
    reason: str,
    message: str,
    time_: str = "2026-11-21T12:00:00Z",
    decision_id: str = "cluster-initial",
) -> dict:
    return {
        "time": time_,
        "decisionID": decision_id,
        "partition": share(split),
        "reason": reason,
        "message": message,
    }


def now_reports(**changes: object) -> list[EngineReport]:
    return [engine_report(now_s=time.time(), **changes)]


def test_status_shows_requested_beside_granted_and_what_blocks(
    plugin: Plugin, cluster: PlayedCluster
) -> None:
    status = {
        "replicas": 2,
        "readyReplicas": 1,
        "requested": share((65, 100)),
        "granted": share((80, 100)),
        "slo": {"attainmentPermille": 912},
        "conditions": [
            condition("Ready", "False", "NotGranted", "PartitionApplied: 1 of 2"),
            condition("PartitionApplied", "False", "NotGranted", "1 of 2 pods are not granted"),
        ],
        "decisions": [decided((65, 100), "TPOTMissed", "TPOT p90 71 of 60 ms")],
    }
    cluster.add_service("seen", status, replicas=2)
    cluster.add_engine_pod("seen", "seen-1")
    cluster.add_partition("seen", "seen-1", (65, 100), granted=(80, 100))
    shown = plugin.text("status", "seen", *IN)
    assert "requested 65/100, granted 80/100" in shown
    assert "PartitionApplied=False (NotGranted) 1 of 2 pods are not granted" in shown
    assert "65/100 TPOTMissed: TPOT p90 71 of 60 ms" in shown
    assert "\x1b" not in shown
    (found,) = plugin.json("status", "seen", *IN)["services"]
    assert found["requested"] == share((65, 100))
    assert found["slo"]["ttft"] == {"percentile": 90, "targetMilliseconds": 400, "attainedMilliseconds": None}
    assert [each["type"] for each in found["blocking"]] == ["PartitionApplied"]
    assert found["pods"][0]["engines"][0]["granted"] == share((80, 100))
    everywhere = plugin.json("status", "-A")["services"]
    assert f"{NAMESPACE}/seen" in {f"{each['namespace']}/{each['name']}" for each in everywhere}


@pytest.mark.parametrize("command", ["status", "top", "explain", "advise", "logs"])
def test_a_service_that_is_not_there_is_answered_with_those_that_are(
    command: str, plugin: Plugin, cluster: PlayedCluster
) -> None:
    cluster.add_service("present")
    done = plugin.run(command, "absent", *IN)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("kubectl semipd: no service 'absent' in namespace team-a; there are: ")
    assert "present" in done.stderr
    assert done.stderr.count("\n") == 1
    elsewhere = plugin.run(command, "absent", "-n", "default")
    assert "elsewhere there are: " in elsewhere.stderr
    assert f"{NAMESPACE}/present" in elsewhere.stderr


def test_top_takes_its_figures_from_the_agents_through_the_pod_proxy(
    plugin: Plugin, cluster: PlayedCluster, agents: list[FakeAgent], address: str
) -> None:
    cluster.add_service("live")
    for number, agent in enumerate(agents):
        cluster.add_engine_pod("live", f"live-{number}", address=address, port=agent.port)
    cluster.add_engine_pod("live", "live-3", status={"phase": "Pending"})
    agents[0].reports = now_reports(attained=9, missed=1, open_requests=4, queued=1)
    agents[1].delay_s = 30.0
    agents[2].body = b"<html>"
    (found,) = plugin.json("top", "live", *IN)["services"]
    first, slow, nonsense, pending = found["pods"]
    assert agents[0].paths == ["/v1/windows"]
    assert (first["figures"]["attainmentPermille"], first["figures"]["running"]) == (900, 3)
    assert first["granted"] == share((80, 100))
    assert slow["problem"] == "no answer in time"
    assert "cannot be read" in nonsense["problem"]
    assert pending["problem"] == "it has no address yet"
    assert {pod["figures"]["queued"] for pod in (slow, nonsense, pending)} == {None}
    assert (found["podsAnswering"], found["figures"]["attainmentPermille"]) == (1, 900)
    agents[0].reports = now_reports()
    lines = plugin.text("top", "live", *IN).splitlines()
    assert any(line.startswith("  live-1") and "no data" in line for line in lines)
    assert "live-1: no data: no answer in time" in lines


def test_top_goes_on_on_a_terminal_until_ctrl_c(
    plugin: Plugin, cluster: PlayedCluster, agents: list[FakeAgent], address: str
) -> None:
    cluster.add_service("watched")
    cluster.add_engine_pod("watched", "watched-1", address=address, port=agents[0].port)
    agents[0].reports = now_reports(attained=9, missed=1)
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "semipd_kubectl", "top", "watched", *IN, "--interval", "100ms"]
    environment = plugin.environment | {"TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        seen = read_until(ours, lambda text: "90.0 %" in text)
        assert "\x1b[" in seen  # colours, and it draws over itself
        agents[0].reports = now_reports(attained=5, missed=5)
        read_until(ours, lambda text: "50.0 %" in text)
        process.send_signal(signal.SIGINT)
        rest = read_until(ours, lambda _: False)
        assert process.wait(20) == 130
    os.close(ours)
    assert "Traceback" not in rest


@pytest.mark.parametrize(("no_color", "has_codes"), [("", True), ("1", False)])
def test_a_terminal_gets_colours_unless_it_asks_for_none(
    no_color: str, has_codes: bool, plugin: Plugin, cluster: PlayedCluster
) -> None:
    cluster.add_service("drawn")
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "semipd_kubectl", "status", "drawn", *IN]
    environment = plugin.environment | {"TERM": "xterm", "NO_COLOR": no_color}
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        seen = read_until(ours, lambda _: False)
        assert process.wait(20) == 0
    os.close(ours)
    assert "team-a/drawn" in seen
    assert ("\x1b" in seen) is has_codes


def read_until(descriptor: int, is_done: object, timeout_s: float = 30.0) -> str:
    """What a terminal was sent until `is_done` of it, or until its writer has ended."""
    text, deadline_s = "", time.monotonic() + timeout_s
    while time.monotonic() < deadline_s and not is_done(text):
        if select.select([descriptor], [], [], 0.2)[0]:
            try:
                text += os.read(descriptor, 65536).decode(errors="replace")
            except OSError:
                return text
    return text


def test_explain_says_why_with_numbers(
    plugin: Plugin, cluster: PlayedCluster, agents: list[FakeAgent], address: str
) -> None:
    moved_s = int(time.time()) - 5
    moved = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moved_s))
    status = {
        "requested": share((20, 100)),
        "decisions": [
            decided((20, 100), "TPOTMissed", "TPOT p90 71 of 60 ms", moved, f"cluster-{moved_s}000"),
            decided((40, 100), "SLOMet", "all is well", "2026-11-21T11:00:00Z"),
        ],
        "conditions": [condition("SLOMet", "False", "Missed")],
    }
    cluster.add_service("why", status, partition={"cooldownSeconds": 3600})
    cluster.add_engine_pod("why", "why-1", address=address, port=agents[0].port)
    cluster.add_partition("why", "why-1", (20, 100), band=(20, 35, 85, 100))
    agents[0].reports = now_reports(attained=6, missed=4, split=(20, 100))
    shown = plugin.text("explain", "why", *IN)
    for words in (
        "Asked for: 20/100",
        "Band: prefill 20..35 %, decode 85..100 %.",
        "It is missed: 90 % of the requests are to keep TTFT within 400 ms and TPOT within 60 ms",
        "Now: 60.0 % of 10 requests attained",
        "of the 3600 s between two moves",
        "Prefill is at its lower bound, 20 %.",
        "moves to 20/100 TPOTMissed (tokens come too slowly: decode needs more): TPOT p90 71 of 60 ms",
        "why-1: asked for 20/100; engine-0 granted 20/100",
    ):
        assert words in shown
    found = plugin.json("explain", "why", *IN)
    assert [hold["kind"] for hold in found["holds"]] == ["Cooldown", "Bounds"]
    assert 3500 < found["cooldownLeftSeconds"] <= 3600
    assert [each["moved"] for each in found["decisions"]] == [True, None]
    assert plugin.json("explain", "why", *IN, "--no-live")["live"] is None


def test_the_line_that_advise_gives_follows_the_advice(
    plugin: Plugin, cluster: PlayedCluster, control_plane: ControlPlane
) -> None:
    status = {"requested": share((80, 100)), "decisions": [decided((80, 100), "Advisory", ADVICE)]}
    cluster.add_service("advised", status, partition={"mode": "Advisory"})
    found = plugin.json("advise", "advised", *IN)
    assert found["advised"] == share((60, 100))
    line = found["follow"][0]["command"]
    assert line in plugin.text("advise", "advised", *IN).splitlines()
    path = f"{control_plane.programs}:{os.environ['PATH']}"
    subprocess.run(line, shell=True, check=True, env=plugin.environment | {"PATH": path})
    annotations = cluster.get("SemiPDService", "advised")["metadata"]["annotations"]
    assert annotations["semipd.io/pinned-split"] == "60/100"


def pin_of(cluster: PlayedCluster, name: str) -> str | None:
    return (cluster.get("SemiPDService", name)["metadata"].get("annotations") or {}).get(
        "semipd.io/pinned-split"
    )


def test_a_pin_is_set_and_removed_and_leaves_other_annotations_alone(
    plugin: Plugin, cluster: PlayedCluster
) -> None:
    cluster.add_service("held", annotations={"team": "a"})
    assert plugin.text("pin", "held", "70/60", *IN) == "team-a/held: pinned to 70/60\n"
    assert pin_of(cluster, "held") == "70/60"
    assert plugin.json("pin", "held", "70/50", *IN)["previous"] == "70/60"
    refused = plugin.run("pin", "held", "70/30", *IN)
    assert refused.returncode == 2
    assert (
        "decode percent of 70/30: got 30, allowed: 40..100 (spec.partition.bounds of team-a/held)"
        in refused.stderr
    )
    assert pin_of(cluster, "held") == "70/50"
    assert "no longer pinned to 70/50" in plugin.text("unpin", "held", *IN)
    assert cluster.get("SemiPDService", "held")["metadata"]["annotations"] == {"team": "a"}
    assert "was not pinned" in plugin.text("unpin", "held", *IN)


def test_pin_waits_until_every_pod_has_been_granted_it(plugin: Plugin, cluster: PlayedCluster) -> None:
    cluster.add_service("waited")
    for name in ("waited-1", "waited-2"):
        cluster.add_engine_pod("waited", name)
        cluster.add_partition("waited", name, (80, 100))
    process = plugin.start("pin", "waited", "70/60", *IN, "--wait")
    assert "0 of 2 pods have been granted 70/60; waited-1 has 80/100" in process.stderr.readline()
    cluster.add_partition("waited", "waited-1", (70, 60))
    assert "1 of 2 pods have been granted 70/60" in process.stderr.readline()
    assert process.poll() is None
    cluster.add_partition("waited", "waited-2", (70, 60))
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert out.splitlines()[-1] == "2 of 2 pods have been granted 70/60"
    late = plugin.run("pin", "waited", "75/60", *IN, "--wait", "--timeout", "0")
    assert late.returncode == 1
    assert "waited-1 has 70/60, waited-2 has 70/60; the pin stays" in late.stderr


def test_pin_ends_its_wait_when_the_operator_refuses(plugin: Plugin, cluster: PlayedCluster) -> None:
    refused = {"conditions": [condition("Degraded", "True", "PinInvalid", "70/60 is outside 20..50")]}
    cluster.add_service("refused", refused)
    cluster.add_engine_pod("refused", "refused-1")
    done = plugin.run("pin", "refused", "70/60", *IN, "--wait")
    assert done.returncode == 1
    assert "the operator refuses the pin: 70/60 is outside 20..50" in done.stderr


def test_a_split_on_trial_is_shown_and_its_canaries_are_marked(
    plugin: Plugin, cluster: PlayedCluster, agents: list[FakeAgent], address: str
) -> None:
    began_s = int(time.time()) - 30
    decision_id = f"cluster-{began_s}000"
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began_s))
    status = {
        "requested": share((80, 100)),
        "canary": {
            "partition": share((65, 100)),
            "decisionID": decision_id,
            "stage": "OnePod",
            "since": since,
            "pods": ["tried-0"],
            "judgedBefore": 40,
            "attainedBefore": 30,
        },
        "proven": {
            "prefillMinPercent": 75,
            "prefillMaxPercent": 90,
            "decodeMinPercent": 85,
            "decodeMaxPercent": 100,
        },
    }
    cluster.add_service("tried", status)
    for number, agent in enumerate(agents):
        split = (65, 100) if number == 0 else (80, 100)
        cluster.add_engine_pod("tried", f"tried-{number}", address=address, port=agent.port)
        cluster.add_partition("tried", f"tried-{number}", split)
        agent.reports = now_reports(attained=5 if number == 0 else 10, missed=5 if number == 0 else 0)
    shown = plugin.text("explain", "tried", *IN)
    for words in (
        "65/100 is on trial in 1 of 3 pods (tried-0), stage OnePod",
        "canaries 50.0 % of 10 requests attained, the others 100.0 % of 20 requests attained.",
        "Before the trial: 75.0 % of 40 requests attained.",
        "Proven: prefill 75..90 %, decode 85..100 %.",
        "tried-0: asked for 65/100 as a canary",
    ):
        assert words in shown
    assert "65/100 on trial in 1 of 3 pods (OnePod)" in plugin.text("status", "tried", *IN)
    lines = plugin.text("top", "tried", *IN).splitlines()
    assert [line[:9] for line in lines if "tried-" in line[:9]] == ["* tried-0", "  tried-1", "  tried-2"]
