"""The output of a child: checked, stored, listed in a manifest, and kept as checkpoints."""
