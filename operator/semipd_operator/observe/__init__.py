"""What is there? Informers over the API server, and scrapes of the agents."""
