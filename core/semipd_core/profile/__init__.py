"""What steps take on one device with one model: the file, what to measure next, the fit, and how the loops start from it."""
