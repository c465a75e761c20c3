"""The journal on disk: append and fsync before the action; nothing half-written stays.

A crash may tear the last line, which is then ignored: its action has not begun. A full disk cuts the file back to its last
whole line and raises, so that the action is not taken.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

from semipd_agent.journal import entries as entry
from semipd_agent.journal.recovery import Journalled, recover, snapshot
from semipd_core.errors import InvalidSpec, SemipdError
from semipd_shell import failpoints, files

COMPACT_ABOVE_BYTES = 1 << 20


class JournalUnwritable(SemipdError):
    """The entry is not on disk, so its action must not be taken."""


class Journal:
    """One writer; `state` is always the fold of what is on disk.

    Raises: InvalidSpec if the file is of another version, JournalUnwritable if it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._owed: list[entry.AnyEntry] = []
        self.state, self._size = _read(path)
        self._fd = self._open()
        if self._size == 0:
            self.append(entry.Opened())

    def _open(self) -> int:
        try:
            return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise JournalUnwritable(f"{self._path.name}: {error.strerror}") from error

    def append(self, item: entry.AnyEntry) -> None:
        """Before an action.

        Raises: JournalUnwritable: the action must not be taken.
        """
        while self._owed:
            self._write(self._owed[0])
            del self._owed[0]
        self._write(item)

    def note(self, item: entry.AnyEntry) -> None:
        """After the fact: what cannot be written is owed, and goes to disk before the next action."""
        self._owed.append(item)
        try:
            while self._owed:
                self._write(self._owed[0])
                del self._owed[0]
        except JournalUnwritable:
            return

    def _write(self, item: entry.AnyEntry) -> None:
        failpoints.reach("agent.journal.before_write")
        if self._size > COMPACT_ABOVE_BYTES:
            self._compact()
        line = entry.encode(item)
        try:
            os.ftruncate(self._fd, self._size)
            _write_all(self._fd, line, self._size)
            os.fsync(self._fd)
        except OSError as error:
            self._cut_back()
            raise JournalUnwritable(f"{self._path.name}: {error.strerror}") from error
        self._size += len(line)
        self.state = recover([item], self.state)
        failpoints.reach("agent.journal.after_write")

    @property
    def problem(self) -> str | None:
        return f"{self._path.name}: {len(self._owed)} entries wait for the disk" if self._owed else None

    def _cut_back(self) -> None:
        try:
            os.ftruncate(self._fd, self._size)
        except OSError:
            return  # the torn line is ignored by readers and cut by the next append

    def _compact(self) -> None:
        """Replace the file by its snapshot; on a full disk the long one stays."""
        data = b"".join(map(entry.encode, snapshot(self.state)))
        try:
            files.write_atomically(self._path, data)
        except OSError:
            return
        os.close(self._fd)
        self._fd, self._size = self._open(), len(data)

    def remove(self) -> None:
        """After a clean stop nothing is left to adopt."""
        os.close(self._fd)
        self._path.unlink(missing_ok=True)


def _read(path: Path) -> tuple[Journalled, int]:
    """The journal's state, and the bytes up to the end of its last whole line."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return Journalled(), 0
    *lines, _torn = data.split(b"\n")
    items = list(_decode(path, lines))
    return recover(items), sum(len(line) + 1 for line in lines[: len(items)])


def _decode(path: Path, lines: list[bytes]) -> Iterable[entry.AnyEntry]:
    for number, line in enumerate(lines, start=1):
        try:
            item = entry.decode(line)
        except msgspec.MsgspecError as error:
            if number == len(lines):
                return  # torn by a crash of the machine
            raise InvalidSpec(
                f"{path.name}:{number}", line.decode(errors="replace")[:80], f"an entry: {error}"
            ) from error
        if isinstance(item, entry.Opened) and item.version != entry.VERSION:
            raise InvalidSpec(f"{path.name}:{number}.version", item.version, f"{entry.VERSION}")
        yield item


def _write_all(fd: int, data: bytes, offset: int) -> None:
    while data:
        written = os.pwrite(fd, data, offset)
        data, offset = data[written:], offset + written
