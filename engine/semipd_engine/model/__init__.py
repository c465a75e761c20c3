"""The model: where its files come from, how its weights lie in memory, and how a step of it is computed."""
