"""Programs of torch.export (`.pt2`): checked against a schema without torch, and rewritten."""
