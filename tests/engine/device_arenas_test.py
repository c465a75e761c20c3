"""What a memory server on a GPU and the lanes that attach to it share, as real processes over the real socket."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import torch
from device_server import FIXTURES, NO_VMM, attach, device_config, serving
from fake_cuda import GPU, GRANULARITY, OTHER_GPU, FakeDriver
from local_engine import attach_locally

from semipd_core.engine_config import EngineConfig
from semipd_core.errors import DeviceError, InvalidSpec, NotReadyYet
from semipd_engine.memory import client
from semipd_engine.memory.manifest import CONTROL_BYTES, Transport

pytestmark = pytest.mark.slow

# A lane that writes to its KV cache, says so, and then to the weights.
LANE = f"""
import sys
sys.path.insert(0, {str(FIXTURES)!r})
import msgspec, device_server
from semipd_core.engine_config import EngineConfig
attachment = device_server.attach(msgspec.json.decode(open(sys.argv[1], "rb").read(), type=EngineConfig))
attachment.kv[0] = 1
print("wrote to KV", flush=True)
attachment.weights[0] = 1
print("wrote to weights", flush=True)
"""


@pytest.fixture
def config(tmp_path: Path, tiny_llama_dir: Path):
    with device_config(tmp_path, tiny_llama_dir) as config:
        yield config


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, tiny_llama_dir: Path):
    """The config of a server that runs, by VMM."""
    with device_config(tmp_path_factory.mktemp("served"), tiny_llama_dir) as config, serving(config):
        yield config


@pytest.mark.parametrize(
    ("lane", "transport"),
    [
        pytest.param({}, Transport.VMM, id="VMM works"),
        pytest.param({"fails": NO_VMM}, Transport.IPC, id="only IPC works"),
    ],
)
def test_two_processes_share_weights_and_kv_on_the_transport_that_the_probe_found(
    config: EngineConfig, lane: dict, transport: Transport, tmp_path: Path
) -> None:
    with serving(config, lane=lane):
        driver = FakeDriver()
        attachment, other = attach(config, driver), attach(config)
        manifest = attachment.manifest
        assert (manifest.transport, manifest.gpu) == (transport, GPU)
        assert manifest.model.dtype == "BF16"
        assert attachment.weights.shape == (manifest.weights_bytes,)
        assert attachment.kv.shape == (manifest.kv_bytes,)
        assert attachment.weights.dtype == attachment.kv.dtype == torch.uint8
        assert not attachment.kv.any()
        host = msgspec.structs.replace(config, device="CPU", dtype="BF16", directory=str(tmp_path / "host"))
        expected = torch.frombuffer(bytearray(attach_locally(host).weights[:]), dtype=torch.uint8)
        for entry in manifest.weights:
            part = slice(entry.offset, entry.offset + entry.num_bytes)
            assert torch.equal(attachment.weights[part], expected[part]), entry.name
        attachment.kv[100] = 77
        attachment.control[8] = 5
        assert (other.kv[100], other.control[8]) == (77, 5)
        assert len(attachment.control) == CONTROL_BYTES
        other.close()
        attachment.close()
        assert driver.held == {}


def test_weights_are_mapped_read_only_and_kv_is_not(served: EngineConfig) -> None:
    arguments = [sys.executable, "-c", LANE, str(Path(served.directory) / "engine.json")]
    done = subprocess.run(arguments, check=False, capture_output=True, text=True)
    assert done.stdout == "wrote to KV\n", done.stderr
    assert done.returncode == -signal.SIGSEGV


def test_memory_of_vmm_outlives_a_server_that_is_killed(config: EngineConfig) -> None:
    with serving(config) as process:
        attachment = attach(config)
        head = attachment.weights[:4096].clone()
        process.kill()
        process.wait()
        assert torch.equal(attachment.weights[:4096], head)
        attachment.kv[0] = 9
        assert attachment.kv[0] == 9
        with pytest.raises(NotReadyYet):
            attach(config)
        attachment.close()


def test_memory_of_ipc_cannot_be_opened_once_its_server_is_killed(config: EngineConfig) -> None:
    with serving(config, lane={"fails": NO_VMM}) as process:
        manifest, fds = client.ask(config.memory_socket)
        process.kill()
        process.wait()
        driver = FakeDriver()
        driver.init()
        driver.retain_context(0)
        with pytest.raises(DeviceError, match="cuIpcOpenMemHandle"):
            driver.open_ipc(manifest.weights_ipc)
        client.close_all(fds.values())


def test_the_coordinator_maps_the_control_page_alone(served: EngineConfig) -> None:
    manifest, control = client.attach_control(served.memory_socket)
    assert manifest.num_blocks > 1
    assert len(control) == CONTROL_BYTES
    with pytest.raises(DeviceError, match="transport: got vmm"):
        client.attach(served.memory_socket)


def test_a_gpu_is_found_by_its_uuid_whatever_its_ordinal(served: EngineConfig) -> None:
    attach(served, FakeDriver(gpus=(OTHER_GPU, GPU)), device_index=1).close()


def test_each_rank_maps_the_arenas_of_its_own_gpu_and_of_no_other(config: EngineConfig) -> None:
    gpus = {"gpus": [GPU, OTHER_GPU]}
    ranked = msgspec.structs.replace(config, num_ranks=2, other_gpus=(OTHER_GPU,))
    with serving(ranked, server=gpus, lane=gpus):
        attachments = [attach(ranked, FakeDriver(**gpus), rank, rank) for rank in range(2)]
        assert [each.manifest.gpu for each in attachments] == [GPU, OTHER_GPU]
        attachments[0].control[8] = 5
        attachments[0].kv[0] = 9
        assert (attachments[1].control[8], attachments[1].kv[0]) == (5, 0)
        for each in attachments:
            each.close()
        with pytest.raises(DeviceError, match=f"got {OTHER_GPU}, allowed: {GPU}"):
            attach(ranked, FakeDriver(**gpus), 0, 1)


def test_the_granularity_travels_with_the_manifest(served: EngineConfig) -> None:
    manifest, fds = client.ask(served.memory_socket)
    assert manifest.granularity_bytes == GRANULARITY
    assert os.fstat(fds["kv"]).st_size == GRANULARITY * -(-manifest.kv_bytes // GRANULARITY)
    client.close_all(fds.values())


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize(
    ("driver", "index", "variable", "error"),
    [
        pytest.param({"gpus": (OTHER_GPU, GPU)}, 0, None, DeviceError, id="the arenas are on another GPU"),
        pytest.param(
            {"fails": {"cuMemMap": "CUDA_ERROR_NOT_SUPPORTED@2"}}, 0, None, DeviceError, id="KV is not mapped"
        ),
        pytest.param({"fails": {"cuInit": "CUDA_ERROR_NO_DEVICE"}}, 0, None, DeviceError, id="no GPU"),
        pytest.param({}, 0, "PYTORCH_CUDA_ALLOC_CONF", InvalidSpec, id="expandable segments"),
    ],
)
def test_a_lane_that_cannot_attach_holds_nothing(
    served: EngineConfig,
    driver: dict,
    index: int,
    variable: str | None,
    error: type,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if variable is not None:
        monkeypatch.setenv(variable, "expandable_segments:True")
    fake = FakeDriver(**driver)
    before = open_descriptors()
    with pytest.raises(error):
        attach(served, fake, index)
    assert fake.held == {}
    assert open_descriptors() == before
