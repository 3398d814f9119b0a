"""Zeropoint's quantization library: tensors and programs in, quantized artifacts and a report out.

This file re-exports nothing: the API process reads `quantization.recipe` and must never load torch on the way.
"""
