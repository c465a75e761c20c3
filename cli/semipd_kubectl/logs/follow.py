"""Logs while they grow: a thread per container reads, one watches which containers there are, the caller's takes the lines.

All threads are daemons: who ends the command waits for none of them.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime

from semipd_kubectl.api.connection import Connection
from semipd_kubectl.errors import ApiError, Forbidden, NotThere
from semipd_kubectl.logs.lines import LogLine
from semipd_kubectl.logs.merge import Reorder
from semipd_kubectl.logs.streams import Container, Extent, read_log

HOLD_S = 0.5  # what a line may come later than a younger one of another pod
LOOK_S = 2.0  # between two looks at which containers there are
RETRY_S = 1.0

Key = tuple[str, str]  # uid of the pod, container


class Follower:
    """`read_until`: time of the last line that was shown, by container; those do not come again.

    `say` takes what is not a line: a container that comes or goes, a look that failed.
    """

    def __init__(
        self,
        api: Connection,
        namespace: str,
        look: Callable[[], list[Container]],
        first: Extent,
        read_until: Mapping[Key, int],
        say: Callable[[str], None],
    ) -> None:
        self._api, self._namespace, self._look, self._say = api, namespace, look, say
        self._first = first
        self._read_until = dict(read_until)
        self._known = set(read_until)  # containers that were there at the start
        self._readers: dict[tuple[str, str, int], threading.Thread] = {}
        self._arrived: queue.SimpleQueue[LogLine | ApiError] = queue.SimpleQueue()

    def lines(self) -> Iterator[LogLine]:
        """Without end. Raises: Forbidden."""
        threading.Thread(target=self._watch, daemon=True).start()
        held = Reorder(HOLD_S)
        while True:
            due_s = held.due_s
            wait_s = None if due_s is None else max(0.0, due_s - time.monotonic())
            try:
                arrived = self._arrived.get(timeout=wait_s)
            except queue.Empty:
                yield from held.pop(time.monotonic())
                continue
            if isinstance(arrived, ApiError):
                raise arrived
            held.push(arrived, time.monotonic())
            yield from held.pop(time.monotonic())

    def _watch(self) -> None:
        while True:
            try:
                for container in self._look():
                    self._start(container)
            except Forbidden as error:
                self._arrived.put(error)
                return
            except ApiError as error:
                self._say(str(error))
            time.sleep(LOOK_S)

    def _start(self, container: Container) -> None:
        """Each run of a container is read once, whole."""
        key = (container.uid, container.name, container.restarts)
        if container.waits is not None or key in self._readers:
            return
        if key[:2] not in self._known:
            self._say(f"{container.pod} {container.name} starts")
        thread = threading.Thread(target=self._read, args=(container,), daemon=True)
        self._readers[key] = thread
        thread.start()

    def _read(self, container: Container) -> None:
        """Until the container's log ends; a connection that breaks off is taken up where it was."""
        while True:
            try:
                self._read_on(container)
                self._say(f"{container.pod} {container.name} has ended")
                return
            except Forbidden as error:
                self._arrived.put(error)
                return
            except NotThere:
                self._say(f"{container.pod} is gone")
                return
            except ApiError:
                time.sleep(RETRY_S)

    def _read_on(self, container: Container) -> None:
        key = (container.uid, container.name)
        for line in read_log(self._api, self._namespace, container, self._extent(key), follow=True):
            if line.time_ns > self._read_until.get(key, -1):
                self._read_until[key] = line.time_ns
                self._arrived.put(line)

    def _extent(self, key: Key) -> Extent:
        """From the last line on; from the start where the container came while we follow."""
        last_ns = self._read_until.get(key, 0)
        if last_ns > 0:
            at = datetime.fromtimestamp(last_ns // 1_000_000_000, UTC)
            return Extent(since_time=at.strftime("%Y-%m-%dT%H:%M:%SZ"))
        return self._first if key in self._known else Extent()
