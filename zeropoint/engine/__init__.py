"""The engine: calibrate, quantize and search according to a plan, for any source and any formats."""
