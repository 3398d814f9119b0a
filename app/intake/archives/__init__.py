"""Zip and tar, read as streams within limits, and a zip writer."""
