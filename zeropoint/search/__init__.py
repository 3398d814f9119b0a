"""Decisions by measurement: which algorithms stay, and which layers a target leaves in float."""
