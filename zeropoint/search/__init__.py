"""Decisions by measurement: which algorithms are kept, and which layers a target leaves in float."""
