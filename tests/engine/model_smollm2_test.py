"""The built-in model says what it says in transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from local_engine import FreeTurns, Request, attach_locally, build_engine_config, build_plan
from tokenizers import Tokenizer
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from semipd_engine.model import sources
from semipd_engine.model.executor import Executor

pytestmark = pytest.mark.slow

TIE = 1e-3
NUM_TOKENS = 20
PROMPTS = [
    "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n",
    "def fibonacci(n):\n",
    "The three laws of thermodynamics say that " * 6,
]


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("engine")


@pytest.fixture(scope="module")
def executor(directory: Path) -> Executor:
    torch.set_num_threads(1)  # two threads that spin for each other are far slower on a busy machine
    config = build_engine_config(
        directory,
        "builtin://smollm2-135m",
        max_context_tokens=1024,
        kv_bytes=64 << 20,
    )
    return Executor.build(config, attach_locally(config))


@pytest.fixture(scope="module")
def oracle():
    """transformers' model over the weights as transformers reads them from the file (its own dequantising and renaming)."""
    file = Path(sources.open_source("builtin://smollm2-135m").location)
    config = transformers.AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
    model = transformers.LlamaForCausalLM(config).eval()
    read = load_gguf_checkpoint(str(file), return_tensors=True, model_to_load=model)
    missing, unexpected = model.load_state_dict(read["tensors"], strict=False)
    assert (missing, unexpected) == (["lm_head.weight"], [])
    model.tie_weights()
    return model


def test_greedy_text_equals_that_of_transformers(directory: Path, executor: Executor, oracle) -> None:
    """In one batch, teacher-forced along our text: each token is the oracle's best, but for ties."""
    tokenizer = Tokenizer.from_file(str(directory / "model" / "tokenizer.json"))
    prompts = [tokenizer.encode(prompt).ids for prompt in PROMPTS]
    requests = [
        Request(slot, prompt, range(1 + 16 * slot, 17 + 16 * slot)) for slot, prompt in enumerate(prompts)
    ]
    for _ in range(NUM_TOKENS):
        rows = [request.row(len(request.tokens) - request.computed) for request in requests]
        tokens, _ = executor.execute(build_plan(*rows), FreeTurns())
        for request, token in zip(requests, tokens, strict=True):
            request.tokens.append(token)
    ties = 0
    for prompt, request in zip(prompts, requests, strict=True):
        with torch.inference_mode():
            logits = oracle(torch.tensor([request.tokens])).logits[0, len(prompt) - 1 : -1]
        for row, token in zip(logits, request.tokens[len(prompt) :], strict=True):
            if token != int(row.argmax()):
                assert row.max() - row[token] < TIE
                ties += 1
    assert ties <= 1
    assert "Paris" in tokenizer.decode(requests[0].tokens[len(prompts[0]) :])
