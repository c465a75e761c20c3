"""What a pod may still take of the host's memory, from the kernel's own files."""

from __future__ import annotations

from pathlib import Path

import pytest

from semipd_agent.device.host_memory import read_free_bytes

MEMINFO = "MemTotal:       24000000 kB\nMemFree:         1000000 kB\nMemAvailable:    8000000 kB\n"
STAT = "anon 5000\nfile 4000\ninactive_file 1500\nactive_file 2500\n"
AVAILABLE_BYTES = 8_000_000 << 10


@pytest.mark.parametrize(
    ("files", "free_bytes"),
    [
        pytest.param({}, AVAILABLE_BYTES, id="no control group"),
        pytest.param({"memory.max": "max\n"}, AVAILABLE_BYTES, id="a pod without a limit"),
        pytest.param(
            {"memory.max": "10000\n", "memory.current": "7000\n", "memory.stat": STAT},
            4500,
            id="cached files are free",
        ),
        pytest.param(
            {"memory.max": "10000\n", "memory.current": "12000\n", "memory.stat": STAT},
            0,
            id="over the limit",
        ),
        pytest.param(
            {"memory.max": str(1 << 50), "memory.current": "1", "memory.stat": STAT},
            AVAILABLE_BYTES,
            id="a limit that the host cannot give",
        ),
    ],
)
def test_free_memory(tmp_path: Path, files: dict[str, str], free_bytes: int) -> None:
    (tmp_path / "meminfo").write_text(MEMINFO)
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert read_free_bytes(tmp_path / "meminfo", tmp_path) == free_bytes


def test_without_a_word_of_the_kernel_nobody_knows(tmp_path: Path) -> None:
    assert read_free_bytes(tmp_path / "meminfo", tmp_path) is None
    (tmp_path / "meminfo").write_text("MemTotal: 1 kB\n")
    assert read_free_bytes(tmp_path / "meminfo", tmp_path) is None
