"""Folders of Hugging Face: unpacked, checked file by file, and written afresh as one tar."""
