"""Safetensors files: written as streams, read in blocks, mapped, and kept as checkpoints."""
