"""The client of the API server: what can go wrong with an answer is one tuple of errors, and a watch that ends says so.

lightkube opens a watch that has ended anew by itself and at once: a server, or what stands before it, that ends watches as soon
as they begin would be asked thousands of times a second. It also looks up the Content-Type of every error, which a load balancer
may leave out.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import msgspec
from lightkube import AsyncClient, ConfigError, KubeConfig
from lightkube.config.client_adapter import verify_cluster

# ApiError is an HTTPError. The last two are of answers that are no JSON, or not the JSON that was asked for.
FAILURES = (httpx2.HTTPError, OSError, TimeoutError, msgspec.MsgspecError, json.JSONDecodeError)
MAX_RETRY_AFTER_S = 60.0  # what a server asks for beyond it is not waited for
TOO_MANY_REQUESTS = 429


class WatchEnded(httpx2.TransportError):
    """The server has ended a watch in good order; it may be opened again where it was."""


def open_api_client(answers: Counter[str] | None = None) -> AsyncClient:
    """By KUBECONFIG or the pod's service account. `answers` counts by status code or error. Raises: ConfigError."""
    config = KubeConfig.from_env().get()
    if config is None or config.user is None:
        raise ConfigError("the kubeconfig names no context with a user")
    verify = verify_cluster(config.cluster, config.user, config.abs_file)
    return AsyncClient(config, transport=_Transport(verify, Counter() if answers is None else answers))


def retry_after_s(error: BaseException) -> float:
    """What a busy server asks to be waited for, 0 where it asks for nothing."""
    response = getattr(error, "response", None)
    if response is None:
        return 0.0
    try:
        asked_s = float(response.headers.get("Retry-After", 0))
    except ValueError:  # a date, which no API server gives
        return 0.0
    return min(max(asked_s, 0.0), MAX_RETRY_AFTER_S)


def describe(error: BaseException) -> str:
    """With its class where it says nothing itself."""
    return str(error) or type(error).__name__


class _Transport(httpx2.AsyncHTTPTransport):
    def __init__(self, verify: Any, answers: Counter[str]) -> None:
        super().__init__(verify=verify)
        self._answers = answers

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """A watch is asked for bookmarks, by which a quiet one is told from a dead one."""
        is_watch = request.url.params.get("watch") == "true"
        if is_watch:
            request.url = request.url.copy_set_param("allowWatchBookmarks", "true")
        try:
            response = await super().handle_async_request(request)
        except httpx2.TransportError as error:
            self._answers[type(error).__name__] += 1
            raise
        self._answers[str(response.status_code)] += 1
        response.headers.setdefault("Content-Type", "text/plain")
        if is_watch and response.is_success:
            assert isinstance(response.stream, httpx2.AsyncByteStream)
            response.stream = _EndingStream(response.stream)
        return response


class _EndingStream(httpx2.AsyncByteStream):
    def __init__(self, inner: httpx2.AsyncByteStream) -> None:
        self._inner = inner

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._inner:
            yield chunk
        raise WatchEnded("the server has ended the watch")

    async def aclose(self) -> None:
        await self._inner.aclose()
