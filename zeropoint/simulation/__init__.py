"""The float model computing as its quantized layers will, and what is measured of that."""
