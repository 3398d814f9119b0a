"""Exported graphs: find layers, fold, prune and scale them, and edit the program."""
