"""Images without a registry: archives built from files, and archives imported into a node's containerd."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from semipd_cluster.errors import ClusterError

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def write_image(archive: Path, reference: str, files: Mapping[str, Path], command: Sequence[str]) -> Path:
    """An image of one layer: `files` maps paths in the image to programs and files of this machine."""
    layer = _build_layer(files)
    configuration = json.dumps(
        {
            "architecture": ARCHITECTURES[platform.machine()],
            "os": "linux",
            "config": {"Entrypoint": list(command)},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        }
    )
    manifest = [{"Config": "config.json", "RepoTags": [reference], "Layers": ["layer.tar"]}]
    with tarfile.open(archive, "w") as tar:
        _add(tar, "config.json", configuration.encode())
        _add(tar, "layer.tar", layer)
        _add(tar, "manifest.json", json.dumps(manifest).encode())
    return archive


def _build_layer(files: Mapping[str, Path]) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for name, path in files.items():
            _add(tar, name.lstrip("/"), path.read_bytes(), path.stat().st_mode & 0o777)
    return content.getvalue()


def _add(tar: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    entry.mode = mode
    tar.addfile(entry, io.BytesIO(content))


def import_archives(sockets: Sequence[Path], archives: Sequence[Path]) -> None:
    """Every archive into every containerd, one archive at a time into all of them. Raises: ClusterError."""
    for archive in archives:
        commands = [
            ["ctr", "--address", str(socket), "--namespace", "k8s.io", "images", "import", str(archive)]
            for socket in sockets
        ]
        started = [
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            for command in commands
        ]
        outputs = [process.communicate()[0] for process in started]
        for process, output in zip(started, outputs, strict=True):
            if process.returncode != 0:
                raise ClusterError(f"{archive} is not imported:\n{output}")
