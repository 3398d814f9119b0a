"""The engine: a plan is calibrated, quantized and searched, whatever the source and the formats."""
