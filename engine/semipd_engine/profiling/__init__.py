"""Measures real lanes by synthetic plans: this process stands where the coordinator stands. Imports no torch."""
