"""The HTTP face: one file per resource, thin: body, use-case, body."""
