"""JSON and typed values, read strictly."""
