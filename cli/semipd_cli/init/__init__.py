"""What `semipd up` is while it serves: the init of the agent, and the cluster loop over its engines."""
