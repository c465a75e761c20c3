"""`kubectl semipd`: what a cluster's services do and why. Reads the API server and the agents behind it; decides nothing."""
