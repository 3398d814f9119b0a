"""Validation of what was saved: checks, the comparison with the float model, and the report."""
