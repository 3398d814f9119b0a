"""Programs of torch.export (`.pt2`): read against a schema without torch, and written afresh."""
