"""`model.onnx`: the quantized program for ONNX runtimes."""
