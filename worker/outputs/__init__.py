"""What the child left behind: checked, stored, listed in a manifest, and kept as checkpoints."""
