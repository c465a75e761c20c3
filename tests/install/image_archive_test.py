"""An image's archive is read by its layers, and a package is found in whichever has it."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
from image_archive import paths_of_package, read_layers

PACKAGES = "opt/semipd/lib/python3.11/site-packages"


def tar(files: dict[str, bytes]) -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return written.getvalue()


def test_layers_come_in_the_images_order(tmp_path: Path) -> None:
    low, high = tar({"bin/sh": b"x"}), tar({f"{PACKAGES}/torch/__init__.py": b"x" * 20_000})
    manifest = json.dumps([{"Config": "c.json", "Layers": ["low.tar", "high.tar"]}]).encode()
    path = tmp_path / "image.tar"
    path.write_bytes(tar({"high.tar": high, "low.tar": low, "manifest.json": manifest}))
    layers = read_layers(path)
    assert [layer.size for layer in layers] == [len(low), len(high)]
    assert layers[0].paths == ("bin/sh",)
    assert paths_of_package(layers, "torch") == [f"{PACKAGES}/torch/__init__.py"]


@pytest.mark.parametrize(
    ("path", "is_torch"),
    [
        (f"{PACKAGES}/torch/__init__.py", True),
        (f"{PACKAGES}/torch", True),
        (f"{PACKAGES}/torch-2.9.1.dist-info/RECORD", True),
        ("usr/lib/python3/dist-packages/torch.py", True),
        (f"{PACKAGES}/torchvision/__init__.py", False),
        (f"{PACKAGES}/semipd_engine/torch/__init__.py", False),
    ],
)
def test_what_is_a_package(tmp_path: Path, path: str, is_torch: bool) -> None:
    archive = tmp_path / "image.tar"
    manifest = json.dumps([{"Layers": ["only.tar"]}]).encode()
    archive.write_bytes(tar({"manifest.json": manifest, "only.tar": tar({path: b""})}))
    assert bool(paths_of_package(read_layers(archive), "torch")) is is_torch
