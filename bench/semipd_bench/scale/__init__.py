"""The operator over a fleet that is simulated around a real API server: 1,000 services, 5,000 agents."""
