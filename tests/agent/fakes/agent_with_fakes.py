"""The real agent with `fake_programs.py` in the place of the engine's programs."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from fake_nvml import install_fake_nvml
from mps_daemon import FAKE

from semipd_agent.__main__ import main
from semipd_agent.commands import Commands

MPS_CONTROL = "TEST_MPS_CONTROL"  # the real binary, in the fake's place
PROGRAMS = str(Path(__file__).with_name("fake_programs.py"))


def fake(program: str) -> tuple[str, ...]:
    return (sys.executable, PROGRAMS, program)


COMMANDS = Commands(
    zygote=fake("zygote"),
    proxy=fake("proxy"),
    memory=fake("memory"),
    coordinator=fake("coordinator"),
    frontend=fake("frontend"),
    mps_control=(os.environ[MPS_CONTROL],) if MPS_CONTROL in os.environ else FAKE,
)

if __name__ == "__main__":
    install_fake_nvml()
    sys.exit(main(sys.argv[1:], COMMANDS))
