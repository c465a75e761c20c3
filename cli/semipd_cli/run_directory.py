"""Where a running service keeps its sockets, files and logs, and who owns that place."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path

import msgspec

from semipd_agent.processes.identity import Identity, is_alive
from semipd_agent.run_directory import RunDirectory
from semipd_core.api.shape import NOTHING, Words
from semipd_core.engine_config import SpecError
from semipd_core.errors import InvalidSpec
from semipd_core.telemetry import Wire
from semipd_shell.files import write_atomically

_FLAG = "--run-dir"
_LONGEST_SOCKET = "/engine-00/coordinator.sock"
_SOCKET_PATH_BYTES = 107  # sun_path, without its end
_OWN_FILES = frozenset({"up.json", "up.lock", "service.json", "agent.lock"})


class UpRecord(Wire, frozen=True, kw_only=True):
    """`up.json`: who runs the service. `phase_seconds` says when each phase of the start was reached."""

    pid: int
    start_ticks: int  # with the boot's id: no other process is ever taken for this one
    boot_id: str
    url: str
    service: str
    phase_seconds: dict[str, float] = msgspec.field(default_factory=dict)

    @property
    def identity(self) -> Identity:
        return Identity(pid=self.pid, start_ticks=self.start_ticks, boot_id=self.boot_id)


def read_record(directory: RunDirectory) -> UpRecord | None:
    """Who wrote `up.json`; None if there is none, or none that can be read."""
    try:
        return msgspec.json.decode(_record_file(directory).read_bytes(), type=UpRecord)
    except (OSError, msgspec.DecodeError):
        return None


def write_record(directory: RunDirectory, record: UpRecord) -> None:
    """Raises: OSError."""
    write_atomically(_record_file(directory), msgspec.json.encode(record))


def _record_file(directory: RunDirectory) -> Path:
    return directory.path / "up.json"


def read_error(directory: RunDirectory) -> InvalidSpec | None:
    """The error, if any, that a process of the service has left and that no restart removes."""
    for file in [
        *sorted(directory.path.glob("*error.json")),
        *sorted(directory.path.glob("engine-*/error.json")),
    ]:
        try:
            error = msgspec.json.decode(file.read_bytes(), type=SpecError)
        except (OSError, msgspec.DecodeError):
            continue
        return InvalidSpec(error.path, Words(error.given), error.allowed)
    return None


def remove(directory: RunDirectory) -> None:
    shutil.rmtree(directory.path, ignore_errors=True)


def roots(environment: Mapping[str, str]) -> list[Path]:
    """Where services are looked for, the one for new services first."""
    shared = Path(f"/tmp/semipd-{os.getuid()}")  # noqa: S108  (its owner and mode are checked)
    runtime = environment.get("XDG_RUNTIME_DIR")
    return [Path(runtime) / "semipd", shared] if runtime and os.path.isdir(runtime) else [shared]


def claim(path: Path) -> tuple[RunDirectory, int]:
    """Make `path` private and ours; what a dead service left in it is removed.

    Returns the directory and a file descriptor that owns it until it is closed.
    Raises: InvalidSpec if it belongs to somebody else, to another living `semipd up`, or holds other people's files.
    """
    directory = RunDirectory(path.absolute())
    if len(os.fsencode(directory.path)) + len(_LONGEST_SOCKET) > _SOCKET_PATH_BYTES:
        limit = _SOCKET_PATH_BYTES - len(_LONGEST_SOCKET)
        raise InvalidSpec(_FLAG, str(path), f"a path of at most {limit} bytes (unix sockets)")
    _make_private(directory.path.parent if path.parent in roots(os.environ) else None)
    _make_private(directory.path)
    names = {entry.name for entry in directory.path.iterdir()}
    if names and not names & _OWN_FILES:
        raise InvalidSpec(_FLAG, str(path), "a directory that is empty or that `semipd up` has made")
    lock = os.open(directory.path / "up.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        record = read_record(directory)
        owner = f"in use by `semipd up` with pid {record.pid}" if record else "in use by another `semipd up`"
        raise InvalidSpec(_FLAG, str(path), f"a directory of its own; this one is {owner}") from None
    return directory, lock


def clear(directory: RunDirectory) -> None:
    """Remove what an earlier service left; `up.lock` is held by the caller and stays."""
    for entry in directory.path.iterdir():
        if entry.name == "up.lock":
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _make_private(path: Path | None) -> None:
    if path is None:
        return
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        facts = path.lstat()
    except OSError as error:
        raise InvalidSpec(_FLAG, str(path), f"a directory that can be made ({error.strerror})") from None
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid():
        raise InvalidSpec(_FLAG, str(path), "a directory of your own, not a link")
    if stat.S_IMODE(facts.st_mode) != 0o700:
        path.chmod(0o700)


def find(given: str | None) -> RunDirectory:
    """The directory named by `--run-dir`, or that of the only service.

    Raises: InvalidSpec if there is none, or if there are several to choose from.
    """
    if given is not None:
        if not (Path(given) / "up.json").exists():
            raise InvalidSpec(_FLAG, given, "the run directory of a running service (no up.json there)")
        return RunDirectory(Path(given).absolute())
    found = _services()
    if len(found) == 1:
        return found[0]
    where = ", ".join(map(str, roots(os.environ)))
    if not found:
        allowed = f"a running service (none in {where}); `semipd up -f FILE` starts one"
        raise InvalidSpec(_FLAG, NOTHING, allowed)
    choices = ", ".join(str(directory.path) for directory in found)
    raise InvalidSpec(_FLAG, Words("nothing, with several services running"), f"one of {choices}")


def living() -> list[RunDirectory]:
    """Where a `semipd up` of this user lives."""
    return [found for found in _recorded() if (record := read_record(found)) and is_alive(record.identity)]


def _services() -> list[RunDirectory]:
    """Directories with a record; those whose `semipd up` lives hide the others."""
    return living() or _recorded()


def _recorded() -> list[RunDirectory]:
    return [
        RunDirectory(file.parent) for root in roots(os.environ) for file in sorted(root.glob("*/up.json"))
    ]
