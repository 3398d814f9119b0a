"""What the kernel offers to hold a process in, a layer a module. Standard library alone; see `sandbox.policy`."""
