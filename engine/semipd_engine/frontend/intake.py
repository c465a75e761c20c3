"""From the bytes of a request to the generations it needs. Pure, but for the random seed of those who give none."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from semipd_core import messages
from semipd_core.slo.window import RequestJudge
from semipd_core.telemetry import SloTargets
from semipd_engine.frontend import prompts, request_settings
from semipd_engine.frontend.api_errors import ApiError
from semipd_engine.frontend.generation import Generation
from semipd_engine.frontend.request_decoding import ChatRequest, CompletionRequest, decode_request
from semipd_engine.frontend.request_settings import GenerationSettings
from semipd_engine.frontend.served_model import ServedModel
from semipd_engine.frontend.text_stream import TextStream

Reader = Callable[[bytes, ServedModel, str], "Order"]  # body, model, its served name


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A checked request: every prompt is answered `settings.num_choices` times."""

    prompts: Sequence[list[int]]
    max_tokens: Sequence[int]  # of each prompt
    settings: GenerationSettings
    model_name: str

    @property
    def num_generations(self) -> int:
        return len(self.prompts) * self.settings.num_choices


def read_completion(body: bytes, model: ServedModel, served_name: str) -> Order:
    """`/v1/completions`. Raises: ApiError."""
    request = decode_request(body, CompletionRequest)
    check_model(request.model, served_name)
    settings = request_settings.completion_settings(request)
    return _order(prompts.completion_prompts(request, model), settings, request.model, model)


def read_chat(body: bytes, model: ServedModel, served_name: str) -> Order:
    """`/v1/chat/completions`. Raises: ApiError."""
    request = decode_request(body, ChatRequest)
    check_model(request.model, served_name)
    settings = request_settings.chat_settings(request)
    return _order(prompts.chat_prompts(request, model), settings, request.model, model)


def build_generations(
    order: Order,
    model: ServedModel,
    slo: SloTargets,
    *,
    request_id: str,
    arrived_s: float,
    unique_id: Callable[[str], str],
) -> list[Generation]:
    """Prompt by prompt, in the order of the response's choices. `arrived_s` is monotonic."""
    seeds = [_seed(order.settings) for _ in order.prompts]
    generations = []
    for choice in range(order.num_generations):
        prompt_index, sibling = divmod(choice, order.settings.num_choices)
        wanted_id = request_id if order.num_generations == 1 else f"{request_id}-{choice}"
        submit = messages.Submit(
            request_id=unique_id(wanted_id),
            prompt=order.prompts[prompt_index],
            max_tokens=order.max_tokens[prompt_index],
            arrived_ns=int(arrived_s * 1e9),
            sampling=_sampling(
                order.settings, (seeds[prompt_index] + sibling) & (2**request_settings.SEED_BITS - 1)
            ),
            stop_token_ids=[] if order.settings.ignore_eos else model.stop_token_ids,
        )
        generations.append(
            Generation(
                choice=choice,
                arrived_s=arrived_s,
                submit=submit,
                text=TextStream(model.tokenizer, order.settings.stop),
                judge=RequestJudge(slo, arrived_s, submit.max_tokens),
                streams=order.settings.stream,
            )
        )
    return generations


def check_model(name: str, served_name: str) -> None:
    """Raises: ApiError 404."""
    if name != served_name:
        message = f"model: got {name!r}, allowed: {served_name!r}"
        raise ApiError(404, message, param="model", code="model_not_found")


def _order(
    token_ids: Sequence[list[int]], settings: GenerationSettings, model_name: str, model: ServedModel
) -> Order:
    return Order(
        prompts=token_ids,
        max_tokens=[prompts.tokens_left(prompt, settings, model) for prompt in token_ids],
        settings=settings,
        model_name=model_name,
    )


def _seed(settings: GenerationSettings) -> int:
    """Drawn once, so that a resubmission continues the same text."""
    return secrets.randbits(request_settings.SEED_BITS) if settings.seed is None else settings.seed


def _sampling(settings: GenerationSettings, seed: int) -> messages.Sampling:
    return messages.Sampling(
        temperature=settings.temperature, top_p=settings.top_p, top_k=settings.top_k, seed=seed
    )
