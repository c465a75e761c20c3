"""The agent: starts and supervises the processes of its engines, applies partitions, reports windows."""
