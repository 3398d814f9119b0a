"""Uploads that come in parts, or that the service fetches itself: rows, parts, and the check when all is there."""
