"""`results.json`: what became of each part, whole at any moment. Raw numbers and logs lie beside it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from gpu_bench.parts import Part, State


class Results:
    """Of one folder. Raises: ValueError where another program's `results.json` lies there."""

    def __init__(self, out: Path) -> None:
        self._path = out / "results.json"
        self.logs = out / "logs"
        self._parts: dict[str, dict[str, Any]] = self._read()

    def _read(self) -> dict[str, dict[str, Any]]:
        if not self._path.exists():
            return {}
        try:
            parts = json.loads(self._path.read_text())["parts"]
            for name in parts:
                State(parts[name]["state"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"--out: {self._path} is not of this program ({error!r}); take an empty folder"
            ) from None
        return dict(parts)

    def states(self) -> dict[str, State]:
        return {name: State(part["state"]) for name, part in self._parts.items()}

    def next_log(self, part: Part) -> Path:
        """One file per attempt, never overwritten: the log of a failure is a result."""
        self.logs.mkdir(parents=True, exist_ok=True)
        return self.logs / f"{part.name}-{len(self._attempts(part.name)) + 1}.log"

    def note(self, part: Part, state: State, reason: str, attempt: dict[str, Any]) -> None:
        attempts = [*self._attempts(part.name), {**attempt, "state": state.value, "reason": reason}]
        self._parts[part.name] = {"state": state.value, "reason": reason, "attempts": attempts}
        beside = self._path.with_suffix(".tmp")
        with beside.open("w", encoding="utf-8") as file:
            json.dump({"parts": self._parts}, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self._path)

    def describe(self, part: Part) -> str:
        found = self._parts.get(part.name)
        if found is None:
            return f"{part.name}: {State.NOT_RUN} - {part.answers}"
        return f"{part.name}: {found['state']}" + (f" ({found['reason']})" if found["reason"] else "")

    def _attempts(self, name: str) -> list[dict[str, Any]]:
        return list(self._parts.get(name, {}).get("attempts", []))
