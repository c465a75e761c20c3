"""The packages that serving needs and that a machine with torch, triton and cuda-bindings lacks, unpacked into one folder.

    bench/gpu/bundle [--out out/bundle] [--python 3.12] [--uv UV]

Versions and hashes are those of requirements/dev.txt: uv refuses a wheel whose hash is not there. The folder goes on PYTHONPATH:
nothing is installed on the machine. With `--tar` it also becomes one file.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
LOCK = ROOT / "requirements" / "dev.txt"
LARGEST_BYTES = 56 << 20  # with the source tree it is carried in 64 MiB
PYTHON_FILE = "PYTHON"  # in the folder: which Python it is for
PLATFORM = "x86_64-manylinux_2_28"

# What `semipd up`, its processes, `semipd profile` and the load generator import.
PACKAGES = (
    "annotated-doc", "annotated-types", "anyio", "certifi", "click", "fastapi", "gguf", "h11", "httpcore", "httpx",
    "idna", "jinja2", "markdown-it-py", "markupsafe", "mdurl", "msgspec", "nvidia-ml-py", "opentelemetry-api",
    "prometheus-client", "pydantic",
    "pydantic-core", "pydantic-settings", "pygments", "python-dotenv", "pyyaml", "rich", "starlette", "structlog",
    "tokenizers", "tqdm", "typing-extensions", "typing-inspection", "uvicorn", "uvloop",
)  # fmt: skip
# What the machine must have itself; numpy is torch's companion there.
MACHINE = ("torch", "triton", "cuda-bindings", "numpy")

_PIN = re.compile(r"^([a-z0-9][a-z0-9._-]*)==([^ ;\\]+)", re.IGNORECASE)
_HASH = re.compile(r"--hash=(sha256:[0-9a-f]{64})")


class BundleRefused(Exception):
    """The lock does not have what is needed, or it does not fit."""


def read_pins(lock: str) -> dict[str, list[tuple[str, list[str]]]]:
    """By name, each pin's line without its continuation mark, and its hashes: a name may be pinned per Python."""
    pins: dict[str, list[tuple[str, list[str]]]] = {}
    hashes: list[str] = []
    for line in lock.splitlines():
        if found := _PIN.match(line):
            hashes = []
            pins.setdefault(found[1].lower(), []).append((line.rstrip("\\ "), hashes))
        else:
            hashes += _HASH.findall(line)
    return pins


def requirements(lock: str, packages: Iterable[str] = PACKAGES) -> str:
    """The part of `lock` about `packages`, hashes included. Raises: BundleRefused for a name without a pin or hash."""
    pins = read_pins(lock)
    lines = []
    for name in packages:
        if name not in pins or not all(hashes for _, hashes in pins[name]):
            raise BundleRefused(f"{name}: not pinned with hashes in requirements/dev.txt")
        lines += [
            " \\\n    ".join([pin, *(f"--hash={each}" for each in hashes)]) for pin, hashes in pins[name]
        ]
    return "\n".join(lines) + "\n"


def folder_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def gather(uv: Sequence[str], out: Path, python: str, lock: str) -> int:
    """Fill `out` anew; its size in bytes. Raises: BundleRefused, with uv's words if it was uv."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as directory:
        wanted, target = Path(directory) / "requirements.txt", Path(directory) / "bundle"
        wanted.write_text(requirements(lock))
        command = [
            *uv, "pip", "install", "--require-hashes", "--no-deps", "--only-binary", ":all:",
            "--python-version", python, "--python-platform", PLATFORM, "--target", str(target), "-r", str(wanted),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BundleRefused(f"uv: {done.stderr.strip()}")
        size = folder_bytes(target)
        if size > LARGEST_BYTES:
            raise BundleRefused(f"{size / 2**20:.1f} MiB, allowed: {LARGEST_BYTES / 2**20:.0f} MiB")
        (target / PYTHON_FILE).write_text(python)
        shutil.rmtree(out, ignore_errors=True)
        target.rename(out)
    return size


def require_same_python(folder: Path) -> None:
    """Raises: ValueError for a bundle of another Python, whose compiled modules cannot be imported; none is as good as any."""
    file = folder / PYTHON_FILE
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    if file.exists() and (given := file.read_text().strip()) != here:
        raise ValueError(
            f"--bundle: got {folder} for Python {given}, allowed: one for {here} (bench/gpu/bundle --python {here})"
        )


def missing(folder: Path, lock: str, packages: Iterable[str] = PACKAGES) -> list[str]:
    """Packages of which `folder` does not hold the pinned version."""
    there: Mapping[str, str] = {
        path.name.removesuffix(".dist-info").rpartition("-")[0].lower().replace("_", "-"): path.name
        for path in folder.glob("*.dist-info")
    }
    pins = read_pins(lock)
    return [
        name
        for name in packages
        if not any(f"-{_version(pin)}.dist-info" in there.get(name, "") for pin, _ in pins.get(name, []))
    ]


def _version(pin: str) -> str:
    found = _PIN.match(pin)
    assert found is not None
    return found[2]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench/gpu/bundle", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--out", type=Path, default=ROOT / "out" / "bundle", help="folder (default: %(default)s)"
    )
    parser.add_argument("--python", default="3.12", help="of the GPU's machine (default: %(default)s)")
    parser.add_argument("--uv", default="uv", help="the program (default: %(default)s)")
    parser.add_argument("--tar", action="store_true", help="also FOLDER.tar.xz")
    arguments = parser.parse_args(argv)
    try:
        size = gather([arguments.uv], arguments.out, arguments.python, LOCK.read_text())
    except (BundleRefused, OSError) as error:
        print(f"bundle: {error}", file=sys.stderr)
        return 1
    absent = missing(arguments.out, LOCK.read_text())
    if absent:
        print(f"bundle: not there after all: {', '.join(absent)}", file=sys.stderr)
        return 1
    print(f"{arguments.out}: {len(PACKAGES)} packages, {size / 2**20:.1f} MiB")
    if arguments.tar:
        file = arguments.out.with_name(f"{arguments.out.name}.tar.xz")
        with tarfile.open(file, "w:xz") as tar:
            tar.add(arguments.out, arcname=arguments.out.name)
        print(f"{file}: {file.stat().st_size / 2**20:.1f} MiB")
    return 0
