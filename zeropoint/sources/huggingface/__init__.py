"""Hugging Face folders as sources: the network is built from its config, its tensors stay in their files."""
