"""The control daemon's output, the only place where it says why something was refused; kept short.

Each command that the agent sends leaves five lines, so a file that nobody cuts would grow by 50 MB a day.
"""

from __future__ import annotations

import re
from pathlib import Path

MAX_BYTES = 1 << 20
KEPT_LINES = 20
_STAMP = re.compile(r"^\[\d{4}-\d\d-\d\d [\d:.]+ Control +\d+\] ")
_ROUTINE = re.compile(
    r"Accepting connection\.\.\.|NEW UI|UI closed|Cmd:.*|[\d. ]*|INITIALIZING|ACTIVE|Removed Shm file at.*"
)


class DaemonLog:
    """`path` must be written in append mode: it is cut while the daemon has it open."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.last: list[str] = []  # what is no routine, newest last
        self._offset = path.stat().st_size if path.exists() else 0

    def read(self) -> list[str]:
        """What the daemon has said since the last call, without the routine."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        if self._offset > MAX_BYTES:
            with self.path.open("r+b") as file:
                file.truncate(0)
            self._offset = 0
        new = [line for line in map(_text, whole.decode("utf-8", "replace").splitlines()) if line]
        self.last = [*self.last, *new][-KEPT_LINES:]
        return new

    def why_server_ended(self) -> str | None:
        return next((line for line in reversed(self.last) if "exited with status" in line), None)


def _text(line: str) -> str:
    """Without the time; "" for routine."""
    text = _STAMP.sub("", line)
    return "" if _ROUTINE.fullmatch(text) else text
