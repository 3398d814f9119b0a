"""The child program of a job, as the worker sees it: its process, folder, memory, and what it prints."""
