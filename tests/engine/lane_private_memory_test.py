"""What a lane says that it holds for itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from semipd_engine.lane.private_memory import device_bytes_of, read_host_bytes


@pytest.mark.parametrize(
    ("status", "num_bytes"),
    [
        pytest.param(
            "Name:\tpython\nVmRSS:\t  9000 kB\nRssAnon:\t  3000 kB\nRssFile:\t  5000 kB\n",
            3000 << 10,
            id="its anonymous pages, not the weights that it maps",
        ),
        pytest.param("Name:\tkthread\n", 0, id="nobody tells"),
    ],
)
def test_host_memory_of_a_lane(tmp_path: Path, status: str, num_bytes: int) -> None:
    (tmp_path / "status").write_text(status)
    assert read_host_bytes(tmp_path / "status") == num_bytes


@pytest.mark.parametrize(
    ("before", "after", "reserved_bytes", "num_bytes"),
    [
        pytest.param(100, 160, 40, 60, id="what the GPU has less since it came"),
        pytest.param(100, 110, 40, 40, id="others ended meanwhile: at least what its allocator took"),
        pytest.param(None, 160, 40, 0, id="the driver did not tell at first"),
        pytest.param(100, None, 40, 0, id="or does no more"),
    ],
)
def test_device_memory_of_a_lane(
    before: int | None, after: int | None, reserved_bytes: int, num_bytes: int
) -> None:
    assert device_bytes_of(before, after, reserved_bytes) == num_bytes
