"""What is there: objects of the API server and windows of the agents, read into values."""
