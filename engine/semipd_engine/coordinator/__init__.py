"""The coordinator process: moves messages between front end, agent and lanes; `semipd_core.engine` decides."""
