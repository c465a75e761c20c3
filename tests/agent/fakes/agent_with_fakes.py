"""The real agent with `fake_programs.py` in the place of the engine's programs."""

from __future__ import annotations

import sys
from pathlib import Path

from semipd_agent.__main__ import main
from semipd_agent.commands import Commands

PROGRAMS = str(Path(__file__).with_name("fake_programs.py"))


def fake(program: str) -> tuple[str, ...]:
    return (sys.executable, PROGRAMS, program)


COMMANDS = Commands(
    zygote=fake("zygote"),
    proxy=fake("proxy"),
    memory=fake("memory"),
    coordinator=fake("coordinator"),
    frontend=fake("frontend"),
)

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], COMMANDS))
