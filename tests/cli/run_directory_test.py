"""A run directory is private, belongs to one living `semipd up`, and is found without being named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from semipd_agent.processes.identity import read_identity
from semipd_agent.run_directory import RunDirectory
from semipd_cli import run_directory
from semipd_core.errors import InvalidSpec


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("r") / "chat"


def record(directory: RunDirectory, pid: int | None = None) -> None:
    own = read_identity(os.getpid())
    assert own is not None
    run_directory.write_record(
        directory,
        run_directory.UpRecord(
            pid=pid or own.pid,
            start_ticks=own.start_ticks,
            boot_id=own.boot_id,
            url="http://x/v1",
            service="chat",
        ),
    )


def test_it_is_made_private(place: Path) -> None:
    directory, lock = run_directory.claim(place)
    os.close(lock)
    assert directory.path.stat().st_mode & 0o777 == 0o700


def test_an_open_one_is_closed_to_others(place: Path) -> None:
    place.mkdir(mode=0o755)
    _, lock = run_directory.claim(place)
    os.close(lock)
    assert place.stat().st_mode & 0o777 == 0o700


def test_it_belongs_to_one_at_a_time(place: Path) -> None:
    directory, lock = run_directory.claim(place)
    record(directory)
    with pytest.raises(InvalidSpec, match=f"in use by `semipd up` with pid {os.getpid()}"):
        run_directory.claim(place)
    os.close(lock)
    _, lock = run_directory.claim(place)
    os.close(lock)


def test_files_of_others_are_left_alone(place: Path) -> None:
    place.mkdir()
    (place / "thesis.tex").touch()
    with pytest.raises(InvalidSpec, match="a directory that is empty or that `semipd up` has made"):
        run_directory.claim(place)
    assert (place / "thesis.tex").exists()


def test_a_link_is_refused(place: Path) -> None:
    (place.parent / "elsewhere").mkdir()
    place.symlink_to("elsewhere")
    with pytest.raises(InvalidSpec, match="a directory of your own, not a link"):
        run_directory.claim(place)


def test_a_path_too_long_for_a_socket_is_refused(place: Path) -> None:
    with pytest.raises(InvalidSpec, match="unix sockets"):
        run_directory.claim(place / ("x" * 90))


def test_what_a_dead_service_left_is_cleared(place: Path) -> None:
    directory, lock = run_directory.claim(place)
    (place / "service.json").touch()
    (place / "engine-0").mkdir()
    (place / "engine-0" / "error.json").write_text('{"path": "p", "given": "g", "allowed": "a"}')
    run_directory.clear(directory)
    assert [entry.name for entry in place.iterdir()] == ["up.lock"]
    os.close(lock)


@pytest.mark.parametrize("name", ["error.json", "proxy-error.json", "engine-1/error.json"])
def test_an_error_left_by_any_process_is_read(place: Path, name: str) -> None:
    (place / "engine-1").mkdir(parents=True)
    directory = RunDirectory(place)
    assert run_directory.read_error(directory) is None
    (place / name).write_text('{"path": "spec.model.uri", "given": "file:///x", "allowed": "a file"}')
    assert str(run_directory.read_error(directory)) == "spec.model.uri: got file:///x, allowed: a file"


def service_in(root: Path, name: str, pid: int | None = None) -> RunDirectory:
    directory = RunDirectory(root / "semipd" / name)
    directory.path.mkdir(parents=True)
    record(directory, pid)
    return directory


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(run_directory, "roots", lambda _: [tmp_path / "semipd"])
    return tmp_path


def test_the_only_service_is_found(root: Path) -> None:
    directory = service_in(root, "chat")
    assert run_directory.find(None) == directory


def test_of_several_the_living_one_is_found(root: Path) -> None:
    service_in(root, "dead", pid=2**22 + 1)
    directory = service_in(root, "chat")
    assert run_directory.find(None) == directory


def test_a_dead_one_alone_is_found_for_down(root: Path) -> None:
    directory = service_in(root, "dead", pid=2**22 + 1)
    assert run_directory.find(None) == directory


@pytest.mark.parametrize(
    ("names", "message"),
    [
        pytest.param([], "a running service", id="none"),
        pytest.param(["a", "b"], r"several services running, allowed: one of .*/a, .*/b", id="several"),
    ],
)
def test_no_single_service(root: Path, names: list[str], message: str) -> None:
    for name in names:
        service_in(root, name)
    with pytest.raises(InvalidSpec, match=message):
        run_directory.find(None)


def test_a_named_directory_must_be_one(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match=r"no up\.json there"):
        run_directory.find(str(tmp_path))


def test_services_are_kept_in_the_runtime_directory_of_the_user(tmp_path: Path) -> None:
    shared = Path(f"/tmp/semipd-{os.getuid()}")
    assert run_directory.roots({"XDG_RUNTIME_DIR": str(tmp_path)}) == [tmp_path / "semipd", shared]
    assert run_directory.roots({}) == [shared]
    assert run_directory.roots({"XDG_RUNTIME_DIR": str(tmp_path / "gone")}) == [shared]
