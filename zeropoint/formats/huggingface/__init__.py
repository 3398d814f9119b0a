"""A Hugging Face folder in the compressed-tensors format."""
