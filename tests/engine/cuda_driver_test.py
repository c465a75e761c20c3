"""The wrapper over cuda-bindings: what it hands to the driver, by the bindings' own types, and how a refusal is named."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from semipd_engine.cuda.driver import NO_LIBRARY, CudaError, check, invoke
from semipd_engine.cuda.libcuda import Libcuda

cu = pytest.importorskip("cuda.bindings.driver")
OK = cu.CUresult.CUDA_SUCCESS


class RecordedBindings:
    """The bindings' types, and calls that answer what the test says; each call is kept with its arguments."""

    def __init__(self, **answers: Any) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self._answers = {"cuDeviceGet": 0} | answers

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("cu"):
            return getattr(cu, name)

        def call(*arguments: Any) -> tuple[Any, ...]:
            self.calls.append((name, arguments))
            answer = self._answers.get(name, ())
            return (OK, *answer) if isinstance(answer, tuple) else (OK, answer)

        call.__name__ = name
        return call

    def arguments(self, name: str) -> tuple[Any, ...]:
        return next(arguments for called, arguments in self.calls if called == name)


@pytest.mark.parametrize(
    ("call", "name", "arguments", "answer", "expected"),
    [
        (lambda d: d.version(), "cuDriverGetVersion", (), 13000, 13000),
        (lambda d: d.count(), "cuDeviceGetCount", (), 2, 2),
        (lambda d: d.name(0), "cuDeviceGetName", (256, 0), b"H200\0\0", "H200"),
        (lambda d: d.can_access_peer(0, 0), "cuDeviceCanAccessPeer", (0, 0), 1, True),
        (lambda d: d.memory_info(), "cuMemGetInfo", (), (1, 2), (1, 2)),
        (lambda d: d.allocate(100), "cuMemAlloc", (100,), cu.CUdeviceptr(7), 7),
        (lambda d: d.free(7), "cuMemFree", (7,), (), None),
        (lambda d: d.reserve(1 << 21), "cuMemAddressReserve", (1 << 21, 0, 0, 0), cu.CUdeviceptr(7), 7),
        (lambda d: d.map(7, 100, 9), "cuMemMap", (7, 100, 0, 9, 0), (), None),
        (lambda d: d.unmap(7, 100), "cuMemUnmap", (7, 100), (), None),
        (lambda d: d.free_range(7, 100), "cuMemAddressFree", (7, 100), (), None),
        (lambda d: d.release(9), "cuMemRelease", (9,), (), None),
        (lambda d: d.copy_to_device(7, 8, 9), "cuMemcpyHtoD", (7, 8, 9), (), None),
        (lambda d: d.copy_to_host(8, 7, 9), "cuMemcpyDtoH", (8, 7, 9), (), None),
        (lambda d: d.fill(7, 0, 9), "cuMemsetD8", (7, 0, 9), (), None),
    ],
)
def test_plain_numbers_go_in_and_come_out(
    call: Callable[[Libcuda], Any], name: str, arguments: tuple, answer: Any, expected: Any
) -> None:
    bindings = RecordedBindings(**{name: answer})
    assert call(Libcuda(bindings)) == expected
    assert bindings.arguments(name) == arguments


def test_memory_is_made_on_the_device_and_to_be_exported_as_a_descriptor() -> None:
    bindings = RecordedBindings(
        cuMemCreate=cu.CUmemGenericAllocationHandle(5), cuMemExportToShareableHandle=11
    )
    driver = Libcuda(bindings)
    assert driver.create(1 << 21, 3) == 5
    num_bytes, properties, flags = bindings.arguments("cuMemCreate")
    assert (num_bytes, flags, properties.location.id) == (1 << 21, 0, 3)
    fd_type = cu.CUmemAllocationHandleType.CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR
    assert properties.requestedHandleTypes == fd_type
    assert driver.export_fd(5) == 11
    assert bindings.arguments("cuMemExportToShareableHandle") == (5, fd_type, 0)


@pytest.mark.parametrize(
    ("writable", "flags"),
    [
        (True, cu.CUmemAccess_flags.CU_MEM_ACCESS_FLAGS_PROT_READWRITE),
        (False, cu.CUmemAccess_flags.CU_MEM_ACCESS_FLAGS_PROT_READ),
    ],
)
def test_access_is_given_to_the_device_alone(writable: bool, flags: Any) -> None:
    bindings = RecordedBindings()
    Libcuda(bindings).set_access(7, 100, 3, writable=writable)
    address, num_bytes, (access,), count = bindings.arguments("cuMemSetAccess")
    assert (address, num_bytes, count) == (7, 100, 1)
    assert (access.location.id, access.flags) == (3, flags)


def test_an_ipc_handle_is_64_bytes_there_and_back() -> None:
    sent = bytes(range(64))
    opened: list[bytes] = []

    class Keeps(RecordedBindings):
        def __getattr__(self, name: str) -> Any:
            if name != "cuIpcOpenMemHandle":
                return super().__getattr__(name)

            def call(handle: Any, flags: int) -> tuple[Any, ...]:
                again = Libcuda(RecordedBindings(cuIpcGetMemHandle=handle))
                opened.append(again.ipc_handle(0))
                return OK, cu.CUdeviceptr(7)

            call.__name__ = name
            return call

    driver = Libcuda(Keeps())
    assert driver.open_ipc(sent) == 7
    assert opened == [sent]


def test_a_uuid_is_written_as_nvml_writes_it() -> None:
    assert (
        Libcuda(RecordedBindings(cuDeviceGetUuid=cu.CUuuid())).uuid(0)
        == f"GPU-{'0' * 8}-0000-0000-0000-{'0' * 12}"
    )


def test_a_refusal_names_the_call_and_the_code() -> None:
    with pytest.raises(CudaError) as caught:
        check((cu.CUresult.CUDA_ERROR_OUT_OF_MEMORY,), "cuMemCreate")
    assert (caught.value.call, caught.value.code) == ("cuMemCreate", "CUDA_ERROR_OUT_OF_MEMORY")
    assert str(caught.value).startswith("cuMemCreate: CUDA_ERROR_OUT_OF_MEMORY: ")


def test_no_library_is_an_error_like_any_other() -> None:
    def cuInit(flags: int) -> tuple[Any, ...]:  # noqa: N802
        raise RuntimeError("no libcuda.so.1")

    with pytest.raises(CudaError) as caught:
        invoke(cuInit, 0)
    assert (caught.value.call, caught.value.code) == ("cuInit", NO_LIBRARY)
    assert "no libcuda.so.1" in caught.value.meaning


def test_the_modules_of_the_driver_import_no_bindings() -> None:
    code = "import sys, semipd_engine.cuda.libcuda; print(sorted(name for name in sys.modules if name.startswith('cuda')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
