"""Decided before a GPU's memory is taken: which transport, whether the GPU will do, what an error means, who gets how much."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from fake_cuda import GPU, OTHER_GPU
from hypothesis import given
from hypothesis import strategies as st

from semipd_core.errors import DeviceError, InvalidSpec, NotReadyYet
from semipd_engine.cuda.devices import GpuMissing, find_device, find_device_again
from semipd_engine.cuda.driver import CudaError
from semipd_engine.cuda.facts import Facts, Gpu, parse_torch_cuda
from semipd_engine.cuda.faults import classify
from semipd_engine.cuda.preflight import refuse, refuse_dtype, refuse_ranks
from semipd_engine.cuda.transports import MPS_WITHIN_S, Attempt, Step, decide
from semipd_engine.memory.gpu_budget import (
    LANES_BYTES_MIN,
    GpuMemory,
    awaited_free_bytes,
    check_weights,
    num_device_blocks,
)
from semipd_engine.memory.manifest import Transport
from semipd_engine.model.config import ModelConfig
from semipd_engine.model.dtypes import resolve_cuda_dtype

VMM, IPC = Transport.VMM, Transport.IPC
GIB = 1 << 30


def failed(transport: Transport, error: str = "it failed", is_mps_client: bool | None = None) -> Attempt:
    return Attempt(transport=transport, error=error, is_mps_client=is_mps_client)


NOT_READY = failed(VMM, "cuInit: CUDA_ERROR_MPS_SERVER_NOT_READY: server not ready")


@pytest.mark.parametrize(
    ("attempts", "wants_mps", "waited_s", "step", "transport", "words"),
    [
        pytest.param([], False, 0, Step.TRY, VMM, "preferred", id="VMM is tried first"),
        pytest.param([Attempt(transport=VMM)], False, 0, Step.USE, VMM, "vmm works", id="VMM works"),
        pytest.param([failed(VMM)], False, 0, Step.TRY, IPC, "vmm: it failed", id="VMM fails: IPC is tried"),
        pytest.param(
            [failed(VMM), Attempt(transport=IPC)],
            False,
            0,
            Step.USE,
            IPC,
            "vmm: it failed; ipc works",
            id="IPC works",
        ),
        pytest.param(
            [failed(VMM), failed(IPC)], False, 0, Step.GIVE_UP, IPC, "ipc: it failed", id="nothing works"
        ),
        pytest.param(
            [Attempt(transport=VMM, is_mps_client=True)],
            True,
            0,
            Step.USE,
            VMM,
            "as an MPS client",
            id="VMM under MPS",
        ),
        pytest.param(
            [Attempt(transport=VMM, is_mps_client=False)],
            True,
            1,
            Step.WAIT,
            VMM,
            "without MPS",
            id="no MPS yet",
        ),
        pytest.param(
            [failed(VMM, is_mps_client=False)],
            True,
            1,
            Step.WAIT,
            VMM,
            "without MPS",
            id="no MPS, and a failure",
        ),
        pytest.param(
            [NOT_READY], True, 1, Step.WAIT, VMM, "MPS_SERVER_NOT_READY", id="the MPS server starts"
        ),
        pytest.param(
            [NOT_READY], True, MPS_WITHIN_S, Step.TRY, IPC, "NOT_READY", id="the MPS server never starts"
        ),
        pytest.param(
            [Attempt(transport=VMM, is_mps_client=False)],
            True,
            MPS_WITHIN_S,
            Step.USE,
            VMM,
            "without MPS",
            id="no MPS at all: what works without it, and it says so",
        ),
    ],
)
def test_the_transport_is_the_first_that_works_for_a_lane(
    attempts: list, wants_mps: bool, waited_s: float, step: Step, transport: Transport, words: str
) -> None:
    decision = decide(attempts, wants_mps=wants_mps, waited_s=waited_s)
    assert (decision.step, decision.transport) == (step, transport)
    assert words in decision.reason


def facts(**changes: object) -> Facts:
    settings: dict = {
        "driver_cuda": (13, 0),
        "torch_cuda": (13, 0),
        "gpus": (Gpu(uuid=GPU, name="H200", compute_capability=(9, 0)),),
        "allocator_settings": {},
    }
    return Facts(**(settings | changes))


T4 = Gpu(uuid=GPU, name="T4", compute_capability=(7, 5))


@pytest.mark.parametrize(
    ("changes", "gpu", "path", "words"),
    [
        pytest.param(
            {"torch_cuda": None}, GPU, "spec.resources.device", "torch for CPUs", id="a torch for CPUs"
        ),
        pytest.param(
            {"driver_cuda": (12, 8)},
            GPU,
            "spec.resources.device",
            "for CUDA 12.8",
            id="a driver of an older CUDA",
        ),
        pytest.param({"gpus": ()}, None, "spec.resources.device", "without a GPU", id="no GPU"),
        pytest.param({}, OTHER_GPU, "spec.resources.device", OTHER_GPU, id="another GPU"),
        pytest.param({"gpus": (T4,)}, GPU, "spec.resources.device", "7.5", id="compute capability below 8.0"),
        pytest.param(
            {"allocator_settings": {"PYTORCH_ALLOC_CONF": "max_split_size_mb:8,expandable_segments: True"}},
            GPU,
            "PYTORCH_ALLOC_CONF",
            "expandable_segments",
            id="expandable segments",
        ),
    ],
)
def test_a_gpu_that_cannot_serve_is_refused_with_field_value_and_what_is_allowed(
    changes: dict, gpu: str | None, path: str, words: str
) -> None:
    refusal = refuse(facts(**changes), gpu)
    assert refusal is not None
    assert refusal.path == path
    assert words in str(refusal.given)
    assert refusal.allowed


@pytest.mark.parametrize(
    ("changes", "gpu"),
    [
        pytest.param({}, GPU, id="as it should be"),
        pytest.param({}, None, id="no GPU is named: the first"),
        pytest.param({"torch_cuda": (13, 2)}, GPU, id="a driver of an older minor version"),
        pytest.param({"torch_cuda": (12, 8)}, GPU, id="a driver of a newer CUDA"),
        pytest.param(
            {"allocator_settings": {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:False"}},
            GPU,
            id="no expandable segments",
        ),
    ],
)
def test_a_gpu_that_can_serve_is_not_refused(changes: dict, gpu: str | None) -> None:
    assert refuse(facts(**changes), gpu) is None


def two_gpus(name: str) -> tuple[Gpu, ...]:
    other = Gpu(uuid=OTHER_GPU, name=name, compute_capability=(9, 0))
    return (Gpu(uuid=GPU, name="H200", compute_capability=(9, 0)), other)


@pytest.mark.parametrize(
    ("gpus", "wanted", "path", "words"),
    [
        pytest.param(
            two_gpus("H200"), [GPU, GPU], "spec.resources.gpusPerEngine", "2 on H200", id="one GPU twice"
        ),
        pytest.param(
            two_gpus("H100"),
            [GPU, OTHER_GPU],
            "spec.resources.gpusPerEngine",
            f"H100 ({OTHER_GPU})",
            id="two models",
        ),
        pytest.param(
            two_gpus("H200")[:1], [GPU, OTHER_GPU], "spec.resources.device", OTHER_GPU, id="too few"
        ),
        pytest.param(
            two_gpus("H200")[:1], ["#0", "#1"], "spec.resources.device", "#1", id="too few, by number"
        ),
    ],
)
def test_gpus_that_cannot_serve_one_engine_together_are_refused(
    gpus: tuple, wanted: list, path: str, words: str
) -> None:
    refusal = refuse_ranks(facts(gpus=gpus), wanted)
    assert refusal is not None
    assert refusal.path == path
    assert words in str(refusal.given)


def test_gpus_of_one_model_serve_together() -> None:
    assert refuse_ranks(facts(gpus=two_gpus("H200")), [OTHER_GPU, GPU]) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("__version__ = '2.11.0+cu130'\ncuda: Optional[str] = '13.0'\nhip = None\n", (13, 0)),
        ("__version__ = '2.11.0+cu128'\ncuda = '12.8'\n", (12, 8)),
        ("__version__ = '2.11.0+cpu'\ncuda: Optional[str] = None\n", None),
        ("", None),
    ],
)
def test_the_cuda_of_torch_is_read_from_its_version_file(text: str, expected: tuple | None) -> None:
    assert parse_torch_cuda(text) == expected


@pytest.mark.parametrize(
    ("code", "is_lasting"),
    [
        ("NO_LIBRARY", True),
        ("CUDA_ERROR_NO_DEVICE", True),
        ("CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", True),
        ("CUDA_ERROR_INSUFFICIENT_DRIVER", True),
        ("CUDA_ERROR_ECC_UNCORRECTABLE", False),
        ("CUDA_ERROR_UNKNOWN", False),
        ("CUDA_ERROR_OUT_OF_MEMORY", False),
        ("CUDA_ERROR_SYSTEM_NOT_READY", False),
        ("CUDA_ERROR_DEVICE_UNAVAILABLE", False),
        ("CUDA_ERROR_MPS_SERVER_NOT_READY", False),
        ("CUDA_ERROR_OF_NEXT_YEAR", False),
    ],
)
def test_an_error_of_the_driver_waits_for_the_user_or_for_better_times(code: str, is_lasting: bool) -> None:
    answer = classify(CudaError("cuInit", code, "so it says"), GPU)
    assert isinstance(answer, InvalidSpec if is_lasting else NotReadyYet)
    assert all(words in str(answer) for words in (GPU, "cuInit", code, "so it says"))


@pytest.mark.parametrize("code", ["CUDA_ERROR_NO_DEVICE", "CUDA_ERROR_INVALID_DEVICE"])
def test_a_driver_without_the_gpu_says_that_it_is_missing(code: str) -> None:
    assert isinstance(classify(CudaError("cuInit", code, "so it says"), GPU), GpuMissing)


@pytest.mark.parametrize("gpus", [[], [OTHER_GPU]], ids=["no GPU", "another GPU alone"])
def test_a_lane_without_the_gpu_of_its_memory_server_has_a_fault_of_the_device(gpus: list[str]) -> None:
    driver: Any = SimpleNamespace(count=lambda: len(gpus), uuid=lambda index: gpus[index])
    with pytest.raises(DeviceError):
        find_device_again(driver, GPU)
    with pytest.raises(GpuMissing):
        find_device(driver, GPU)


MODEL = ModelConfig(
    architecture="LlamaForCausalLM",
    num_layers=32,
    hidden_size=4096,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    intermediate_size=14336,
    vocab_size=128256,
    rms_norm_eps=1e-5,
    rope_theta=500000.0,
    rope_divisors=None,
    tied_embeddings=False,
    max_context_tokens=8192,
    eos_token_ids=[2],
    bos_token_id=0,
    dtype="BF16",
)
BLOCK_BYTES = 16 * 32 * 2 * 8 * 128 * 2
WEIGHTS = 16 * GIB


def memory(free_gib: float, total_gib: float = 80) -> GpuMemory:
    return GpuMemory(gpu=GPU, free_bytes=int(free_gib * GIB), total_bytes=int(total_gib * GIB))


def blocks(memory: GpuMemory, wanted_bytes: int | None = None, max_rows: int = 256) -> int:
    return num_device_blocks(
        MODEL, memory, weights_bytes=WEIGHTS, block_tokens=16, max_rows=max_rows, wanted_bytes=wanted_bytes
    )


def test_kv_takes_what_weights_and_lanes_leave() -> None:
    assert blocks(memory(79)) == (79 - 8 - 16) * GIB // BLOCK_BYTES


@pytest.mark.parametrize("wanted_bytes", [None, 40 * GIB])
def test_kv_of_two_gpus_is_twice_that_of_one_for_the_same_weights_on_each(wanted_bytes: int | None) -> None:
    """Each has half of a block, as its shard of the model has half of the KV heads."""
    half = msgspec.structs.replace(MODEL, num_kv_heads=4, num_heads=16)
    together = num_device_blocks(
        half,
        memory(79),
        weights_bytes=WEIGHTS,
        block_tokens=16,
        max_rows=1024,
        wanted_bytes=wanted_bytes,
        num_ranks=2,
    )
    assert together == (wanted_bytes or 2 * (79 - 8 - 16) * GIB) // BLOCK_BYTES


def test_kv_takes_no_more_than_all_rows_can_use() -> None:
    assert blocks(memory(79), max_rows=2) == 2 * 8192 // 16 + 1


def test_a_wish_for_kv_is_followed_as_far_as_it_fits() -> None:
    assert blocks(memory(79), wanted_bytes=20 * GIB) == 20 * GIB // BLOCK_BYTES
    with pytest.raises(InvalidSpec) as caught:
        blocks(memory(79), wanted_bytes=60 * GIB)
    assert caught.value.path == "spec.resources.kvCache"
    for number in (60 * GIB, 55 * GIB, WEIGHTS, 79 * GIB, 80 * GIB, 8 * GIB):
        assert str(number) in str(caught.value)


def test_weights_that_do_not_fit_are_refused_with_all_numbers() -> None:
    check_weights(memory(24), WEIGHTS, "a model")
    with pytest.raises(InvalidSpec) as caught:
        check_weights(memory(23.5), WEIGHTS, "a model")
    assert caught.value.path == "spec.model.uri"
    for words in ("a model", str(WEIGHTS), str(int(15.5 * GIB)), str(80 * GIB), GPU):
        assert words in str(caught.value)


@given(
    total=st.integers(LANES_BYTES_MIN, 256 * GIB),
    free=st.integers(0, 256 * GIB),
    weights=st.integers(1, 64 * GIB),
    wanted=st.none() | st.integers(1, 64 * GIB),
)
def test_what_is_waited_for_is_never_more_than_an_unused_gpu_gives(
    total: int, free: int, weights: int, wanted: int | None
) -> None:
    memory = GpuMemory(gpu=GPU, free_bytes=min(free, total), total_bytes=total)
    awaited = awaited_free_bytes(memory, weights, wanted)
    assert awaited <= total - memory.lane_bytes
    if wanted is not None and awaited < total - memory.lane_bytes:
        assert awaited - memory.lane_bytes >= weights + wanted


@pytest.mark.parametrize(
    ("capability", "dtype", "is_refused"),
    [
        ((8, 0), "FP8", True),
        ((8, 6), "FP8", True),
        ((8, 9), "FP8", False),
        ((9, 0), "FP8", False),
        ((8, 0), "Auto", False),
    ],
)
def test_weights_stay_fp8_only_where_instructions_read_it(
    capability: tuple[int, int], dtype: str, is_refused: bool
) -> None:
    refusal = refuse_dtype(Gpu(uuid=GPU, name="A100", compute_capability=capability), dtype)
    assert (refusal is not None) == is_refused
    if refusal is not None:
        assert refusal.path == "spec.model.dtype"
        assert refusal.given == f"FP8 on A100 ({GPU}) of compute capability {capability[0]}.{capability[1]}"
        assert "8.9" in refusal.allowed
        assert "dequantize" in refusal.allowed


@pytest.mark.parametrize(
    ("wanted", "expected"), [("Auto", "BF16"), ("FP8", "BF16"), ("BF16", "BF16"), ("FP32", "FP32")]
)
def test_auto_and_stored_fp8_are_bf16_on_cuda(wanted: str, expected: str) -> None:
    assert resolve_cuda_dtype(wanted) == expected


def test_a_type_that_the_engine_does_not_have_is_refused() -> None:
    with pytest.raises(InvalidSpec, match=r"spec\.model\.dtype.*INT8.*FP8"):
        resolve_cuda_dtype("INT8")
