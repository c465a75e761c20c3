"""Many containers' logs as one stream in order of time."""
