"""Exported graphs: where layers are, what may be folded, pruned or scaled, and how a graph is edited."""
