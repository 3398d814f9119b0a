"""Layers and their quantization: which are quantized, with which settings, and the quantized layers."""
