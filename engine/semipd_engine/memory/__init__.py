"""The memory server: owns an engine's weights and KV cache, hands them out as file descriptors, and outlives lanes."""
