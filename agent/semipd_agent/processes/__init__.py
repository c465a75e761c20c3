"""Processes: who they are, starting them, seeing them end, ending them."""
