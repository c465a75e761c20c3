"""Which part of each weight a rank holds, so that N ranks together hold the model (tensor parallelism).

Heads are split over the ranks, and with them the rows of Q, K and V and the columns of the output projection; the MLP by rows
of gate and up and by columns of down; so a layer needs two sums over the ranks. The head is split by rows, which are tokens
of the vocabulary; the embedding and the norms are with every rank. Source: Megatron-LM, arXiv 1909.08053, section 3.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec

from semipd_core.errors import InvalidSpec
from semipd_engine.model.config import ModelConfig
from semipd_engine.model.layout import FusedTensor, Part, fused_tensors

FIELD = "spec.resources.gpusPerEngine"
RANKS_MAX = 64  # that an error speaks of

Span = tuple[int, int]  # the first, and the one after the last


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """What one rank holds. `model` has the rank's own heads and MLP; its vocabulary is whole."""

    model: ModelConfig
    tensors: Sequence[FusedTensor]


def shard(model: ModelConfig, num_ranks: int) -> list[Shard]:
    """One for each rank; a lone rank holds everything.

    Raises: InvalidSpec if the model cannot be cut into so many.
    """
    tensors = list(fused_tensors(model))
    _require_divisible(model, tensors, num_ranks)
    own = msgspec.structs.replace(
        model,
        num_heads=model.num_heads // num_ranks,
        num_kv_heads=max(1, model.num_kv_heads // num_ranks),
        intermediate_size=model.intermediate_size // num_ranks,
    )
    return [
        Shard(model=own, tensors=[_shard_tensor(tensor, model, rank, num_ranks) for tensor in tensors])
        for rank in range(num_ranks)
    ]


def vocabulary_span(vocab_size: int, rank: int, num_ranks: int) -> Span:
    """The tokens whose logits a rank computes: as many each, of which the last ranks may lack some."""
    width = -(-vocab_size // num_ranks)
    return min(rank * width, vocab_size), min((rank + 1) * width, vocab_size)


def _require_divisible(model: ModelConfig, tensors: Sequence[FusedTensor], num_ranks: int) -> None:
    if num_ranks == 1:
        return
    if not all(_kind(tensor) in _RULES for tensor in tensors):
        raise InvalidSpec(FIELD, num_ranks, f"1, for models of architecture {model.architecture}")
    if not _divides(model, num_ranks):
        possible = [str(number) for number in range(1, RANKS_MAX + 1) if _divides(model, number)]
        sizes = (
            f"{model.num_heads} heads, {model.num_kv_heads} KV heads and an MLP of {model.intermediate_size}"
        )
        raise InvalidSpec(FIELD, num_ranks, f"one of {', '.join(possible)}, for a model with {sizes}")


def _divides(model: ModelConfig, num_ranks: int) -> bool:
    """KV heads may also be fewer than ranks, each then with several of them."""
    is_kv_cut = model.num_kv_heads % num_ranks == 0 or num_ranks % model.num_kv_heads == 0
    return is_kv_cut and model.num_heads % num_ranks == 0 and model.intermediate_size % num_ranks == 0


def _kind(tensor: FusedTensor) -> str:
    return tensor.name.rpartition(".")[2]


def _shard_tensor(tensor: FusedTensor, model: ModelConfig, rank: int, num_ranks: int) -> FusedTensor:
    if num_ranks == 1:
        return tensor
    rule = _RULES[_kind(tensor)]
    return replace(tensor, parts=tuple(rule(part, model, rank, num_ranks) for part in tensor.parts))


def _whole(part: Part, _model: ModelConfig, _rank: int, _num_ranks: int) -> Part:
    return part


def _rows(part: Part, _model: ModelConfig, rank: int, num_ranks: int) -> Part:
    return replace(part, rows=_even_span(part.shape[0], rank, num_ranks))


def _columns(part: Part, _model: ModelConfig, rank: int, num_ranks: int) -> Part:
    return replace(part, columns=_even_span(part.shape[1], rank, num_ranks))


def _heads(part: Part, model: ModelConfig, rank: int, num_ranks: int) -> Part:
    """Rows of whole heads; of KV heads that are fewer than ranks, the one that the rank's query heads read."""
    heads = part.shape[0] // model.head_dim
    first = rank * heads // num_ranks
    last = first + max(1, heads // num_ranks)
    return replace(part, rows=(first * model.head_dim, last * model.head_dim))


def _tokens(part: Part, model: ModelConfig, rank: int, num_ranks: int) -> Part:
    return replace(part, rows=vocabulary_span(model.vocab_size, rank, num_ranks))


def _even_span(size: int, rank: int, num_ranks: int) -> Span:
    return rank * size // num_ranks, (rank + 1) * size // num_ranks


_RULES: Mapping[str, Callable[[Part, ModelConfig, int, int], Part]] = {
    "embed": _whole,
    "input_norm": _whole,
    "qkv": _heads,
    "qkv_bias": _heads,
    "q_norm": _whole,
    "k_norm": _whole,
    "o": _columns,
    "post_norm": _whole,
    "gate_up": _rows,
    "down": _columns,
    "norm": _whole,
    "head": _tokens,
}
