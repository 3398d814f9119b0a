"""Saved results, opened again: by this process, by a second one, and by the software each format is for."""
