"""Device memory between owner and importer, call by call over the fake driver; whatever fails, nothing is kept."""

from __future__ import annotations

import ctypes
import os
from contextlib import ExitStack
from pathlib import Path

import pytest
from fake_cuda import GPU, GRANULARITY, OTHER_GPU, FakeDriver
from fp8_checkpoints import ROWS, write_both
from local_engine import build_engine_config
from tiny_llama import write_tiny_llama

from semipd_core.errors import InvalidSpec
from semipd_engine.cuda.driver import CudaError
from semipd_engine.cuda.imported import import_ipc, import_vmm
from semipd_engine.cuda.owned import IpcMemory, VmmMemory
from semipd_engine.memory import device_filling, device_loading
from semipd_engine.memory.device_loading import CudaMachine, prepare_device
from semipd_engine.memory.manifest import Transport
from semipd_shell import log

GIB = 1 << 30
RANKS = {"num_ranks": 2, "other_gpus": (OTHER_GPU,)}


def ready_driver(**settings: object) -> FakeDriver:
    driver = FakeDriver(**settings)
    driver.init()
    driver.retain_context(0)
    driver.calls.clear()
    return driver


def contents(address: int, num_bytes: int) -> bytes:
    return ctypes.string_at(address, num_bytes)


VMM_OWNER = [
    "cuMemGetAllocationGranularity",
    *("cuMemCreate", "cuMemAddressReserve", "cuMemMap", "cuMemSetAccess"),
    "cuMemExportToShareableHandle",
    *("cuMemUnmap", "cuMemAddressFree", "cuMemRelease"),
]
VMM_IMPORTER = [
    "cuMemImportFromShareableHandle",
    *("cuMemAddressReserve", "cuMemMap", "cuMemSetAccess", "cuMemRelease"),
    *("cuMemUnmap", "cuMemAddressFree"),
]


def test_vmm_memory_outlives_every_handle_of_its_owner() -> None:
    driver = ready_driver()
    memory = VmmMemory(driver, 0, 1000)
    driver.fill(memory.address, 7, memory.num_bytes)
    offer = memory.offer()
    memory.unmap()
    assert [call for call in driver.calls if call != "cuMemsetD8"] == VMM_OWNER
    assert driver.held == {"contexts": 1, "descriptors": 1}
    assert not os.get_inheritable(offer.fd)
    driver.calls.clear()
    with ExitStack() as undo:
        address = import_vmm(driver, undo, offer.fd, memory.num_bytes, 0, writable=False)
        memory.close()
        assert contents(address, 1000) == bytes([7]) * 1000
    assert driver.calls == VMM_IMPORTER
    assert driver.held == {"contexts": 1}


def test_a_size_is_rounded_up_to_the_granularity() -> None:
    driver = ready_driver()
    assert VmmMemory(driver, 0, GRANULARITY + 1).num_bytes == 2 * GRANULARITY
    assert VmmMemory(driver, 0, GRANULARITY).num_bytes == GRANULARITY


def test_ipc_memory_stays_its_owner_s() -> None:
    owner, lane = ready_driver(), ready_driver()
    memory = IpcMemory(owner, 1000)
    owner.fill(memory.address, 7, 1000)
    offer = memory.offer()
    memory.unmap()
    assert len(offer.ipc_handle) == 64
    with ExitStack() as undo:
        address = import_ipc(lane, undo, offer.ipc_handle)
        assert contents(address, 1000) == bytes([7]) * 1000
    memory.close()
    assert owner.calls == ["cuMemAlloc", "cuMemsetD8", "cuIpcGetMemHandle", "cuMemFree"]
    assert lane.calls == ["cuIpcOpenMemHandle", "cuIpcCloseMemHandle"]
    assert owner.held == lane.held == {"contexts": 1}
    with pytest.raises(CudaError, match="cuIpcOpenMemHandle"), ExitStack() as undo:
        import_ipc(lane, undo, offer.ipc_handle)


@pytest.mark.parametrize("call", VMM_OWNER[1:5])
def test_an_owner_that_fails_keeps_nothing(call: str) -> None:
    driver = ready_driver(fails={call: "CUDA_ERROR_OUT_OF_MEMORY"})
    with pytest.raises(CudaError, match=f"{call}: CUDA_ERROR_OUT_OF_MEMORY"):
        VmmMemory(driver, 0, 1000)
    assert driver.held == {"contexts": 1}


@pytest.mark.parametrize("call", VMM_IMPORTER[:4])
def test_an_importer_that_fails_keeps_nothing(call: str) -> None:
    owner = ready_driver()
    memory = VmmMemory(owner, 0, 1000)
    lane = ready_driver(fails={call: "CUDA_ERROR_NOT_SUPPORTED"})
    with pytest.raises(CudaError, match=call), ExitStack() as undo:
        import_vmm(lane, undo, memory.offer().fd, memory.num_bytes, 0, writable=True)
    memory.close()
    assert owner.held == lane.held == {"contexts": 1}


# --- loading ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def load(tmp_path: Path, tiny_llama_dir: Path, monkeypatch: pytest.MonkeyPatch):
    """Load the tiny model over a driver, with the transport decided: the arenas of the only rank, or of each."""

    def run(
        driver: FakeDriver,
        transport: Transport = Transport.VMM,
        model: Path = tiny_llama_dir,
        **overrides: object,
    ):
        monkeypatch.setattr(device_loading, "choose_transport", lambda *_, **__: transport)
        settings = {"device": "CUDA", "gpu": GPU, "kv_bytes": 4 << 20, **overrides}
        config = build_engine_config(tmp_path, f"file://{model}", **settings)
        slept: list[float] = []
        machine = CudaMachine(
            open_driver=lambda: driver,
            torch_cuda=lambda: (13, 0),
            environment={},
            clock=lambda: sum(slept),
            sleep=slept.append,
        )
        arenas = prepare_device(config, machine, log.logger("test"))
        return arenas if config.num_ranks > 1 else arenas[0]

    return run


def test_once_loaded_by_vmm_the_server_holds_two_descriptors_and_no_context(load) -> None:
    driver = FakeDriver()
    arenas = load(driver)
    assert driver.held == {"descriptors": 2}
    assert arenas.manifest.transport is Transport.VMM
    assert arenas.manifest.gpu == GPU
    assert len(arenas.fds) == 3
    assert driver.calls[-1] == "cuDevicePrimaryCtxRelease"
    arenas.close()
    assert driver.held == {}


def test_once_loaded_by_ipc_the_server_holds_memory_and_context(load) -> None:
    driver = FakeDriver()
    arenas = load(driver, Transport.IPC)
    assert driver.held == {"contexts": 1, "allocations": 2}
    assert len(arenas.fds) == 1
    arenas.close()
    assert driver.held == {}
    assert driver.calls[-3:] == ["cuMemFree", "cuMemFree", "cuDevicePrimaryCtxRelease"]


@pytest.mark.parametrize("transport", [Transport.VMM, Transport.IPC])
def test_the_weights_on_the_gpu_are_those_of_the_host(
    load, transport: Transport, tmp_path: Path, tiny_llama_dir: Path
) -> None:
    assert_weights_of_the_host(load, transport, tmp_path, tiny_llama_dir)


@pytest.mark.slow
def test_latents_and_experts_are_loaded_like_any_weights(load, tmp_path: Path) -> None:
    from tiny_family import V2, write_tiny_family

    model = write_tiny_family(tmp_path / "deepseek", "deepseek_v2", **V2)
    arenas = assert_weights_of_the_host(load, Transport.VMM, tmp_path, model)
    dtypes = {entry.name.rpartition(".")[2]: entry.dtype for entry in arenas.manifest.weights}
    assert (dtypes["router"], dtypes["experts_gate_up"], dtypes["kv_up"]) == ("FP32", "BF16", "BF16")
    assert len(arenas.manifest.kv_shape) == 4  # layer, block, token in block, entry


def assert_weights_of_the_host(
    load, transport: Transport, directory: Path, model: Path
) -> device_loading.DeviceArenas:
    from local_engine import attach_locally

    driver = FakeDriver()
    arenas = load(driver, transport, model, dtype="Auto")
    assert arenas.manifest.model.dtype == "BF16"
    expected = attach_locally(build_engine_config(directory, f"file://{model}", dtype="BF16"))
    with ExitStack() as undo:
        driver.retain_context(0)
        if transport is Transport.VMM:
            address = import_vmm(driver, undo, arenas.fds[0], GRANULARITY, 0, writable=False)
        else:
            address = import_ipc(driver, undo, arenas.manifest.weights_ipc)
        for entry in arenas.manifest.weights:
            found = contents(address + entry.offset, entry.num_bytes)
            assert found == expected.weights[entry.offset : entry.offset + entry.num_bytes], entry.name
    return arenas


@pytest.mark.parametrize("transport", [Transport.VMM, Transport.IPC])
def test_each_rank_s_shard_is_on_its_gpu_and_the_control_page_is_common(
    load, transport: Transport, tmp_path: Path, tiny_llama_dir: Path
) -> None:
    from local_engine import attach_locally

    driver = FakeDriver(gpus=(OTHER_GPU, GPU))
    ranks = load(driver, transport, dtype="BF16", **RANKS)
    assert [each.manifest.gpu for each in ranks] == [GPU, OTHER_GPU]
    assert len({os.fstat(each.fds[-1]).st_ino for each in ranks}) == 1
    host = build_engine_config(
        tmp_path, f"file://{tiny_llama_dir}", dtype="BF16", num_ranks=2, kv_bytes=4 << 20
    )
    for rank, (arenas, device_index) in enumerate(zip(ranks, (1, 0), strict=True)):
        expected = attach_locally(host, rank)
        found = arenas.manifest
        assert (found.model, found.weights, found.num_blocks) == (
            expected.manifest.model,
            expected.manifest.weights,
            expected.manifest.num_blocks,
        )
        with ExitStack() as undo:
            driver.retain_context(device_index)
            undo.callback(driver.release_context, device_index)
            if transport is Transport.VMM:
                address = import_vmm(driver, undo, arenas.fds[0], GRANULARITY, device_index, writable=False)
            else:
                address = import_ipc(driver, undo, found.weights_ipc)
                assert driver.used_bytes(device_index) == found.weights_bytes + found.kv_bytes
            for entry in found.weights:
                weights = contents(address + entry.offset, entry.num_bytes)
                assert weights == expected.weights[entry.offset : entry.offset + entry.num_bytes], entry.name
    held = {"descriptors": 4} if transport is Transport.VMM else {"contexts": 2, "allocations": 4}
    assert driver.held == held
    for arenas in ranks:
        arenas.close()
    assert driver.held == {}


@pytest.mark.parametrize("transport", [Transport.VMM, Transport.IPC])
@pytest.mark.parametrize("nth", [1, 2])
def test_a_load_of_which_one_rank_fails_keeps_nothing_of_any(load, transport: Transport, nth: int) -> None:
    driver = FakeDriver(gpus=(GPU, OTHER_GPU), fails={"cuMemsetD8": f"CUDA_ERROR_LAUNCH_FAILED@{nth}"})
    with pytest.raises(CudaError, match="CUDA_ERROR_LAUNCH_FAILED"):
        load(driver, transport, **RANKS)
    assert driver.held == {}


def test_gpus_that_do_not_reach_each_other_serve_and_it_is_said(
    load, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    for arenas in load(FakeDriver(gpus=(GPU, OTHER_GPU), has_peer_access=False), **RANKS):
        arenas.close()
    assert "no peer access" in "".join([caplog.text, *capsys.readouterr()])


def test_the_host_buffer_is_as_large_as_the_largest_tensor(load, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    class Watched(device_filling.HostBuffer):
        def __init__(self, num_bytes: int) -> None:
            sizes.append(num_bytes)
            super().__init__(num_bytes)

    monkeypatch.setattr(device_filling, "HostBuffer", Watched)
    arenas = load(FakeDriver())
    assert sizes == [max(entry.num_bytes for entry in arenas.manifest.weights)]
    assert sizes[0] < arenas.manifest.weights_bytes / 3


@pytest.mark.parametrize("transport", [Transport.VMM, Transport.IPC])
@pytest.mark.parametrize(
    "fails",
    [
        pytest.param({"cuMemGetInfo": "CUDA_ERROR_OUT_OF_MEMORY"}, id="the memory is not told"),
        pytest.param(
            {"cuMemCreate": "CUDA_ERROR_OUT_OF_MEMORY@2", "cuMemAlloc": "CUDA_ERROR_OUT_OF_MEMORY@2"},
            id="no KV",
        ),
        pytest.param({"cuMemcpyHtoD": "CUDA_ERROR_ILLEGAL_ADDRESS@3"}, id="in the midst of the weights"),
        pytest.param({"cuMemsetD8": "CUDA_ERROR_LAUNCH_FAILED"}, id="clearing the KV cache"),
        pytest.param(
            {
                "cuMemExportToShareableHandle": "CUDA_ERROR_NOT_SUPPORTED@2",
                "cuIpcGetMemHandle": "CUDA_ERROR_NOT_SUPPORTED@2",
            },
            id="the second offer",
        ),
    ],
)
def test_a_load_that_fails_keeps_nothing(load, transport: Transport, fails: dict) -> None:
    driver = FakeDriver(fails=fails)
    with pytest.raises(CudaError, match="as the test wants it"):
        load(driver, transport)
    assert driver.held == {}


@pytest.mark.parametrize("transport", [Transport.VMM, Transport.IPC])
def test_a_load_that_is_told_to_stop_keeps_nothing(
    load, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stopped(Exception):
        pass

    def stop(*_: object) -> None:
        raise Stopped

    monkeypatch.setattr(device_filling.weights, "load", stop)
    driver = FakeDriver()
    with pytest.raises(Stopped):
        load(driver, transport)
    assert driver.held == {}


@pytest.mark.parametrize(
    ("settings", "overrides", "path"),
    [
        pytest.param({"gpus": ()}, {}, "spec.resources.device", id="no GPU"),
        pytest.param({}, {"gpu": "GPU-gone"}, "spec.resources.device", id="the GPU is not there"),
        pytest.param({"version": 12080}, {}, "spec.resources.device", id="an old driver"),
        pytest.param({"compute_capability": (7, 5)}, {}, "spec.resources.device", id="an old GPU"),
        pytest.param({"total_bytes": 4 * GIB}, {}, "spec.model.uri", id="no room for weights"),
        pytest.param(
            {"gpus": (GPU, OTHER_GPU), "names": ("H100", "H200")},
            RANKS,
            "spec.resources.gpusPerEngine",
            id="ranks on GPUs of two models",
        ),
        pytest.param({}, RANKS, "spec.resources.device", id="fewer GPUs than ranks"),
        pytest.param(
            {"total_bytes": 5 * GIB}, {"kv_bytes": GIB}, "spec.resources.kvCache", id="no room for KV"
        ),
        pytest.param({}, {"dtype": "FP8"}, "spec.model.dtype", id="a type that there is not"),
    ],
)
def test_what_the_user_must_change_is_said_before_memory_is_taken(
    load, settings: dict, overrides: dict, path: str
) -> None:
    driver = FakeDriver(**settings)
    with pytest.raises(InvalidSpec) as caught:
        load(driver, **overrides)
    assert caught.value.path == path
    assert driver.held == {}
    assert not {"cuMemCreate", "cuMemAlloc"} & set(driver.calls)


def test_fp8_on_a_gpu_that_cannot_read_it_is_refused_before_memory_is_taken(load, tmp_path: Path) -> None:
    uri, _ = write_both(write_tiny_llama(tmp_path / "model"), ROWS)
    driver = FakeDriver(compute_capability=(8, 0))
    with pytest.raises(InvalidSpec, match=r"compute capability 8\.0.*8\.9") as caught:
        load(driver, model=Path(uri.removeprefix("file://")), dtype="FP8")
    assert caught.value.path == "spec.model.dtype"
    assert driver.held == {}
    assert not {"cuMemCreate", "cuMemAlloc"} & set(driver.calls)


def test_memory_of_processes_that_are_just_ending_is_waited_for(load) -> None:
    driver = FakeDriver(total_bytes=80 * GIB, free_bytes=[GIB, 2 * GIB, 79 * GIB])
    load(driver).close()
    assert driver.calls.count("cuMemGetInfo") == 3


def test_memory_that_never_gets_free_is_named(load) -> None:
    driver = FakeDriver(total_bytes=80 * GIB, free_bytes=[GIB])
    with pytest.raises(InvalidSpec, match=rf"{80 * GIB} bytes, {GIB} of them free"):
        load(driver)
    assert driver.calls.count("cuMemGetInfo") == 1 + device_loading.FREE_WITHIN_S / device_loading.POLL_S
