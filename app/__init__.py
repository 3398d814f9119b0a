"""The service: what a job is, where bytes and rows live, and the HTTP face. Never loads torch."""

VERSION = "0.1.0"
