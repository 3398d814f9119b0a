"""Layers on their way to integers: which ones, with which settings, and what quantization made of them."""
