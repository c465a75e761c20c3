"""The agent in a pod: its wishes come from its own SemiPDPartition, whose status it writes."""
