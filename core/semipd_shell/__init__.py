"""What every process shares on its way to the outside: logging, settings, channels, signals, liveness of the agent."""
