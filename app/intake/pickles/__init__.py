"""Pickles of torch.save, read by a machine of our own: it knows few opcodes, imports nothing and calls nothing."""
