"""Simulate quantized layers in the float model, and measure their effect."""
