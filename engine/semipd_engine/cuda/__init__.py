"""What the engine asks of the CUDA driver itself: device memory that several processes share."""
