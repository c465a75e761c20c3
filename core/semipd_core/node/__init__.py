"""The node loop without I/O: inside the cluster loop's band an agent answers bursts by itself."""
