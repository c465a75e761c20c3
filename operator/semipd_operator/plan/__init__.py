"""What should be there for one service? Pure: objects in, manifests, status and reasons out. No client, no clock, no kopf."""
