"""The bundle's list covers what serving imports, and its versions and hashes are the lock's."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from gpu_bench.bundle import LOCK, MACHINE, PACKAGES, BundleRefused, missing, read_pins, requirements

ROOT = Path(__file__).parents[2]
SOURCES = ("core", "engine", "agent", "operator", "cli", "bench", "bench/gpu")
SERVING = (
    "semipd_cli.up", "semipd_cli.profile", "semipd_cli.init.serve", "semipd_agent.__main__", "semipd_agent.device.nvml",
    "semipd_engine.frontend.__main__", "semipd_engine.coordinator.__main__", "semipd_engine.memory.__main__",
    "semipd_engine.lane.zygote", "semipd_bench.service", "semipd_bench.load", "semipd_bench.switch",
    "gpu_bench.goodput_runs", "gpu_bench.live_switch", "gpu_bench.steps", "pynvml",
)  # fmt: skip
LOCK_PART = """\
Big==1.0 ; python_version < '3.12' \\
    --hash=sha256:{a} \\
    --hash=sha256:{b}
    # via something
big==2.0 ; python_version >= '3.12' \\
    --hash=sha256:{b}
bare==3.1
""".format(a="a" * 64, b="b" * 64)


def closure(names):
    """Of installed distributions, by what they require, extras left out."""
    found, open_names = set(), list(names)
    while open_names:
        name = open_names.pop().lower().replace("_", "-")
        if name in found:
            continue
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        found.add(name)
        open_names += [
            re.split(r"[^A-Za-z0-9._-]", requirement)[0]
            for requirement in distribution.requires or []
            if "extra ==" not in requirement
        ]
    return found


def link_only(names, folder: Path) -> None:
    """Into `folder`: the top-level files of these distributions and of no others."""
    folder.mkdir()
    for name in names:
        distribution = importlib.metadata.distribution(name)
        for file in distribution.files or []:
            top = file.parts[0]
            if top not in ("..", "__pycache__") and not (folder / top).exists():
                (folder / top).symlink_to(Path(str(distribution.locate_file(top))))


@pytest.mark.slow
def test_everything_that_serving_imports_is_in_the_bundle_or_on_the_machine(tmp_path):
    link_only([*PACKAGES, *closure(MACHINE)], tmp_path / "site")
    paths = [*(str(ROOT / source) for source in SOURCES), str(tmp_path / "site")]
    script = "\n".join(f"import {module}" for module in SERVING)
    done = subprocess.run(
        [sys.executable, "-S", "-c", script],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_list_is_pinned_with_hashes_in_the_lock():
    text = requirements(LOCK.read_text())
    assert text.count("--hash=sha256:") >= 2 * len(PACKAGES)
    assert not set(PACKAGES) & set(MACHINE)
    assert sorted(PACKAGES) == list(PACKAGES)


def test_every_pin_of_a_name_keeps_its_own_hashes():
    pins = read_pins(LOCK_PART)
    assert [(pin.split()[0], len(hashes)) for pin, hashes in pins["big"]] == [
        ("Big==1.0", 2),
        ("big==2.0", 1),
    ]


@pytest.mark.parametrize("name", ["bare", "absent"])
def test_a_package_without_a_pin_or_a_hash_is_refused(name):
    with pytest.raises(BundleRefused, match=f"{name}: not pinned with hashes"):
        requirements(LOCK_PART, [name])


def test_a_folder_without_a_package_or_with_another_version_of_it_is_not_whole(tmp_path):
    assert missing(tmp_path, LOCK_PART, ["big"]) == ["big"]
    (tmp_path / "big-1.5.dist-info").mkdir()
    assert missing(tmp_path, LOCK_PART, ["big"]) == ["big"]
    (tmp_path / "big-1.5.dist-info").rename(tmp_path / "big-2.0.dist-info")
    assert missing(tmp_path, LOCK_PART, ["big"]) == []
