"""Confines every process that reads an upload: the kernel's layers, and the program that applies them."""
