"""`kubectl semipd logs` and `doctor` as a process against a real API server, and clusters that are not as they should be."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from api_server import API_SERVER_IS_BUILT, ROOT
from fake_kubelet import FakeKubelet
from operator_process import NAMESPACE
from played_cluster import PlayedCluster
from plugin_process import NODE, Plugin

from semipd_cluster import build
from semipd_cluster.control_plane import ControlPlane
from semipd_cluster.kubeconfig import write_kubeconfig

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(180),
    pytest.mark.skipif(not API_SERVER_IS_BUILT, reason="the API server is not built: make cluster-build"),
]
IN = ("-n", NAMESPACE)
ADVICE = "the policy says (60, 100) (TPOTMissed): TPOT p90 71 of 60 ms"


def test_logs_are_one_stream_in_order_of_time(
    plugin: Plugin, cluster: PlayedCluster, kubelet: FakeKubelet
) -> None:
    cluster.add_service("told")
    for name in ("told-a", "told-b"):
        cluster.add_engine_pod("told", name, node=NODE)
    cluster.add_engine_pod("told", "told-c", node=NODE, status={"phase": "Pending"})
    start_ns = time.time_ns() - 10**9
    for number in range(6):
        text = json.dumps({"process": "agent", "level": "info", "event": f"line {number}"})
        kubelet.log(f"told-{'ab'[number % 2]}", text, start_ns + number * 10**6)
    done = plugin.run("logs", "told", *IN)
    events = [line.split(" INFO    ")[1] for line in done.stdout.splitlines()]
    assert events == [f"line {number}" for number in range(6)]
    assert done.stderr == "# told-c engine has no log yet: not started\n"
    last = plugin.text("logs", "told", *IN, "--tail", "1", "--pod", "told-b", "-o", "json")
    assert json.loads(last) | {"time": ""} == {
        "pod": "told-b",
        "container": "engine",
        "time": "",
        "process": "agent",
        "level": "info",
        "event": "line 5",
    }
    nothing = plugin.run("logs", "told", *IN, "--pod", "other")
    assert nothing.returncode == 1
    assert (
        "told has no pod whose name begins with 'other'; there are: told-a, told-b, told-c" in nothing.stderr
    )


def test_logs_follow_pods_that_come_and_go_and_end_quietly(
    plugin: Plugin, cluster: PlayedCluster, kubelet: FakeKubelet
) -> None:
    cluster.add_service("followed")
    cluster.add_engine_pod("followed", "followed-a", node=NODE)
    kubelet.log("followed-a", "one")
    process = plugin.start("logs", "followed", *IN, "-f")
    assert process.stdout.readline().endswith("followed-a one\n")
    kubelet.log("followed-a", "two")
    assert process.stdout.readline().endswith("followed-a two\n")
    cluster.add_engine_pod("followed", "followed-b", node=NODE)
    kubelet.log("followed-b", "three")
    assert process.stdout.readline().endswith("followed-b three\n")
    kubelet.end("followed-a")
    said = [process.stderr.readline() for _ in range(2)]
    assert said == ["# followed-b engine starts\n", "# followed-a engine has ended\n"]
    kubelet.log("followed-b", "four")
    assert process.stdout.readline().endswith("followed-b four\n")
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=20)
    assert (process.returncode, out, error) == (130, "", "")


def test_a_caller_without_rights_is_told_so_and_doctor_says_what_is_missing(
    cluster: PlayedCluster, control_plane: ControlPlane, tmp_path: Path
) -> None:
    user = control_plane.authority.issue("nobody", "/CN=nobody")
    write_kubeconfig(tmp_path / "kubeconfig", control_plane.server, control_plane.authority, user)
    nobody = Plugin(tmp_path / "kubeconfig")
    done = nobody.run("status", *IN)
    assert done.returncode == 1
    assert 'User "nobody" cannot list resource' in done.stderr
    assert done.stderr.count("\n") == 1
    report = nobody.run("doctor", *IN, "-o", "json")
    assert report.returncode == 1
    verdicts = {check["name"]: check["verdict"] for check in json.loads(report.stdout)["checks"]}
    assert verdicts["your rights"] == "Fail"
    assert verdicts["GPUs"] == verdicts["operator's rights"] == verdicts["services"] == "Unknown"


def test_doctor_fails_without_an_operator_and_passes_with_a_sound_installation(
    plugin: Plugin, cluster: PlayedCluster, control_plane: ControlPlane, kubelet: FakeKubelet
) -> None:
    before = plugin.run("doctor", "-n", "default", "-o", "json")
    assert before.returncode == 1
    verdicts = {check["name"]: check["verdict"] for check in json.loads(before.stdout)["checks"]}
    assert verdicts["API server"] == verdicts["CRD semipdservices.semipd.io"] == "Pass"
    assert verdicts["operator"] == verdicts["operator lease"] == verdicts["agents' policy"] == "Fail"
    kubectl = [str(control_plane.programs / "kubectl"), "--kubeconfig", str(plugin.kubeconfig)]
    subprocess.run(
        [*kubectl, "apply", "--server-side", "-k", str(ROOT / "manifests" / "default")], check=True
    )
    play_a_sound_installation(cluster, kubectl)
    after = plugin.run("doctor", "-n", "default")
    subprocess.run(
        [*kubectl, "delete", "semipdclass", "standard"], check=True
    )  # else other tests' services follow it
    assert (after.returncode, after.stderr) == (0, "")
    assert "FAIL" not in after.stdout
    assert "UNKNOWN" not in after.stdout
    assert "4 on gpu-1; free: 4" in after.stdout


def play_a_sound_installation(cluster: PlayedCluster, kubectl: list[str]) -> None:
    """What the operator, its Deployment's controller, the device plugin and a platform team would have written."""
    now = time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime())
    lease = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": "semipd-operator", "namespace": "semipd-system"},
        "spec": {"holderIdentity": "one", "leaseDurationSeconds": 60, "renewTime": now},
    }
    standard = {
        "apiVersion": "semipd.io/v1alpha1",
        "kind": "SemiPDClass",
        "metadata": {"name": "standard", "annotations": {"semipd.io/is-default-class": "true"}},
        "spec": {},
    }
    runtime = {
        "apiVersion": "node.k8s.io/v1",
        "kind": "RuntimeClass",
        "metadata": {"name": "nvidia"},
        "handler": "nvidia",
    }
    for manifest in (lease, standard, runtime):
        subprocess.run([*kubectl, "apply", "-f", "-"], input=json.dumps(manifest), text=True, check=True)
    gpus = {"nvidia.com/gpu": "4"}
    labels = {"metadata": {"labels": {"nvidia.com/gpu.sharing-strategy": "none"}}}
    for resource, patch in (
        ("deployment/semipd-operator", {"status": {"replicas": 2, "readyReplicas": 2}}),
        (f"node/{NODE}", {"status": {"capacity": gpus, "allocatable": gpus}}),
    ):
        to = ["-n", "semipd-system", "patch", resource, "--subresource=status", "--type=merge"]
        subprocess.run([*kubectl, *to, "-p", json.dumps(patch)], check=True)
    subprocess.run([*kubectl, "patch", f"node/{NODE}", "--type=merge", "-p", json.dumps(labels)], check=True)


def test_kubectl_finds_the_plugin_by_its_name(
    plugin: Plugin, cluster: PlayedCluster, control_plane: ControlPlane, tmp_path: Path
) -> None:
    cluster.add_service("found")
    script = tmp_path / "kubectl-semipd"
    script.write_text(f'#!/bin/sh\nexec {shutil.which(sys.executable)} -m semipd_kubectl "$@"\n')
    script.chmod(0o755)
    path = f"{tmp_path}:{control_plane.programs}:{os.environ['PATH']}"
    done = subprocess.run(
        ["kubectl", "semipd", "status", "found", *IN],
        env=plugin.environment | {"PATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("team-a/found")


def test_a_cluster_without_our_kinds_says_how_to_install_them(tmp_path: Path) -> None:
    with ControlPlane(tmp_path / "bare", programs=build.find_programs()) as bare:
        plugin = Plugin(bare.kubeconfig)
        done = plugin.run("status")
        assert done.returncode == 1
        assert "no CRDs of semipd.io: install them with `kubectl apply --server-side -k" in done.stderr
        report = plugin.run("doctor")
        assert report.returncode == 1
        assert "CRD semipdservices.semipd.io: it is not installed" in report.stdout
    gone = plugin.run("status")
    assert gone.returncode == 1
    assert (
        gone.stderr == f"kubectl semipd: cannot reach the API server at {bare.server}: connection refused\n"
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--kubeconfig", "/nowhere/kubeconfig"], "no way to a cluster"),
        (["--context", "nowhere"], "no way to a cluster"),
    ],
)
def test_a_kubeconfig_that_leads_nowhere_is_named(arguments: list[str], words: str, plugin: Plugin) -> None:
    done = plugin.run("status", *arguments)
    assert done.returncode == 1
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
