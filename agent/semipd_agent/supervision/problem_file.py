"""Why processes of an engine end again and again, in their own words: a file that they leave and whoever succeeds makes void."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(slots=True)
class ProblemFile:
    """`said` is what the file held when it was last read, None before and once the problem is over."""

    path: Path
    said: str | None = None

    def read(self) -> None:
        """A file that is gone leaves what was read."""
        try:
            self.said = self.path.read_text(errors="replace")
        except OSError:
            return

    def clear(self) -> None:
        """The problem is over. Raises: OSError."""
        if self.said is not None:
            self.path.unlink(missing_ok=True)
            self.said = None
