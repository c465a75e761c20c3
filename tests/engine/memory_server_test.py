"""The memory server as a process: what it hands out, how often memory exists, how it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from local_engine import build_engine_config

from semipd_core.engine_config import EngineConfig, SpecError
from semipd_core.errors import NotReadyYet
from semipd_engine.memory.client import attach
from semipd_engine.memory.manifest import CONTROL_BYTES
from semipd_shell.agent_watch import AgentLock

pytestmark = pytest.mark.slow

READY_WITHIN_S = 60.0
# A process that maps the arenas, touches every page, says so, and waits to be closed.
CLIENT = """
import sys
from semipd_engine.memory.client import attach
attachment = attach(sys.argv[1])
total = sum(attachment.weights[::4096]) + sum(attachment.kv[:65536:4096])
print("attached", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def config(tmp_path: Path, tiny_llama_dir: Path):
    config = build_engine_config(tmp_path, f"file://{tiny_llama_dir}", kv_bytes=4 << 20)
    lock = AgentLock(config.agent_lock)
    assert lock.acquire()
    yield config
    lock.release()


def start(config: EngineConfig) -> subprocess.Popen[str]:
    path = Path(config.directory) / "engine.json"
    path.write_bytes(msgspec.json.encode(config))
    arguments = [sys.executable, "-m", "semipd_engine.memory", "--config", str(path)]
    return subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)


@contextmanager
def serving(config: EngineConfig):
    process = start(config)
    try:
        wait_until_serving(config, process)
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_until_serving(config: EngineConfig, process: subprocess.Popen[str]) -> None:
    deadline_s = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < deadline_s:
        assert process.poll() is None, process.stderr.read()
        try:
            attach(config.memory_socket).close()
        except NotReadyYet:
            time.sleep(0.05)
        else:
            return
    raise AssertionError("the memory server did not get ready")


def mappings(pid: int, name: str) -> list[dict[str, int | str]]:
    """Of the memfd `name` in a process: inode, permissions, and the kB counts of smaps."""
    found: list[dict[str, int | str]] = []
    is_ours = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if re.match(r"^[0-9a-f]+-[0-9a-f]+ ", line):
            fields = line.split()
            is_ours = f"memfd:{name}" in line
            if is_ours:
                found.append({"permissions": fields[1], "inode": fields[4]})
        elif is_ours and line.endswith(" kB"):
            key, value = line.split(":")
            found[-1][key] = int(value.split()[0])
    return found


def test_weights_exist_once_however_many_processes_map_them(config: EngineConfig) -> None:
    with serving(config):
        arguments = [sys.executable, "-c", CLIENT, config.memory_socket]
        clients = [
            subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        try:
            assert [client.stdout.readline() for client in clients] == ["attached\n"] * 2
            weights = [mappings(client.pid, "semipd-weights") for client in clients]
        finally:
            for client in clients:
                client.communicate("")
        assert [len(found) for found in weights] == [1, 1]
        (first,), (second,) = weights
        assert first["inode"] == second["inode"]
        assert first["permissions"] == second["permissions"] == "r--s"
        assert first["Anonymous"] == second["Anonymous"] == 0
        assert first["Pss"] + second["Pss"] <= first["Size"]


def test_what_is_handed_out_matches_its_manifest(config: EngineConfig) -> None:
    with serving(config):
        attachment = attach(config.memory_socket)
        manifest = attachment.manifest
        assert len(attachment.weights) == manifest.weights_bytes
        assert len(attachment.kv) == manifest.kv_bytes <= 4 << 20
        assert len(attachment.control) == CONTROL_BYTES
        assert manifest.kv_shape == (2, 2, manifest.num_blocks, 16, 2, 16)
        with pytest.raises(TypeError):
            attachment.weights[0] = 1
        other = attach(config.memory_socket)
        attachment.kv[100] = 77
        attachment.control[8] = 5
        assert (other.kv[100], other.control[8]) == (77, 5)
        attachment.close()
        other.close()
        written = Path(config.model_directory)
        assert {"model.json", "tokenizer.json", "chat_template.jinja"} == {
            file.name for file in written.iterdir()
        }
        assert json.loads((written / "model.json").read_text())["maxContextTokens"] == 512


def test_mappings_outlive_the_server(config: EngineConfig) -> None:
    with serving(config) as process:
        attachment = attach(config.memory_socket)
        head = attachment.weights[:4096]
        process.kill()
        process.wait()
        assert attachment.weights[:4096] == head
        attachment.close()


def test_a_client_that_leaves_early_does_no_harm(config: EngineConfig) -> None:
    import socket

    with serving(config):
        for _ in range(3):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(config.memory_socket)
        attach(config.memory_socket).close()


def test_sigterm_ends_it_with_0_and_takes_the_socket_away(config: EngineConfig) -> None:
    with serving(config) as process:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=10)
        assert process.returncode == 0
        assert not os.path.exists(config.memory_socket)


@pytest.mark.parametrize(
    ("overrides", "path"),
    [
        pytest.param({"model_uri": "ftp://x"}, "spec.model.uri", id="unknown scheme"),
        pytest.param({"kv_bytes": 10_000}, "spec.resources.kvCache", id="KV too small for one request"),
        pytest.param(
            {"max_context_tokens": 4096}, "spec.model.maxContextTokens", id="context beyond the model"
        ),
        pytest.param({"dtype": "FP8"}, "spec.model.dtype", id="FP8 of weights that are not"),
        pytest.param(
            {"num_ranks": 3}, "spec.resources.gpusPerEngine", id="ranks that do not divide the model"
        ),
    ],
)
def test_what_the_user_must_change_ends_it_with_2_and_a_reason(
    config: EngineConfig, overrides: dict, path: str
) -> None:
    config = msgspec.structs.replace(config, **overrides)
    process = start(config)
    process.communicate(timeout=READY_WITHIN_S)
    assert process.returncode == 2
    error = msgspec.json.decode(Path(config.error_file).read_bytes(), type=SpecError)
    assert error.path == path
    assert error.given
    assert error.allowed


def test_it_never_imports_torch() -> None:
    code = "import sys, semipd_engine.memory.__main__; print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
