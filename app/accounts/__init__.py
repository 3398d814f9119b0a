"""Projects, their keys, who calls, and what each call may see: everything about accounts but HTTP."""
