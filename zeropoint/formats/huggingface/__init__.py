"""Hugging Face folders in the compressed-tensors format."""
