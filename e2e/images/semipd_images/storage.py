"""buildah with a storage of its own, so that nothing is shared with other users of the machine."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semipd_images.errors import ImagesError

LOG_TAIL_LINES = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    directory: Path

    @property
    def log(self) -> Path:
        return self.directory / "build.log"

    @property
    def _temporary(self) -> Path:
        return self.directory / "tmp"  # whole layers while an archive is written

    def prepare(self) -> None:
        """Clears what an interrupted build has left."""
        self._temporary.mkdir(parents=True, exist_ok=True)
        self.log.write_text("")
        self.buildah("rm", "--all")

    def buildah(self, *arguments: str) -> None:
        """Raises: ImagesError."""
        self.run(self._command(arguments), self._environment())

    def ask(self, *arguments: str) -> str:
        """What buildah prints to stdout. Raises: ImagesError."""
        with self.log.open("a") as log:
            done = subprocess.run(
                self._command(arguments),
                env=self._environment(),
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                check=False,
            )
        self._check(done, "buildah")
        return done.stdout.strip()

    def run(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Raises: ImagesError with the end of the log."""
        with self.log.open("a") as log:
            log.write(f"$ {' '.join(command)}\n")
            log.flush()
            done = subprocess.run(command, env=environment, stdout=log, stderr=log, check=False)
        self._check(done, command[0])

    def _command(self, arguments: Sequence[str]) -> list[str]:
        places = ["--root", str(self.directory / "root"), "--runroot", str(self.directory / "run")]
        return ["buildah", *places, "--storage-driver", "overlay", *arguments]

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "BUILDAH_ISOLATION": "chroot", "TMPDIR": str(self._temporary)}

    def _check(self, done: subprocess.CompletedProcess[Any], program: str) -> None:
        if done.returncode != 0:
            lines = self.log.read_text().splitlines()[-LOG_TAIL_LINES:]
            raise ImagesError("\n".join([f"{program} failed; the end of {self.log}:", *lines]))

    def references(self) -> list[str]:
        return self.ask("images", "--format", "{{.Name}}:{{.Tag}}").split()

    def remove_others(self, reference: str) -> None:
        """Removes what bears the name of `reference` with another tag, and the layers that only it had."""
        name, _, _ = reference.rpartition(":")
        for other in self.references():
            if other.startswith(f"{name}:") and other != reference:
                self.buildah("rmi", other)
        self.buildah("rmi", "--prune")
