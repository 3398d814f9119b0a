"""The kernel's means to confine a process, one layer a module. Standard library alone; see `sandbox.policy`."""
