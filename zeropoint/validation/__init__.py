"""Validation of the saved files: checks, the comparison with the float model, and the report."""
