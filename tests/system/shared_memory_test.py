"""/proc/*/smaps of a running engine: weights exist once, and no process but the lanes is heavy."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from running_service import LANE_ROLES, RunningService, service_manifest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
LIGHT_PROCESS_KIB = 120 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapping:
    inode: int
    permissions: str
    size_kib: int
    pss_kib: int
    anonymous_kib: int


def weights_mappings(pid: int) -> list[Mapping]:
    """The mappings of the weights memfd in one process."""
    found = []
    for block in re.split(r"(?m)^(?=[0-9a-f]+-[0-9a-f]+ )", Path(f"/proc/{pid}/smaps").read_text()):
        head, _, rest = block.partition("\n")
        fields = head.split(maxsplit=5)
        if len(fields) == 6 and "memfd:semipd-weights" in fields[5]:
            kib = dict(re.findall(r"(?m)^(\w+): +(\d+) kB", rest))
            found.append(
                Mapping(
                    inode=int(fields[4]),
                    permissions=fields[1],
                    size_kib=int(kib["Size"]),
                    pss_kib=int(kib["Pss"]),
                    anonymous_kib=int(kib["Anonymous"]),
                )
            )
    return found


def rss_kib(pid: int) -> int:
    match = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert match is not None
    return int(match[1])


async def test_weights_exist_once_per_engine(tmp_path: Path) -> None:
    """On the embedded model, with a switch in between: the replaced lane maps the same inode."""
    manifest = service_manifest("builtin://smollm2-135m")
    with RunningService(tmp_path, manifest) as service:
        await service.complete_all([[5, 6, 7]] * 4, 4)
        assert service.put_wish(60, 100, "switch").status_code == 200
        service.wait_until(lambda: service.is_settled(60, 100))
        await service.complete_all([[5, 6, 8]] * 4, 4)
        processes = service.status()["engines"][0]["processes"]
        lanes = {
            each["role"]: weights_mappings(each["pid"]) for each in processes if each["role"] in LANE_ROLES
        }
        memory = weights_mappings(service.pid("memory"))
        everything = [mapping for mappings in [*lanes.values(), memory] for mapping in mappings]
        assert set(lanes) == {"prefill", "decode"}
        assert all(lanes.values())
        assert len({mapping.inode for mapping in everything}) == 1
        assert [mapping.anonymous_kib for mapping in everything] == [0] * len(everything)
        assert all(mapping.permissions == "r--s" for mappings in lanes.values() for mapping in mappings)
        arena_kib = max(mapping.size_kib for mapping in everything)
        assert sum(mapping.pss_kib for mapping in everything) <= arena_kib
        light = {
            each["role"]: rss_kib(each["pid"])
            for each in [service.status()["agent"], *processes]
            if each["role"] in {"agent", "coordinator", "frontend"}
        }
        assert len(light) == 3
        assert max(light.values()) < LIGHT_PROCESS_KIB, light
        for role in light:
            maps = Path(f"/proc/{service.pid(role)}/maps").read_text()
            assert "libtorch" not in maps
