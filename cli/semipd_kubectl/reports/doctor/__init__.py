"""`doctor`: each check is a pure function from what was found to a verdict with what to do about it."""
