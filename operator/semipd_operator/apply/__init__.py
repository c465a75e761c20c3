"""Writes to the API server: server-side apply, one field manager for children and one for status."""
