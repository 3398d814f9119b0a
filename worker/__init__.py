"""The worker process: claims jobs, runs each in a child program of its own, records how it ended. Never loads torch."""
