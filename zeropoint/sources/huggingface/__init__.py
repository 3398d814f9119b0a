"""Hugging Face folders as a source: the network from its config, its tensors left in their files."""
