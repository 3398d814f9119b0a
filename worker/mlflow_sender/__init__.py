"""Tells MLflow of jobs, in a program of its own: a run for each, opened when work begins and closed however it ends."""
