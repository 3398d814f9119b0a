"""Entry points: the program of a job with its modes, the Python API, and the steps that they share."""
