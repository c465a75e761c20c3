"""Where wishes come from: HTTP and a file; a Kubernetes object takes the same door."""
