"""Whose attention kernels a lane on a GPU uses, and what is said where FlashInfer is asked for and cannot serve."""

from __future__ import annotations

from dataclasses import replace

import pytest

from semipd_core.engine_config import AttentionKernels
from semipd_core.errors import InvalidSpec
from semipd_engine.cuda_model.attention_choice import (
    AttentionChoice,
    AttentionReason,
    AttentionShape,
    choose_attention,
)
from semipd_engine.model.config import LatentConfig

AUTO, TRITON, FLASHINFER = AttentionKernels
HOPPER = (9, 0)
LLAMA = AttentionShape(num_heads=32, num_kv_heads=8, head_dim=128, dtype="BF16", latent=None)
DEEPSEEK = replace(
    LLAMA,
    head_dim=192,
    latent=LatentConfig(
        q_lora_rank=None,
        kv_lora_rank=512,
        qk_nope_head_dim=128,
        qk_rope_head_dim=64,
        v_head_dim=128,
        softmax_scale=0.1,
    ),
)
SMALL_LATENTS = replace(
    DEEPSEEK,
    latent=LatentConfig(
        q_lora_rank=None,
        kv_lora_rank=256,
        qk_nope_head_dim=64,
        qk_rope_head_dim=32,
        v_head_dim=64,
        softmax_scale=0.1,
    ),
)


@pytest.mark.parametrize("version", [None, "0.7.2.post1"])
def test_auto_is_our_own_kernels_until_a_gpu_has_measured_both(version: str | None) -> None:
    assert choose_attention(AUTO, version=version, capability=HOPPER, shape=LLAMA) == AttentionChoice(
        kernels=TRITON, reason=AttentionReason.UNMEASURED
    )


@pytest.mark.parametrize("version", [None, "0.7.2.post1"])
def test_our_own_kernels_are_always_there(version: str | None) -> None:
    choice = choose_attention(TRITON, version=version, capability=None, shape=LLAMA)
    assert choice == AttentionChoice(kernels=TRITON, reason=AttentionReason.ASKED)


@pytest.mark.parametrize(
    ("version", "capability", "shape"),
    [
        pytest.param("0.7.2.post1", HOPPER, LLAMA, id="Llama on Hopper"),
        pytest.param("0.12.0", (12, 0), replace(LLAMA, head_dim=64), id="a later release, heads of 64"),
        pytest.param("1.0", (8, 0), replace(LLAMA, head_dim=256), id="the least card, heads of 256"),
        pytest.param("0.7.0", HOPPER, DEEPSEEK, id="latents of DeepSeek, whatever its heads"),
    ],
)
def test_flashinfer_serves_where_it_is_asked_for(
    version: str, capability: tuple[int, int], shape: AttentionShape
) -> None:
    choice = choose_attention(FLASHINFER, version=version, capability=capability, shape=shape)
    assert choice == AttentionChoice(kernels=FLASHINFER, reason=AttentionReason.ASKED)


@pytest.mark.parametrize(
    ("version", "capability", "shape", "lack"),
    [
        pytest.param(None, HOPPER, LLAMA, "FlashInfer is not installed", id="not installed"),
        pytest.param("0.6.13", HOPPER, LLAMA, "0.6.13 is older than 0.7", id="an old release"),
        pytest.param("unknown", HOPPER, LLAMA, "unknown is older than 0.7", id="a version that is none"),
        pytest.param("0.7.2", None, LLAMA, "at least 8.0, here is no GPU", id="no GPU"),
        pytest.param("0.7.2", (7, 5), LLAMA, "here is compute capability 7.5", id="an old card"),
        pytest.param("0.7.2", HOPPER, replace(LLAMA, dtype="FP32"), "the model is FP32", id="fp32"),
        pytest.param("0.7.2", HOPPER, replace(LLAMA, head_dim=80), "64, 128, 256, not 80", id="heads of 80"),
        pytest.param("0.7.2", HOPPER, SMALL_LATENTS, r"\(512, 64\), not \(256, 32\)", id="other latents"),
    ],
)
def test_flashinfer_asked_for_in_vain_is_an_invalid_setting_that_says_what_lacks(
    version: str | None, capability: tuple[int, int] | None, shape: AttentionShape, lack: str
) -> None:
    with pytest.raises(InvalidSpec, match=lack) as refused:
        choose_attention(FLASHINFER, version=version, capability=capability, shape=shape)
    assert (refused.value.path, refused.value.given) == ("SEMIPD_ATTENTION_KERNELS", "FlashInfer")
