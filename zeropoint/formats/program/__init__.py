"""`model.pt2`: the exported program with Q/DQ around its quantized layers."""
