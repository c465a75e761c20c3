"""A certificate authority of one cluster, on the openssl program."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from semipd_cluster.errors import ClusterError

EXTENSIONS = """\
[req]
distinguished_name = subject
[subject]
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
[leaf]
basicConstraints = CA:FALSE
extendedKeyUsage = clientAuth, serverAuth
"""
NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
VALID_DAYS = "365"


@dataclass(frozen=True, slots=True)
class KeyPair:
    certificate: Path
    key: Path


class Authority:
    """Signs certificates that serve a server and a client alike."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self._configuration = directory / "openssl.cnf"
        self._configuration.write_text(EXTENSIONS)
        self.pair = self._create("ca", "/CN=semipd-cluster", ["-extensions", "authority"])

    def issue(self, name: str, subject: str, names: Sequence[str] = ()) -> KeyPair:
        """`subject` as "/O=group/CN=user"; `names` as "IP:127.0.0.1" or "DNS:localhost"."""
        options = ["-extensions", "leaf", "-CA", str(self.pair.certificate), "-CAkey", str(self.pair.key)]
        if names:
            options += ["-addext", "subjectAltName=" + ",".join(names)]
        return self._create(name, subject, options)

    def _create(self, name: str, subject: str, options: Sequence[str]) -> KeyPair:
        pair = KeyPair(self.directory / f"{name}.crt", self.directory / f"{name}.key")
        files = ["-config", str(self._configuration), "-out", str(pair.certificate), "-keyout", str(pair.key)]
        command = [
            "openssl",
            "req",
            "-x509",
            *NEW_KEY,
            "-days",
            VALID_DAYS,
            "-subj",
            subject,
            *files,
            *options,
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise ClusterError(f"openssl req for {name} failed:\n{done.stderr}")
        return pair
