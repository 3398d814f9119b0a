"""Files of named tensors: safetensors, `.npz` and `.npy`, read as streams."""
