"""Hugging Face folders: unpacked, checked file by file, and rewritten as one tar."""
