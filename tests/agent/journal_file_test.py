"""The journal survives torn lines and full disks, and says the same after it was compacted."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semipd_agent.journal import entries as entry
from semipd_agent.journal import file as journal_file
from semipd_agent.journal.file import Journal, JournalUnwritable
from semipd_agent.journal.recovery import Journalled, JournalledEngine, recover, snapshot
from semipd_core.agent_config import PartitionWire, SwitchStatus, WishWire
from semipd_core.errors import InvalidSpec
from semipd_core.partition import Role
from semipd_core.repartition import Phase

ENGINES = ("engine-0", "engine-1")
FROM = PartitionWire(prefill_percent=80, decode_percent=100)
TO = PartitionWire(prefill_percent=40, decode_percent=100)


def switch(
    decision_id: str = "d-1", outcome: str = "Switching", seconds: float | None = None
) -> SwitchStatus:
    return SwitchStatus(
        decision_id=decision_id,
        at_s=1.0,
        from_partition=FROM,
        to_partition=TO,
        reason="Manual",
        message="",
        seconds=seconds,
        outcome=outcome,
    )


def wish(decision_id: str = "d-1") -> WishWire:
    return WishWire(target=TO, decision_id=decision_id)


def started(name: str, pid: int = 7) -> entry.Started:
    return entry.Started(process=name, pid=pid, start_ticks=1, boot_id="boot")


BEGUN = [
    entry.WishTaken(wish=wish(), engine_ids=["engine-0"]),
    entry.SwitchBegun(engine_id="engine-0", switch=switch()),
]
SENT = [*BEGUN, entry.SwapSending(engine_id="engine-0")]
EFFECTIVE = [*SENT, entry.SwitchEffective(engine_id="engine-0", seconds=0.5)]


@pytest.mark.parametrize(
    ("entries", "phase", "partition", "is_open"),
    [
        pytest.param([], Phase.STARTING, None, False, id="nothing is journalled: start anew"),
        pytest.param(BEGUN[:1], Phase.STARTING, None, True, id="a wish without a switch stays open"),
        pytest.param(BEGUN, Phase.ROLLING_BACK, None, True, id="a switch without a swap is rolled back"),
        pytest.param(SENT, Phase.SWAPPING, TO, True, id="a switch whose swap was being sent is finished"),
        pytest.param(EFFECTIVE, Phase.RETIRING, TO, True, id="an effective switch retires its old lanes"),
        pytest.param(
            [*SENT, entry.SwitchRollingBack(engine_id="engine-0")],
            Phase.ROLLING_BACK,
            FROM,
            True,
            id="a switch that was being rolled back goes on so",
        ),
        pytest.param(
            [*EFFECTIVE, entry.SwitchEnded(engine_id="engine-0", switch=switch(outcome="Done", seconds=0.5))],
            Phase.STARTING,
            TO,
            False,
            id="a done switch leaves its target in force",
        ),
        pytest.param(
            [*BEGUN, entry.SwitchEnded(engine_id="engine-0", switch=switch(outcome="RolledBack"))],
            Phase.STARTING,
            FROM,
            False,
            id="a refused wish is concluded",
        ),
        pytest.param(
            [
                *BEGUN,
                entry.SwitchEnded(engine_id="engine-0", switch=switch(outcome="RolledBack"), is_open=True),
            ],
            Phase.STARTING,
            FROM,
            True,
            id="an interrupted wish stays open",
        ),
        pytest.param(
            [
                *BEGUN,
                entry.WishTaken(wish=wish("d-2"), engine_ids=["engine-0"]),
                entry.SwitchEnded(engine_id="engine-0", switch=switch(outcome="RolledBack")),
            ],
            Phase.STARTING,
            FROM,
            True,
            id="a wish that came during the switch stays open when it ends",
        ),
    ],
)
def test_what_the_journal_says_of_an_engine(
    entries: list[entry.AnyEntry], phase: Phase, partition: PartitionWire | None, is_open: bool
) -> None:
    engine = recover(entries).engines.get("engine-0", JournalledEngine())
    assert (engine.resumed_phase, engine.partition, engine.is_open) == (phase, partition, is_open)


def test_processes_are_those_started_and_not_exited() -> None:
    state = recover(
        [
            entry.Starting(process="zygote"),
            started("zygote"),
            entry.Starting(process="engine-0/prefill-1", lane_role=Role.PREFILL, percent=80),
            entry.Starting(process="engine-0/memory"),
            started("engine-0/memory", pid=8),
            entry.Exited(process="engine-0/memory"),
        ]
    )
    assert {name: process.started is not None for name, process in state.processes.items()} == {
        "zygote": True,
        "engine-0/prefill-1": False,
    }


def _histories() -> st.SearchStrategy[list[entry.AnyEntry]]:
    engine = st.sampled_from(ENGINES)
    decision = st.sampled_from(["d-1", "d-2"])
    name = st.sampled_from(["zygote", "engine-0/memory", "engine-0/prefill-1"])
    process = st.one_of(
        st.builds(entry.Starting, process=name),
        st.builds(started, name),
        st.builds(entry.Exited, process=name),
        st.builds(lambda e, d: entry.WishTaken(wish=wish(d), engine_ids=[e]), engine, decision),
        st.builds(lambda e: entry.SharesInForce(engine_id=e, partition=FROM), engine),
    )
    whole_switch = st.builds(
        _switch_entries, engine, decision, st.integers(1, 5), st.booleans(), st.booleans()
    )
    return st.lists(st.one_of(process.map(lambda item: [item]), whole_switch), max_size=12).map(
        lambda groups: [item for group in groups for item in group]
    )


def _switch_entries(
    engine_id: str, decision_id: str, length: int, is_done: bool, is_open: bool
) -> list[entry.AnyEntry]:
    """A switch of `engine_id`, cut off after `length` entries: nothing else of the engine follows a cut in a real journal."""
    middle: list[entry.AnyEntry] = (
        [entry.SwapSending(engine_id=engine_id), entry.SwitchEffective(engine_id=engine_id, seconds=0.5)]
        if is_done
        else [entry.SwitchRollingBack(engine_id=engine_id)]
    )
    ended = switch(decision_id, "Done" if is_done else "RolledBack", 0.5 if is_done else None)
    entries: list[entry.AnyEntry] = [
        entry.SwitchBegun(engine_id=engine_id, switch=switch(decision_id)),
        *middle,
        entry.SwitchEnded(engine_id=engine_id, switch=ended, is_open=is_open),
    ]
    return entries[:length]


@given(_histories())
def test_a_snapshot_says_what_the_entries_said(entries: list[entry.AnyEntry]) -> None:
    state = recover(entries)
    assert recover(snapshot(state)) == state


@given(_histories(), st.integers(0, 200))
def test_a_torn_last_line_is_as_if_it_had_not_been_written(entries: list[entry.AnyEntry], cut: int) -> None:
    whole = b"".join(map(entry.encode, entries))
    torn = entry.encode(entry.Starting(process="torn"))
    items = list(
        journal_file._decode(Path("journal"), (whole + torn[: min(cut, len(torn) - 1)]).split(b"\n")[:-1])
    )
    assert recover(items) == recover(entries)


def test_what_is_appended_after_a_torn_line_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    Journal(path).append(entry.Starting(process="zygote"))
    with path.open("ab") as file:
        file.write(b'{"entry":"Starting","process":"a name that is torn off, longer than what follows')
    Journal(path).append(entry.Starting(process="proxy"))
    assert list(Journal(path).state.processes) == ["zygote", "proxy"]


def test_a_defect_before_the_last_line_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(
        entry.encode(entry.Opened()) + b"nonsense\n" + entry.encode(entry.Starting(process="zygote"))
    )
    with pytest.raises(InvalidSpec, match=r"journal\.jsonl:2: got 'nonsense'"):
        Journal(path)


def test_a_journal_of_another_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(entry.encode(entry.Opened(version=2)))
    with pytest.raises(InvalidSpec, match=r"journal\.jsonl:1\.version: got 2, allowed: 1"):
        Journal(path)


def test_a_long_journal_is_compacted_and_says_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_file, "COMPACT_ABOVE_BYTES", 4096)
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    for number in range(200):
        journal.append(entry.Starting(process=f"lane-{number}"))
        journal.append(entry.Exited(process=f"lane-{number}"))
    journal.append(entry.Starting(process="zygote"))
    assert path.stat().st_size < 5000
    assert Journal(path).state == journal.state == recover([entry.Starting(process="zygote")])


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """16 KiB of tmpfs; needs the right to mount."""
    directory = tmp_path / "disk"
    directory.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(directory)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"no right to mount: {mounted.stderr.decode().strip()}")
    yield directory
    subprocess.run(["umount", "-l", str(directory)], check=True)


def test_a_full_disk_refuses_the_action_and_leaves_nothing_half_written(tiny_disk: Path) -> None:
    path = tiny_disk / "journal.jsonl"
    journal = Journal(path)
    ballast = tiny_disk / "ballast"
    ballast.write_bytes(b"x" * 8192)
    names = []
    with pytest.raises(JournalUnwritable, match="No space left on device"):
        for number in range(10_000):
            journal.append(entry.Starting(process=f"process-{number}"))
            names.append(f"process-{number}")
    assert list(journal.state.processes) == names
    assert path.read_bytes().endswith(b"\n")
    with pytest.raises(JournalUnwritable):
        while True:
            journal.append(entry.Exited(process="x"))
    journal.note(entry.Exited(process="process-0"))
    assert journal.problem == "journal.jsonl: 1 entries wait for the disk"
    ballast.unlink()
    journal.append(entry.Starting(process="after"))
    assert journal.problem is None
    assert list(Journal(path).state.processes) == [*names[1:], "after"]


def test_the_limit_of_a_files_size_is_a_full_disk_too(tmp_path: Path) -> None:
    """RLIMIT_FSIZE writes what fits before it refuses: the torn part must go."""
    path = tmp_path / "journal.jsonl"
    program = f"""
import resource, signal
from pathlib import Path
from semipd_agent.journal import entries as entry
from semipd_agent.journal.file import Journal, JournalUnwritable
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
journal = Journal(Path({str(path)!r}))
resource.setrlimit(resource.RLIMIT_FSIZE, (500, resource.RLIM_INFINITY))
try:
    while True:
        journal.append(entry.Starting(process="x" * 50))
except JournalUnwritable as error:
    print(error)
"""
    said = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert said.stdout == "journal.jsonl: File too large\n"
    lines = path.read_bytes().split(b"\n")
    assert lines[-1] == b""
    assert all(entry.decode(line) for line in lines[:-1])


def test_a_journal_in_a_missing_directory_is_said(tmp_path: Path) -> None:
    with pytest.raises(JournalUnwritable, match=r"journal\.jsonl: No such file"):
        Journal(tmp_path / "missing" / "journal.jsonl")


def test_removal_leaves_no_file(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.remove()
    assert os.listdir(tmp_path) == []


def test_states_are_values() -> None:
    assert msgspec.json.decode(msgspec.json.encode(recover(BEGUN))) is not None
    assert Journalled() == recover([])
