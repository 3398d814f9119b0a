"""Where work begins: a job's program and its modes, the Python face, and what they share."""
