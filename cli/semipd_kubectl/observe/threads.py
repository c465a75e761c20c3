"""Threads for requests that run at once."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager


@contextmanager
def request_threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """Waits for all of them, unless it is left by an error or by Ctrl-C: nobody needs their answers then."""
    threads = ThreadPoolExecutor(count)
    try:
        yield threads
    except BaseException:
        threads.shutdown(wait=False, cancel_futures=True)
        raise
    threads.shutdown()
