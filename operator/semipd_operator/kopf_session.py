"""The HTTP session that kopf asks the API server through: it counts the answers, and opens no watch again and again at once.

kopf begins a watch that has ended, in good order or not, anew without a pause. While it ends it may wait for a login that nobody
makes any more, or for a watch that has swallowed its cancellation, and would for ever.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import kopf
from kopf._cogs.structs.credentials import Vault  # the type of an argument of kopf.operator

STEADY_S = 5.0  # a watch that has held for so long begins anew at once
FIRST_DELAY_S, MAX_DELAY_S = 0.2, 15.0
UNAUTHORIZED = 401
LOGIN_TIMEOUT_S = 15.0
ENDING_S, POLL_S = 10.0, 0.5
LOGIN_DELAY_S = 2.0  # kopf logs in again, and would do so for ever with what it is refused for


class Pace:
    """A client middleware of aiohttp. `answers` counts by status code or error."""

    def __init__(self, answers: Counter[str]) -> None:
        self._answers = answers
        self._began_s: dict[str, float] = {}  # of the event loop's clock, by path
        self._delays_s: dict[str, float] = {}

    async def __call__(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        if request.url.query.get("watch") == "true":
            await self._wait(request.url.path)
        try:
            response = await handler(request)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            self._answers[type(error).__name__] += 1
            raise
        self._answers[str(response.status)] += 1
        if response.status == UNAUTHORIZED:
            await asyncio.sleep(LOGIN_DELAY_S)
        return response

    async def _wait(self, path: str) -> None:
        now_s = asyncio.get_running_loop().time
        if path in self._began_s and now_s() - self._began_s[path] < STEADY_S:
            delay_s = self._delays_s.get(path, FIRST_DELAY_S)
            self._delays_s[path] = min(2 * delay_s, MAX_DELAY_S)
            await asyncio.sleep(delay_s * random.uniform(0.5, 1.0))
        else:
            self._delays_s.pop(path, None)
        self._began_s[path] = now_s()


class ImpatientVault(Vault):
    """As kopf's own. Raises: TimeoutError where a request waits for a login longer than LOGIN_TIMEOUT_S."""

    async def extended(
        self, factory: Callable[[Any], Any], purpose: str | None = None
    ) -> AsyncIterator[tuple[Any, Any, Any]]:
        items = super().extended(factory, purpose)
        while True:
            try:
                async with asyncio.timeout(LOGIN_TIMEOUT_S):
                    found = await anext(items)
            except StopAsyncIteration:
                return
            yield found

    async def invalidate(self, key: Any, info: Any, *, exc: Exception | None = None) -> None:
        async with asyncio.timeout(LOGIN_TIMEOUT_S):
            await super().invalidate(key, info, exc=exc)


class Sessions:
    """Those that kopf was given. It closes them when it ends, and should have ended soon after."""

    def __init__(self) -> None:
        self._latest: aiohttp.ClientSession | None = None

    def note(self, session: aiohttp.ClientSession) -> None:
        self._latest = session

    async def until_closed(self) -> None:
        """Once the latest has been closed for ENDING_S: no other login has followed."""
        closed_s = 0.0
        while closed_s < ENDING_S:
            await asyncio.sleep(POLL_S)
            is_closed = self._latest is not None and self._latest.closed
            closed_s = closed_s + POLL_S if is_closed else 0.0


def open_session(
    login: kopf.ConnectionInfo, answers: Counter[str], sessions: Sessions
) -> kopf.AiohttpSession:
    """As kopf's own would be, and paced. kopf closes it."""
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=login.as_ssl_context()),
        headers=login.as_http_headers(),
        proxy=login.proxy_url,
        trust_env=login.trust_env,
        middlewares=(Pace(answers),),
    )
    sessions.note(session)
    return kopf.AiohttpSession(
        aiohttp_session=session,
        server=login.server,
        default_namespace=login.default_namespace,
        priority=login.priority,
        expiration=login.expiration,
    )
