"""The write-ahead journal: what the agent is about to do, on disk before it does it."""
