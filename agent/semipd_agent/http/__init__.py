"""The agent's HTTP."""
