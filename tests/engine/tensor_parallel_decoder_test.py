"""The decoder on several ranks computes what it computes on one, for every shape of model: ranks as threads of this process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from fp8_checkpoints import BLOCKS, write_both
from local_engine import BLOCK_TOKENS, FreeTurns, Request, build_engine_config, build_plan, map_arenas
from tiny_llama import write_tiny_llama

from semipd_core import messages
from semipd_core.engine_config import EngineConfig
from semipd_engine.memory import loading
from semipd_engine.model.executor import Executor
from semipd_shell import log

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

PROMPTS = [[5], list(range(10, 27)), [7, 300, 42] * 20]
NUM_TOKENS = 10
DRAWN = messages.Sampling(temperature=0.8, top_p=0.95, seed=3)


class Meeting:
    """Where threads put their parts together."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._parts: list[torch.Tensor | None] = [None] * size
        self._barrier = threading.Barrier(size, timeout=60)

    def join(
        self, number: int, part: torch.Tensor, put_together: Callable[[list[Any]], torch.Tensor]
    ) -> torch.Tensor:
        self._parts[number] = part
        self._barrier.wait()
        whole = put_together(self._parts)
        self._barrier.wait()
        return whole


class ThreadRank:
    def __init__(self, number: int, meeting: Meeting) -> None:
        self.number = number
        self.size = meeting.size
        self._meeting = meeting

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        return self._meeting.join(self.number, values, lambda parts: torch.stack(parts).sum(0))

    def gather_columns(self, values: torch.Tensor) -> torch.Tensor:
        whole = self._meeting.join(self.number, values, lambda parts: torch.cat(parts, 1))
        return whole if self.number == 0 else values


def build_executors(config: EngineConfig) -> list[Executor]:
    meeting = Meeting(config.num_ranks)
    arenas = loading.prepare(config, log.logger("test"))
    return [
        Executor.build(config, map_arenas(own), ThreadRank(rank, meeting)) for rank, own in enumerate(arenas)
    ]


def generate(executors: list[Executor], num_tokens: int, sampling: messages.Sampling) -> list[list[int]]:
    """All prompts together: whole prompts first, then rows that name no token (run-ahead), as a decode lane gets them."""
    blocks = [range(1 + 9 * slot, 10 + 9 * slot) for slot in range(len(PROMPTS))]
    requests = [Request(slot, prompt, blocks[slot], sampling) for slot, prompt in enumerate(PROMPTS)]
    texts: list[list[int]] = [[] for _ in PROMPTS]
    with ThreadPoolExecutor(len(executors)) as pool:
        for step in range(num_tokens):
            rows = [
                request.row(len(request.tokens)) if step == 0 else request.row(1, run_ahead=True)
                for request in requests
            ]
            plan = executors[0].spell_out(build_plan(*rows))
            answers = list(
                pool.map(lambda executor, plan=plan: executor.execute(plan, FreeTurns()), executors)
            )
            assert all(set(tokens) == {None} for tokens, _ in answers[1:]), "only the first rank samples"
            for text, token in zip(texts, answers[0][0], strict=True):
                text.append(token)
    return texts


@pytest.mark.parametrize("num_ranks", [2, 4])
@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param({}, id="grouped-query attention, tied head"),
        pytest.param({"num_key_value_heads": 4}, id="multi-head attention"),
        pytest.param({"num_key_value_heads": 1}, id="multi-query attention"),
        pytest.param({"tie_word_embeddings": False}, id="head of its own"),
        pytest.param(
            {"tie_word_embeddings": False, "vocab_size": 389}, id="a vocabulary that does not divide"
        ),
        pytest.param({"vocab_size": 389}, id="a tied vocabulary that does not divide"),
    ],
)
def test_every_rank_count_gives_the_same_tokens(
    tmp_path: Path, overrides: dict[str, Any], num_ranks: int
) -> None:
    uri = f"file://{write_tiny_llama(tmp_path / 'model', seed=3, **overrides)}"
    alone = build_executors(build_engine_config(tmp_path, uri))
    together = build_executors(build_engine_config(tmp_path, uri, num_ranks=num_ranks))
    for sampling in (messages.Sampling(), DRAWN):
        expected = generate(alone, NUM_TOKENS, sampling)
        assert generate(together, NUM_TOKENS, sampling) == expected
    assert len({tuple(text) for text in expected}) == len(PROMPTS)
    assert max(len(prompt) for prompt in PROMPTS) + NUM_TOKENS <= 9 * BLOCK_TOKENS


def test_ranks_with_weights_in_fp8_give_the_tokens_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "cpu_flags", lambda _: frozenset())  # computed in fp32, as above
    uri, _ = write_both(write_tiny_llama(tmp_path / "model", seed=3), BLOCKS)
    alone = build_executors(build_engine_config(tmp_path, uri, dtype="FP8"))
    together = build_executors(build_engine_config(tmp_path, uri, dtype="FP8", num_ranks=2))
    expected = generate(alone, NUM_TOKENS, messages.Sampling())
    assert generate(together, NUM_TOKENS, messages.Sampling()) == expected
