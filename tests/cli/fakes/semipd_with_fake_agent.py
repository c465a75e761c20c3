"""`semipd` as it is, but for the agent that `up` starts."""

from __future__ import annotations

import sys
from pathlib import Path

from semipd_cli import __main__, up

AGENT = (sys.executable, str(Path(__file__).with_name("fake_agent.py")), "-m", "semipd_agent")
run = up.run
up.run = lambda args: run(args, agent_command=AGENT)
sys.exit(__main__.main())
