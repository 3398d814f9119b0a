"""Zip and tar, read as streams within caps, and a zip writer."""
