"""What every source becomes: a float model whose layers have names and can be hooked."""
