"""What the machine computes with."""
