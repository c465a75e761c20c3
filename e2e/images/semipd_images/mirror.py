"""Where this machine gets its Debian packages from, as its own apt sources say. Source: sources.list(5)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from semipd_images.errors import ImagesError

APT = Path("/etc/apt")


def find_mirror(suite: str, apt: Path = APT) -> str:
    """The address of the first source that has `suite`. Raises: ImagesError."""
    for address, suites in _sources(apt):
        if suite in suites:
            return address
    raise ImagesError(f"no source in {apt} has {suite}")


def _sources(apt: Path) -> Iterator[tuple[str, list[str]]]:
    for path in [apt / "sources.list", *sorted((apt / "sources.list.d").glob("*.list"))]:
        if path.is_file():
            yield from read_lines(path.read_text())
    for path in sorted((apt / "sources.list.d").glob("*.sources")):
        yield from read_stanzas(path.read_text())


def read_lines(text: str) -> Iterator[tuple[str, list[str]]]:
    """The addresses and suites of `deb [options] address suite component…`."""
    for line in _without_comments(text):
        found = re.match(r"deb\s+(?:\[[^]]*\]\s+)?(\S+)\s+(\S+)", line)
        if found:
            yield found[1], [found[2]]


def read_stanzas(text: str) -> Iterator[tuple[str, list[str]]]:
    """The addresses and suites of deb822 stanzas: `Types`, `URIs`, `Suites`."""
    for stanza in re.split(r"\n\s*\n", "\n".join(_without_comments(text))):
        pairs = re.findall(r"^(\S+):((?:.*)(?:\n[ \t].*)*)", stanza, re.MULTILINE)
        fields = {name.lower(): value.split() for name, value in pairs}
        if "deb" in fields.get("types", []) and fields.get("enabled", ["yes"]) == ["yes"]:
            for address in fields.get("uris", []):
                yield address, fields.get("suites", [])


def _without_comments(text: str) -> Iterable[str]:
    return (line for line in text.splitlines() if not line.startswith("#"))
