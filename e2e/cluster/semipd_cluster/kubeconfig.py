"""Writes kubeconfigs that hold their certificates, so that a copy works anywhere on the machine."""

from __future__ import annotations

import base64
import json
from pathlib import Path

from semipd_cluster.certificates import Authority, KeyPair

NAME = "semipd"


def write_kubeconfig(path: Path, server: str, authority: Authority, user: KeyPair) -> Path:
    """JSON, which every reader of YAML takes."""
    client = {"client-certificate-data": _base64(user.certificate), "client-key-data": _base64(user.key)}
    cluster = {"server": server, "certificate-authority-data": _base64(authority.pair.certificate)}
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": NAME, "cluster": cluster}],
        "users": [{"name": NAME, "user": client}],
        "contexts": [{"name": NAME, "context": {"cluster": NAME, "user": NAME}}],
        "current-context": NAME,
    }
    path.touch(mode=0o600)
    path.write_text(json.dumps(content, indent=1))
    return path


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
