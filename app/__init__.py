"""The service: what a job is, where bytes and rows live, and the HTTP face. Never loads torch."""

import zeropoint

VERSION = zeropoint.__version__
