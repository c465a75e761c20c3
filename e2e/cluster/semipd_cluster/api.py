"""Asks the API server what starting a cluster must know; everything else goes through kubectl."""

from __future__ import annotations

import json
import ssl
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from semipd_cluster.certificates import Authority, KeyPair
from semipd_cluster.errors import ClusterError

TIMEOUT_S = 5.0


class Api:
    def __init__(self, server: str, authority: Authority, user: KeyPair) -> None:
        self.server = server
        context = ssl.create_default_context(cafile=str(authority.pair.certificate))
        context.load_cert_chain(user.certificate, user.key)
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )

    def get(self, path: str) -> bytes | None:
        """The body of an answer of 200; None for every other answer, and for none."""
        try:
            with self._opener.open(self.server + path, timeout=TIMEOUT_S) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            error.close()
        except OSError:
            pass
        return None

    def exists(self, path: str) -> bool:
        return self.get(path) is not None

    def get_object(self, path: str) -> dict[str, Any] | None:
        body = self.get(path)
        return None if body is None else json.loads(body)


def kubectl(programs: Path, kubeconfig: Path, *arguments: str, stdin: str | None = None) -> str:
    """What kubectl prints. Raises: ClusterError."""
    command = [str(programs / "kubectl"), f"--kubeconfig={kubeconfig}", *arguments]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ClusterError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout
