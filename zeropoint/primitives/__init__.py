"""The arithmetic of quantization: quantization parameters, rounding, packing."""
